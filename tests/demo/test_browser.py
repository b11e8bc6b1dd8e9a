"""The demo's page in Chromium: what a user sees and does."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_server import DemoServer, png
from path_proxy import PathProxy
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, Route, expect, sync_playwright

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets.drawn import draw_street

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
SIZE = (360, 480)
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    with DemoServer(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    # Chromium refuses its sandbox to root, as whom containers run.
    running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield running
    running.close()


class Watched:
    """A page of its own, which may reach this machine only, and what it wanted to reach."""

    def __init__(self, browser: Browser, server: DemoServer, width: int, height: int) -> None:
        self.strangers: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.route(re.compile("."), self._pass)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(server.url)
        expect(self.page.locator("#picture")).to_be_visible()

    def _pass(self, route: Route) -> None:
        if re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", route.request.url):
            route.continue_()
        else:
            self.strangers.append(route.request.url)
            route.abort()

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error" or "Content Security Policy" in text:
            self.complaints.append(text)

    def close(self) -> None:
        self.context.close()
        assert self.strangers == []
        assert self.complaints == []

    def upload(self, content: bytes, name: str = "street.png") -> None:
        self.page.set_input_files(
            "#picture input[type=file]",
            {"name": name, "mimeType": "image/png", "buffer": content},
        )

    def picture_of(self, selector: str) -> np.ndarray:
        shot = self.page.locator(selector).screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


@pytest.fixture
def watched(browser: Browser, server: DemoServer) -> Iterator[Watched]:
    running = Watched(browser, server, 1280, 900)
    yield running
    running.close()


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return draw_street(819, SIZE)[0]


@pytest.fixture(scope="module")
def wanted(street: np.ndarray) -> tsz.Prediction:
    return tsz.predict(tsz.bisenet_x39(pretrained="camvid"), street)


def test_a_picture_is_labelled_and_its_labels_downloaded(
    watched: Watched, street: np.ndarray, wanted: tsz.Prediction, tmp_path: Path
) -> None:
    page = watched.page
    expect(page.locator("#labels")).to_be_disabled()
    watched.upload(png(street))
    rows = page.locator("#legend tr")
    expect(rows.first).to_contain_text(next(iter(wanted.shares)))
    expect(page.locator("#summary")).to_contain_text(
        re.compile(r"360×480 pixels \(height×width\) labelled in [\d.]+ s")
    )
    with page.expect_download() as download:
        page.locator("#labels").click()
    download.value.save_as(tmp_path / "labels.png")
    labels = np.asarray(Image.open(tmp_path / "labels.png"))
    assert (labels == wanted.labels).mean() > 0.9999
    page.locator("#picture").get_by_label("Remove Image").click()
    expect(page.locator("#legend table")).to_have_count(0)
    expect(page.locator("#labels")).to_be_disabled()


def test_the_slider_uncovers_the_photo(watched: Watched, street: np.ndarray) -> None:
    page = watched.page
    watched.upload(png(street))
    expect(page.locator("#legend table")).to_be_visible()
    expect(page.locator("#slider img")).to_have_count(2)
    page.wait_for_function(
        "[...document.querySelectorAll('#slider img')].every(one => one.complete)"
    )
    box = page.locator("#slider").bounding_box()
    assert box is not None
    before = watched.picture_of("#slider")
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 0.2 * box["width"], middle[1], steps=5)
    page.mouse.up()
    for _ in range(100):  # until the page has been drawn again
        change = np.abs(watched.picture_of("#slider") - before).mean((0, 2))
        width = len(change)
        if change[int(0.53 * width) : int(0.67 * width)].mean() > 15:
            break
        page.wait_for_timeout(100)
    assert change[int(0.53 * width) : int(0.67 * width)].mean() > 15
    assert change[: int(0.45 * width)].mean() < 1 and change[int(0.75 * width) :].mean() < 1


def test_a_click_shows_the_classes_of_the_pixel(
    watched: Watched, street: np.ndarray, wanted: tsz.Prediction
) -> None:
    page = watched.page
    watched.upload(png(street))
    expect(page.locator("#legend table")).to_be_visible()
    page.get_by_role("tab", name="Pixels").click()
    image = page.locator("#overlay img")
    expect(image).to_be_visible()
    page.wait_for_function("document.querySelector('#overlay img').naturalWidth == 480")
    box = image.bounding_box()
    assert box is not None
    # The picture is shown in the middle, scaled down where it is larger than its frame.
    scale = min(1.0, box["width"] / 480, box["height"] / 360)
    left, top = (box["width"] - 480 * scale) / 2, (box["height"] - 360 * scale) / 2
    for x, y in ((40, 300), (240, 30), (470, 350)):
        image.click(position={"x": left + x * scale, "y": top + y * scale})
        expect(page.locator("#pixel")).to_contain_text(re.compile(rf"column {x}\b"))
        text = page.locator("#pixel").inner_text()
        found = re.search(r"column (\d+), row (\d+)", text)
        assert found is not None and abs(int(found[2]) - y) <= 1
        name = wanted.classes[wanted.labels[int(found[2]), int(found[1])]]
        assert name in page.locator("#pixel tr").first.inner_text()


def test_bad_uploads_get_a_message_and_the_page_goes_on(
    watched: Watched, street: np.ndarray
) -> None:
    page = watched.page
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    for content, words in (
        (b"<html>404</html>", "not a picture in a known format"),
        (png(street)[:9000], "cut off"),
        (file.getvalue(), "10000×10000, more than 16000000 pixels"),
    ):
        watched.upload(content, "bad.png")
        expect(page.locator("#summary")).to_contain_text(words)
        expect(page.locator("[data-testid=toast-body]").last).to_contain_text(words)
        expect(page.locator("#legend table")).to_have_count(0)
        watched.upload(png(street))
        expect(page.locator("#legend table")).to_be_visible()
    watched.complaints.clear()  # browsers complain of pictures that they cannot show


def choose(page: Page, model: str) -> None:
    """Types into the list of models, which then shows those that match."""
    field = page.get_by_label("Model")
    field.click()
    field.clear()
    field.press_sequentially(model)
    page.get_by_role("option", name=re.compile(model)).first.click()
    expect(field).to_have_value(re.compile(model))


def test_an_example_and_a_model_that_is_not_here(watched: Watched) -> None:
    page = watched.page
    page.locator("button.gallery-item").nth(1).click()
    expect(page.locator("#legend table")).to_be_visible()
    choose(page, "dfn_r101.voc")
    expect(page.locator("#fetch")).to_be_visible()
    expect(page.get_by_text("dfn_r101.voc is not on this machine yet")).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("to be downloaded first")
    expect(page.locator("#legend table")).to_have_count(0)
    choose(page, "bisenet_x39.camvid")
    expect(page.locator("#legend table")).to_be_visible()
    expect(page.locator("#fetch")).to_have_count(0)


def test_a_second_upload_during_the_first(watched: Watched, street: np.ndarray) -> None:
    """The page ends with what was uploaded last."""
    page = watched.page
    with page.expect_request("**/queue/join*"):
        watched.upload(png(draw_street(1, (900, 1200))[0]))
    watched.upload(png(street))
    expect(page.locator("#summary")).to_contain_text("360×480")


def test_the_page_fits_a_phone(browser: Browser, server: DemoServer, street: np.ndarray) -> None:
    watched = Watched(browser, server, 390, 844)
    watched.upload(png(street))
    expect(watched.page.locator("#legend table")).to_be_visible()
    for name in ("Pixels", "Confidence", "Overlay"):
        watched.page.get_by_role("tab", name=name).click()
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    watched.close()


@pytest.mark.soak
def test_behind_a_proxy_under_a_path(browser: Browser, street: np.ndarray, tmp_path: Path) -> None:
    with DemoServer(tmp_path, "--root-path", "/demo") as server:
        direct, server.url = server.url.removesuffix("/demo"), ""
        with PathProxy(direct, "/demo") as proxy:
            server.url = proxy.url
            watched = Watched(browser, server, 1000, 800)
            watched.upload(png(street))
            expect(watched.page.locator("#legend table")).to_be_visible()
            expect(watched.page.locator("#slider img").first).to_have_js_property(
                "naturalWidth", 480
            )
            watched.close()


@pytest.mark.soak
def test_ten_users_in_their_browsers(browser: Browser, server: DemoServer) -> None:
    users = [Watched(browser, server, 800, 600) for _ in range(10)]
    sizes = [(240 + 8 * number, 320) for number in range(10)]
    for number, (user, size) in enumerate(zip(users, sizes, strict=True)):
        user.upload(png(draw_street(number, size)[0]))
    for user, size in zip(users, sizes, strict=True):
        expect(user.page.locator("#summary")).to_contain_text(f"{size[0]}×320 pixels")
        expect(user.page.locator("#legend table")).to_be_visible()
    for user in users:
        user.close()
