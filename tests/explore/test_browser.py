"""Report and explorer in a real browser: what is visible, what a click does, and that no network address is requested.

Screenshots go to $PELLUCID_SCREENSHOTS, or to a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from pellucid.explore.app.serve import command, environment

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt install chromium)"),
]
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
WAIT_MS = 60_000
ODD_NAME = "![p](evil.example) [l](x) **b** :red[r] $f$ <img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("PELLUCID_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that notes every request which would leave this machine, and every error of a script."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    opened = context.new_page()
    opened.outside, opened.faults = [], []

    def note(request: Any) -> None:
        address = urlparse(request.url)
        if address.scheme not in {"file", "data", "blob"} and address.hostname not in {"127.0.0.1", "localhost"}:
            opened.outside.append(request.url)

    opened.on("request", note)
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    yield opened
    context.close()


@dataclass
class Explorer:
    """A running explorer: its address, the link of the start, and the cookie that another use of the link gave."""

    address: str
    link: str
    cookie: dict[str, Any]
    process: subprocess.Popen[str]

    def next_link(self) -> str:
        """The link that the terminal shows after one was used."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()[-1]


def _serve(study: Path) -> Iterator[Explorer]:
    process = subprocess.Popen(
        command(study, 0),
        env={**environment(), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(link) as answer:
            name, _, rest = answer.headers["Set-Cookie"].partition("=")
        address = link.partition("/?")[0]
        cookie = {"name": name, "value": rest.partition(";")[0], "url": address, "httpOnly": True}
        yield Explorer(address, link, cookie, process)
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def explorer(whole: Any) -> Iterator[Explorer]:
    yield from _serve(whole.study.path)


@pytest.fixture(scope="module")
def hostile_explorer(hostile: Any) -> Iterator[Explorer]:
    yield from _serve(hostile.study.path)


@pytest.fixture(scope="module")
def oddly_named_explorer(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    folder = tmp_path_factory.mktemp("odd") / ODD_NAME
    shutil.copytree(whole.study.path.parent, folder)
    yield from _serve(folder / whole.study.path.name)


def _open(page: Any, explorer: Explorer, heading: str, path: str = "") -> None:
    page.context.add_cookies([explorer.cookie])
    page.goto(f"{explorer.address}/{path}")
    page.get_by_role("heading", name=heading).wait_for(timeout=WAIT_MS)
    _settled(page)


def _settled(page: Any) -> None:
    page.wait_for_timeout(400)
    page.wait_for_function("!document.querySelector('[data-testid=\"stStatusWidget\"]')", timeout=WAIT_MS)
    page.wait_for_function("!document.querySelector('[data-testid=\"stSkeleton\"]')", timeout=WAIT_MS)
    page.wait_for_timeout(400)


def _clean(page: Any) -> None:
    assert page.outside == []
    assert page.faults == []
    assert page.locator('[data-testid="stException"]').count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")  # nothing runs off the side


def test_report(page: Any, whole: Any, screenshots: Path) -> None:
    page.goto((whole.report().path / "report.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.plotly-graph-div .main-svg').length > 8", timeout=WAIT_MS)
    page.wait_for_timeout(500)
    assert page.get_by_text("Possible confounding: device").is_visible()
    assert (
        page.locator(".verdict")
        .first.inner_text()
        .startswith("Explained by the acquisition factor: diagnosis and device")
    )
    assert page.locator(".pictures img").count() >= 3
    assert page.locator("h3#source-unusual + p + .rows figure").count() == 12
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    page.screenshot(path=screenshots / "report-top.png")
    page.screenshot(path=screenshots / "report.png", full_page=True)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    _clean(page)


def test_map_shows_an_image_and_its_neighbours(page: Any, explorer: Explorer, screenshots: Path) -> None:
    _open(page, explorer, "Map of the images")
    page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for(timeout=WAIT_MS)
    assert page.get_by_text("Click a dot to see the image").is_visible()
    dots = page.locator(".js-plotly-plot .scatterlayer .point")
    box = dots.nth(dots.count() // 2).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(200)
    page.mouse.down()
    page.mouse.up()
    page.get_by_role("heading", name="Most similar images of other patients").wait_for(timeout=WAIT_MS)
    _settled(page)
    heading = page.get_by_role("heading", name="Image").first.inner_text()
    own = heading.rpartition(" ")[2]
    shown = page.locator('button[data-testid="stBaseButton-tertiary"]').all_inner_texts()
    assert len(shown) == 12
    assert not any(own in name for name in shown)
    assert len({name.rpartition(" ")[2] for name in shown}) == 12
    page.set_viewport_size({"width": 1440, "height": 1500})
    _settled(page)
    page.screenshot(path=screenshots / "explorer-map.png")
    page.locator('button[data-testid="stBaseButton-tertiary"]').first.click()  # on to the neighbour
    page.get_by_role("heading", name=shown[0].replace("image", "Image")).wait_for(timeout=WAIT_MS)
    _settled(page)
    _clean(page)


def test_map_by_research_id_and_colour(page: Any, explorer: Explorer, screenshots: Path) -> None:
    _open(page, explorer, "Map of the images")
    page.get_by_label("Find an image").fill("of P0003")
    page.get_by_role("option").first.click()
    page.get_by_role("heading", name="of P0003").wait_for(timeout=WAIT_MS)
    page.get_by_label("Colour by").click()
    page.get_by_role("option", name="device (acquisition)").click()
    _settled(page)
    page.locator(".js-plotly-plot .legendtext").first.wait_for(timeout=WAIT_MS)
    assert page.get_by_role("heading", name="of P0003").is_visible()
    page.screenshot(path=screenshots / "explorer-map-device.png")
    page.get_by_label("Backbone").click()
    page.get_by_role("option", name="plain pixels (baseline)").click()
    page.get_by_text("There is no map for this backbone yet").wait_for(timeout=WAIT_MS)
    _settled(page)
    _clean(page)


@pytest.mark.parametrize(
    ("path", "heading", "visible"),
    [
        ("clusters", "Clusters of similar images", "We explored image phenotype clusters"),
        ("audit", "What this model has learned", "Possible confounding: device"),
        ("source", "Where the images come from", "Who was imaged with what"),
    ],
)
def test_pages(page: Any, explorer: Explorer, screenshots: Path, path: str, heading: str, visible: str) -> None:
    page.set_viewport_size({"width": 1440, "height": 2200})
    _open(page, explorer, heading, path)
    assert page.get_by_text(visible).first.is_visible()
    if path == "source":
        assert page.get_by_text("Unusual images").count() == 1
    if path != "clusters":
        page.locator(".js-plotly-plot .main-svg").nth(4).wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(500)
    page.screenshot(path=screenshots / f"explorer-{path}.png")
    _clean(page)


@pytest.mark.slow
def test_hostile_names_request_nothing_from_the_network(page: Any, hostile_explorer: Explorer) -> None:
    headings = {
        "": "Map of the images",
        "clusters": "Clusters of similar images",
        "source": "Where the images come from",
    }
    for path, heading in headings.items():
        _open(page, hostile_explorer, heading, path)
        assert page.locator("a[href*='evil.example'], img[src*='evil.example']").count() == 0
        _clean(page)


def test_the_link_leaves_the_address_and_works_once(page: Any, browser: Any, explorer: Explorer) -> None:
    link = explorer.next_link()
    page.goto(link)
    page.get_by_role("heading", name="Map of the images").wait_for(timeout=WAIT_MS)
    assert page.url == f"{explorer.address}/"
    assert "pellucid" not in page.evaluate("document.cookie")  # HttpOnly
    kept = [cookie for cookie in page.context.cookies() if cookie["name"] == explorer.cookie["name"]]
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in kept] == [(True, "Strict")]
    page.go_back()
    assert "token" not in page.url
    other = browser.new_context().new_page()
    assert other.goto(link).status == 403
    assert other.goto(explorer.address).status == 403
    assert other.get_by_text("opens only with the link").is_visible()
    other.context.close()
    _clean(page)


def test_another_page_shows_nothing_of_the_explorer(page: Any, explorer: Explorer) -> None:
    _open(page, explorer, "Map of the images")
    page.route("http://evil.example/**", lambda route: route.fulfill(content_type="text/html", body="<p>evil</p>"))
    page.goto("http://evil.example/")
    script = """async (address) => {
        const fetched = await fetch(address + "/_stcore/health").then(() => "read", () => "refused");
        const socket = await new Promise((done) => {
            const tried = new WebSocket(address.replace("http", "ws") + "/_stcore/stream");
            tried.onopen = () => done("read");
            tried.onerror = () => done("refused");
        });
        const picture = await new Promise((done) => {
            const image = new Image();
            image.onload = () => done("read");
            image.onerror = () => done("refused");
            image.src = address + "/favicon.png";
        });
        const frame = document.createElement("iframe");
        const framed = new Promise((done) => { frame.onload = done; });
        frame.src = address;
        document.body.append(frame);
        await framed;
        return [fetched, socket, picture];
    }"""
    assert page.evaluate(script, explorer.address) == ["refused"] * 3
    assert page.frames[-1].url.startswith("chrome-error:")


def test_a_foreign_name_for_this_machine_shows_nothing(browser: Any, explorer: Explorer) -> None:
    """DNS rebinding: the browser takes evil.example for 127.0.0.1."""
    rebound = explorer.address.replace("127.0.0.1", "evil.example")
    flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    chromium = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    opened = chromium.new_page()
    opened.context.add_cookies([{**explorer.cookie, "url": rebound}])
    answers = [opened.goto(f"{rebound}/{path}").status for path in ("media/x.jpg", "_stcore/host-config", "")]
    assert answers == [403] * 3
    assert opened.get_by_text("answers only under a name of this computer").is_visible()
    chromium.close()


def test_a_folder_name_is_shown_as_it_is(page: Any, oddly_named_explorer: Explorer) -> None:
    _open(page, oddly_named_explorer, "Map of the images")
    sidebar = page.locator('[data-testid="stSidebar"]')
    assert ODD_NAME in sidebar.inner_text().replace("\u2060", "")
    assert sidebar.locator("a[href*='evil'], img[src='x'], img[src*='evil'], .katex").count() == 0
    _clean(page)
