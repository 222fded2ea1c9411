"""Plotly figures of report and explorer."""
