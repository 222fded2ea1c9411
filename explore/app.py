"""The explorer's front page: `streamlit run explore/app.py -- STUDY_YAML [key=value …]`, started by `pellucid explore`."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

from cohort.errors import UserError
from cohort.study import load_study
from explore.gather import study_title
from explore.serve import is_loopback, refusal
from explore.views import audit, cluster_list, image_map, source
from explore.views.loading import findings_of


def main(arguments: list[str]) -> None:
    """Check where we listen, read the study, show the page that was asked for."""
    st.set_page_config(page_title="Pellucid", page_icon="🔎", layout="wide")
    address = st.get_option("server.address")
    if not is_loopback(address):  # whoever starts Streamlit by hand gets its default: every interface
        st.error(f"{refusal(address)} (`pellucid explore STUDY` does so).")
        st.stop()
    if not arguments:
        st.error("Which study? Start the explorer with `pellucid explore STUDY_YAML`.")
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
            lambda: image_map.show(findings), title="Map", icon=":material/scatter_plot:", url_path="map", default=True
        ),
        st.Page(
            lambda: cluster_list.show(findings), title="Clusters", icon=":material/grid_view:", url_path="clusters"
        ),
        st.Page(lambda: audit.show(findings), title="Audit", icon=":material/balance:", url_path="audit"),
        st.Page(lambda: source.show(findings), title="Source", icon=":material/photo_camera:", url_path="source"),
    ]
    page = st.navigation(pages)
    with st.sidebar:
        st.caption(f"**{study_title(study)}**")
        patients = findings.images["patient"].nunique()
        st.caption(f"{len(findings.images):,} images of {patients:,} patients")
        st.caption("Patients are shown by research id. Nothing leaves this computer.")
        if findings.outdated:
            st.warning(f"What is shown is out of date. {findings.outdated}")
    page.run()


_STYLE = """<style>
.block-container {padding-top: 2.6rem; padding-bottom: 3rem; max-width: 1500px;}
h1 {font-size: 1.9rem !important; padding-bottom: .3rem !important;}
[data-testid="stImage"] img {border-radius: 4px;}
[data-testid="stMetricValue"] {font-size: 1.5rem;}
</style>"""

if __name__ == "__main__":
    main(sys.argv[1:])
