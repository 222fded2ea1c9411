"""Findings as titled sections, tables and verdict cards."""
