"""The page at /, in a browser."""

from __future__ import annotations

import base64
import io
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.golden.test_artifacts import ARTIFACTS
from tests.serving.clients import TOKEN
from tests.serving.running import PLAIN, running

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")

PICTURES = Path("tame_deploy/data/pictures").absolute()
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

DROP = """(files) => {
    const carried = new DataTransfer();
    for (const [name, data] of files) {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        carried.items.add(new File([bytes], name));
    }
    const init = { dataTransfer: carried, clipboardData: carried, bubbles: true, cancelable: true };
    const event = %s;
    document.querySelector("footer").dispatchEvent(event);
}"""
DROPPED = DROP % 'new DragEvent("drop", init)'
PASTED = DROP % 'new ClipboardEvent("paste", init)'
#: Every control that can be reached, without a name for a screen reader.
NAMELESS = """() => [...document.querySelectorAll("button, input, select, canvas")]
    .filter((one) => one.checkVisibility())
    .filter((one) => !one.ariaLabel && !one.labels?.[0]?.innerText && !one.innerText)
    .map((one) => one.outerHTML)"""


class Opened:
    """The page in a browser, and what it asked for and complained about."""

    def __init__(self, page, address):
        self.page, self.complaints, self.hosts = page, [], set()
        page.set_default_timeout(10_000)
        page.on("console", lambda told: self._keep(told.type, told.text))
        page.on("pageerror", lambda error: self._keep("error", str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.goto(f"{address}/")

    def _keep(self, kind, text):
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _note(self, url):
        if not url.startswith(("blob:", "data:")):
            self.hosts.add(url.split("/")[2])

    def sample(self, name="ring-1"):
        self.page.get_by_role("button", name=f"Sample {name}").click()
        self.shows(name.partition("-")[0])

    def shows(self, verdict):
        self.page.locator("#verdict", has_text=verdict).wait_for()

    def drop(self, *paths, how=DROPPED):
        files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
        self.page.evaluate(how, files)

    def settles(self, name):
        """Wait until the map of a class is drawn."""
        self.page.locator("#spoken", has_text=f"speaks for {name} ").wait_for()

    @property
    def pixels(self):
        return self.page.evaluate("() => document.getElementById('picture').toDataURL()")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def opened(browser, address, **options):
    context = browser.new_context(**options)
    try:
        yield Opened(context.new_page(), address)
    finally:
        context.close()


@pytest.fixture
def here(browser, server):
    with opened(browser, server.http) as one:
        yield one


def test_a_sample_is_explained_without_a_complaint_or_a_request_elsewhere(here, server):
    here.sample("ring-1")
    assert here.page.locator("#classes label").count() == 6
    assert "ring-1.png: ring 8" in here.page.locator("#picture").get_attribute("aria-label")
    assert "ring" in here.page.get_by_role("status").inner_text()
    assert here.page.locator("#ms-infer").inner_text().endswith(" ms")
    assert here.complaints == []
    assert here.hosts == {server.http.rpartition("/")[2]}


def test_a_chosen_file_is_explained(here):
    here.page.get_by_label("Choose files").set_input_files(PICTURES / "star-2.png")
    here.shows("star")


@pytest.mark.parametrize("how", [DROPPED, PASTED], ids=["dropped", "pasted"])
def test_files_that_are_dropped_or_pasted_are_explained(here, how):
    here.drop(PICTURES / "cross-1.png", PICTURES / "circle-1.png", how=how)
    here.shows("cross")
    here.page.get_by_role("button", name="circle-1.png: circle").click()
    here.shows("circle")


def test_another_class_has_another_map_which_is_fetched_once(here):
    here.sample()
    urls = []
    here.page.on("request", lambda request: urls.append(request.url.rpartition("/")[2]))
    first = here.pixels
    for name in ("star", "ring", "star"):
        here.page.locator("#classes label", has_text=name).click()
        here.settles(name)
        assert (here.pixels == first) == (name == "ring")
    assert [url for url in urls if url.startswith("explain")] == [
        "explain?maps=png&top=6&class_id=3"
    ]


def test_a_class_is_told_apart_from_another_in_two_colours(here):
    here.sample()
    urls = []
    here.page.on("request", lambda request: urls.append(request.url.rpartition("/")[2]))
    alone = here.pixels
    others = here.page.get_by_label("And not for")
    names = others.locator("option").all_inner_texts()
    assert len(names) == 6
    assert "ring" not in names
    others.select_option("star")
    here.settles("ring and not for star")
    told_apart = here.pixels
    assert told_apart != alone
    assert here.page.locator("#scale span").all_inner_texts() == ["for star", "for ring"]
    drawn = Image.open(io.BytesIO(base64.b64decode(told_apart.partition(",")[2]))).convert("RGB")
    with Image.open(PICTURES / "ring-1.png") as image:
        before = np.asarray(image.convert("RGB").resize(drawn.size), int)
    gained = np.asarray(drawn, int) - before
    assert (gained[..., 0] - gained[..., 2]).max() > 60  # orange, for the ring
    with here.page.expect_download() as download:
        here.page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "ring-1-ring-not-star.png"
    here.page.locator("#classes label", has_text="star").click()  # cannot be told from itself
    here.settles("star")
    assert others.input_value() == ""
    others.select_option("ring")
    here.settles("star and not for ring")
    here.page.locator("#classes label", has_text="ring").click()
    others.select_option("star")
    here.settles("ring and not for star")
    assert here.pixels == told_apart
    assert [url for url in urls if url.startswith("explain")] == [
        "explain?maps=png&top=6&class_id=5&versus=star",
        "explain?maps=png&top=6&class_id=3",
        "explain?maps=png&top=6&class_id=3&versus=ring",
    ]
    assert here.complaints == []


def test_a_model_without_contrasts_offers_none(browser, tmp_path):
    older = ARTIFACTS[0].parent / "schema-3"
    with running(tmp_path, f"older={older}", *PLAIN) as server, opened(browser, server.http) as one:
        one.drop(PICTURES / "ring-1.png")
        one.page.locator("#classes label").first.wait_for()
        assert not one.page.get_by_label("And not for").is_visible()


def test_without_strength_the_picture_stands_alone(here):
    here.sample()
    strength = here.page.get_by_label("Strength of the map")
    with_map = here.pixels
    strength.fill("0")
    assert strength.get_attribute("aria-valuetext") == "0%"
    assert here.pixels != with_map
    found = Image.open(io.BytesIO(base64.b64decode(here.pixels.partition(",")[2])))
    with Image.open(PICTURES / "ring-1.png") as image:
        there = found.convert("RGB").resize(image.size).tobytes()
        apart = [abs(a - b) for a, b in zip(there, image.convert("RGB").tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 4


def test_the_overlay_is_downloaded_as_it_is_shown(here):
    here.sample()
    with here.page.expect_download() as download:
        here.page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "ring-1-ring.png"
    with Image.open(download.value.path()) as image:
        assert image.size == (512, 512)


def test_what_the_network_did_not_see_is_dimmed(here, tmp_path):
    Image.new("RGB", (400, 200), (255, 255, 255)).save(tmp_path / "wide.png")
    here.drop(tmp_path / "wide.png")
    here.page.locator("#classes label").first.wait_for()
    here.page.get_by_label("Strength of the map").fill("0")
    shown = Image.open(io.BytesIO(base64.b64decode(here.pixels.partition(",")[2]))).convert("RGB")
    assert shown.size == (1200, 600)
    assert shown.getpixel((600, 300)) == (255, 255, 255)
    for across in (50, 1150):
        assert max(shown.getpixel((across, 300))) < 200


def test_the_keyboard_reaches_everything(here):
    page = here.page
    page.get_by_role("button", name="Sample circle-1").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    here.shows("circle")
    page.locator("#classes input:checked").focus()
    second = page.locator("#classes .name").nth(1).inner_text()
    page.keyboard.press("ArrowDown")
    here.settles(second)
    assert page.locator("#classes input").nth(1).is_checked()
    for following in ("versus", "strength", "download", "remove"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == following
    page.keyboard.press("Enter")
    page.locator("#result").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "files"


def test_a_file_that_is_no_picture_is_refused_in_words(here, tmp_path):
    (tmp_path / "<b>notes.txt").write_text("hello")
    here.drop(tmp_path / "<b>notes.txt")
    here.shows("Not explained")
    said = here.page.locator("#failure").inner_text()
    assert said.startswith("<b>notes.txt is not a picture in JPEG, PNG,")
    assert here.page.get_by_role("status").inner_text() == said
    assert not here.page.get_by_role("button", name="Try again").is_visible()


def test_a_server_that_is_gone_is_said_and_tried_again(here):
    here.page.route("**/explain*", lambda route: route.abort())
    here.drop(PICTURES / "ring-1.png")
    here.shows("Not explained")
    assert "does not answer" in here.page.locator("#failure").inner_text()
    here.page.unroute("**/explain*")
    here.page.get_by_role("button", name="Try again").click()
    here.shows("ring")


def test_a_map_that_cannot_be_fetched_leaves_the_one_before(here):
    here.sample()
    before = here.pixels
    here.page.route("**/explain*", lambda route: route.abort())
    here.page.locator("#classes label", has_text="star").click()
    here.page.get_by_role("alert").get_by_text("does not answer").wait_for()
    assert here.page.get_by_role("radio", name="ring").is_checked()
    assert here.pixels == before


def test_a_phone_needs_no_scrolling_sideways(browser, server):
    phone = {"width": 375, "height": 812}
    with opened(browser, server.http, viewport=phone, has_touch=True, is_mobile=True) as here:
        widths = "() => [document.documentElement.scrollWidth, innerWidth]"
        assert here.page.evaluate(widths) == [375, 375]
        here.drop(*PICTURES.glob("*-1.png"))
        here.page.locator("#classes label").first.wait_for()
        assert here.page.evaluate(widths) == [375, 375]
        inside = """() => [...document.querySelectorAll("#panel *")]
            .every((one) => one.getBoundingClientRect().right <= 360)"""
        assert here.page.evaluate(inside)


def test_every_control_has_a_name_and_the_page_its_landmarks(here):
    here.drop(PICTURES / "ring-1.png", PICTURES / "ring-2.png")
    here.shows("ring")
    assert here.page.evaluate(NAMELESS) == []
    for role in ("banner", "main", "contentinfo", "status", "alert", "slider"):
        assert here.page.get_by_role(role).count() == 1, role
    assert here.page.get_by_role("group", name="Show what speaks for").get_by_role("radio").count()


def test_several_models_can_be_chosen_from(browser, demo_export, tmp_path):
    named = [f"{name}={demo_export}" for name in ("first", "second")]
    with running(tmp_path, *named, *PLAIN) as server, opened(browser, server.http) as here:
        here.sample()
        here.page.get_by_label("Model").select_option("second")
        with here.page.expect_response("**/second/explain*") as answer:
            here.page.get_by_role("button", name="Sample star-1").click()
        assert answer.value.ok
        here.shows("star")


def test_a_token_is_asked_for_and_sent(browser, guarded):
    with opened(browser, guarded.http) as here:
        field = here.page.get_by_label("Bearer token")
        field.fill("not-the-right-token")
        field.press("Enter")
        here.page.get_by_text("does not know this token").wait_for()
        here.drop(PICTURES / "ring-1.png")  # waits for the token
        field.fill(TOKEN)
        field.press("Enter")
        here.shows("ring")
        assert not field.is_visible()
        assert here.page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


def test_what_a_browser_cannot_show_is_shown_by_the_server(browser, tmp_path):
    levels = np.linspace(0, 4095, 1200).astype(np.uint16).reshape(30, 40)  # for browsers, black
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.fromarray(levels).save(tmp_path / "deep.tif")
    grey = ARTIFACTS[0].parent / "schema-3-grey16"
    with running(tmp_path, f"grey={grey}", *PLAIN) as server, opened(browser, server.http) as one:
        for name in ("deep.png", "deep.tif"):
            one.drop(tmp_path / name)
            one.page.locator("#file-name", has_text=name).wait_for()
            one.page.locator("#classes label").first.wait_for()
            one.page.get_by_label("Strength of the map").fill("0")
            drawn = Image.open(io.BytesIO(base64.b64decode(one.pixels.partition(",")[2])))
            assert drawn.convert("L").getextrema() == (0, 255)
            assert "cannot show" not in one.page.locator("#spoken").inner_text()
