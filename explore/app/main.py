"""The explorer's entry page, which `server.py` serves."""

from __future__ import annotations

import streamlit as st

from pellucid.cohort.errors import UserError
from pellucid.cohort.study import load_study
from pellucid.explore.app.cache import findings_of
from pellucid.explore.app.screens import audit_page, clusters_page, map_page, source_page
from pellucid.explore.app.served_study import served_study
from pellucid.explore.study_findings import study_title
from pellucid.explore.wording import for_markdown


def main() -> None:
    """Read the study, show the requested page."""
    st.set_page_config(page_title="Pellucid", page_icon="🔎", layout="wide")
    served = served_study()
    if served is None:  # Streamlit started by hand listens on every interface and checks no visitor
        st.error("Start the explorer with `pellucid explore STUDY`: only then is it protected from other computers.")
        st.stop()
    try:
        study = load_study(served.path, served.overrides)
        findings = findings_of(study)
    except UserError as error:
        st.error(for_markdown(str(error)))
        st.stop()
    st.html(_STYLE)
    pages = [
        st.Page(
            lambda: map_page.show(findings), title="Map", icon=":material/scatter_plot:", url_path="map", default=True
        ),
        st.Page(
            lambda: clusters_page.show(findings), title="Clusters", icon=":material/grid_view:", url_path="clusters"
        ),
        st.Page(lambda: audit_page.show(findings), title="Audit", icon=":material/balance:", url_path="audit"),
        st.Page(lambda: source_page.show(findings), title="Source", icon=":material/photo_camera:", url_path="source"),
    ]
    page = st.navigation(pages)
    with st.sidebar:
        st.caption(f"**{for_markdown(study_title(study))}**")
        patients = findings.images["patient"].nunique()
        st.caption(f"{patients:,} patients, {len(findings.images):,} images")
        st.caption("Patients are shown by research id. Nothing leaves this computer.")
        if findings.outdated:
            st.warning(f"These results are out of date. {for_markdown(findings.outdated)}")
    try:
        page.run()
    except UserError as error:  # a file was damaged after the findings were read
        st.error(for_markdown(str(error)))


_STYLE = """<style>
.block-container {padding-top: 2.6rem; padding-bottom: 3rem; max-width: 1500px;}
h1 {font-size: 1.9rem !important; padding-bottom: .3rem !important;}
[data-testid="stImage"] img {border-radius: 4px;}
[data-testid="stMetricValue"] {font-size: 1.5rem;}
</style>"""

if __name__ == "__main__":
    main()
