"""The Streamlit explorer."""

from pellucid.explore.app.serve import explore

__all__ = ["explore"]
