"""Presentation: clusters, figures, the report and the Streamlit explorer."""
