"""The explorer's pages without their server, and the names of folders in its messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pellucid.explore.app import serve
from pellucid.explore.app.served_study import ServedStudy, serve_study
from pellucid.explore.app.server_options import THEME
from pellucid.explore.wording import for_markdown
from pellucid.pretrain.monitor import PALETTE

PAGES = serve.SERVER.with_name("main.py")
ODD_NAME = "![p](evil.example) **b** :red[r] $f$ <img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def _no_study_left() -> Iterator[None]:
    yield
    serve_study(None)


def test_pages_that_streamlit_serves_without_the_gate_show_nothing() -> None:
    page = AppTest.from_file(str(PAGES), default_timeout=300).run()
    assert [error.value for error in page.error] == [
        "Start the explorer with `pellucid explore STUDY`: only then is it protected from other computers."
    ]
    assert len(page.title) == 0


def test_a_folder_name_in_a_message_is_no_markup(tmp_path: Path) -> None:
    study = tmp_path / ODD_NAME / "study.yaml"
    serve_study(ServedStudy(study))
    (error,) = AppTest.from_file(str(PAGES), default_timeout=300).run().error
    assert for_markdown(str(study)) in error.value
    assert ODD_NAME not in error.value


def test_the_theme_has_the_colours_of_the_report() -> None:
    assert (THEME["primaryColor"], THEME["textColor"]) == (PALETTE["blue"], PALETTE["ink"])
