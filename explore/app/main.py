"""The explorer's entry page: `streamlit run explore/app/main.py -- STUDY_YAML [key=value …]`, started by `pellucid
explore`."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

from pellucid.cohort.errors import UserError
from pellucid.cohort.study import load_study
from pellucid.explore.app.cache import findings_of
from pellucid.explore.app.screens import audit_page, clusters_page, map_page, source_page
from pellucid.explore.app.serve import is_loopback, refusal
from pellucid.explore.study_findings import study_title


def main(arguments: list[str]) -> None:
    """Check the server's address, read the study, show the requested page."""
    st.set_page_config(page_title="Pellucid", page_icon="🔎", layout="wide")
    address = st.get_option("server.address")
    if not is_loopback(address):  # Streamlit started by hand listens on every interface by default
        st.error(f"{refusal(address)} (`pellucid explore STUDY` does so).")
        st.stop()
    if not arguments:
        st.error("No study was given. Start the explorer with `pellucid explore STUDY_YAML`.")
        st.stop()
    try:
        study = load_study(Path(arguments[0]), arguments[1:])
        findings = findings_of(study)
    except UserError as error:
        st.error(str(error))
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
        st.caption(f"**{study_title(study)}**")
        patients = findings.images["patient"].nunique()
        st.caption(f"{patients:,} patients, {len(findings.images):,} images")
        st.caption("Patients are shown by research id. Nothing leaves this computer.")
        if findings.outdated:
            st.warning(f"These results are out of date. {findings.outdated}")
    page.run()


_STYLE = """<style>
.block-container {padding-top: 2.6rem; padding-bottom: 3rem; max-width: 1500px;}
h1 {font-size: 1.9rem !important; padding-bottom: .3rem !important;}
[data-testid="stImage"] img {border-radius: 4px;}
[data-testid="stMetricValue"] {font-size: 1.5rem;}
</style>"""

if __name__ == "__main__":
    main(sys.argv[1:])
