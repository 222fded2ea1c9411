"""For the eyes: clusters, figures, the report and the Streamlit explorer."""
