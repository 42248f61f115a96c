"""The demo in headless Chromium, as a visitor uses it: open, scroll, click, compare, upload; no stranger is asked."""

import io
import re
import zipfile
from urllib.parse import urlsplit

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

pytestmark = pytest.mark.browser
MS = 120_000  # to wait for the networks, on a machine with other work


class Visit:
    """A page with what it asked for and what it complained of."""

    def __init__(self, browser, url):
        self.page = browser.new_page(viewport={"width": 1440, "height": 900})
        self.page.set_default_timeout(MS)
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector(".viewer[data-slice]")

    def _listen(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    @property
    def slice(self):
        return int(self.page.get_attribute(".viewer", "data-slice"))

    def wait_for_slice(self, index):
        self.page.wait_for_selector(f'.viewer[data-slice="{index}"]')

    def click(self, down, right):
        """Click the first panel at shares of its height and width, and wait for the map of that point."""
        before = self.page.get_attribute(".viewer", "data-point")
        stage = self.page.locator(".stage").first
        box = stage.bounding_box()
        stage.click(position={"x": right * box["width"], "y": down * box["height"]})
        self.page.wait_for_function(
            "before => (document.querySelector('.viewer').dataset.point ?? null) !== before", arg=before
        )

    def pixels(self, panel=0):
        """What a panel shows."""
        self.page.wait_for_function("[...document.querySelectorAll('.stage img')].every(image => image.complete)")
        return np.array(Image.open(io.BytesIO(self.page.locator(".stage").nth(panel).screenshot()))).astype(int)


@pytest.fixture(scope="module")
def visit(chromium, demo_url):
    visit = Visit(chromium, demo_url)
    yield visit
    visit.page.close()


def test_the_phantom_is_there_and_scrolls_by_wheel_keys_and_slider(visit):
    first, before = visit.slice, visit.pixels()
    visit.page.locator(".stage").first.hover()
    visit.page.mouse.wheel(0, -100)
    visit.wait_for_slice(first + 1)
    assert np.abs(visit.pixels() - before).max() > 50
    visit.page.locator(".viewer").focus()
    visit.page.keyboard.press("PageUp")
    visit.wait_for_slice(first + 11)
    visit.page.keyboard.press("Home")
    visit.wait_for_slice(0)
    visit.page.locator(".slider").fill(str(first))
    visit.wait_for_slice(first)
    assert np.array_equal(visit.pixels(), before)


def test_a_click_shows_what_is_alike_and_another_click_something_else(visit):
    plain = visit.pixels()
    visit.click(0.4, 0.5)
    heart = visit.pixels()
    coloured = np.ptp(heart, axis=2).max(axis=(0, 1))
    assert coloured > 60 and np.abs(heart - plain).mean() > 1
    assert "HU" in visit.page.inner_text(".readout") and "mm" in visit.page.inner_text(".readout")
    visit.click(0.45, 0.25)
    assert np.abs(visit.pixels() - heart).mean() > 1
    assert not np.array_equal(visit.pixels(0), visit.pixels(1))


def test_the_strip_fills_and_leads_to_the_best_slices(visit):
    visit.page.wait_for_selector('.viewer[data-encoded="35"]')
    assert len(re.findall("[ML]", visit.page.locator(".profile .line").first.get_attribute("d"))) == 35
    jump = visit.page.locator(".best button").nth(1)
    target = int(jump.get_attribute("data-slice"))
    jump.click()
    visit.wait_for_slice(target)
    visit.page.wait_for_selector(".marks .match")


def test_window_overlay_and_second_network_are_a_choice(visit):
    lung = visit.pixels()
    visit.page.get_by_label("Soft tissue").click()
    visit.page.wait_for_function("document.querySelector('.window').textContent.startsWith('Soft')")
    assert np.abs(visit.pixels() - lung).mean() > 5
    seen = [visit.pixels()]
    for name in ("PCA colours", "CLS attention", "None"):
        visit.page.get_by_label(name, exact=True).click()
        overlay = {"PCA colours": "colours", "CLS attention": "attention", "None": "none"}[name]
        visit.page.wait_for_selector(f'.viewer[data-overlay="{overlay}"][data-pending="false"]')
        seen.append(visit.pixels())
        # Random weights look almost evenly everywhere: their attention is faint.
        assert np.abs(seen[-1] - seen[-2]).max() > 5
    visit.page.get_by_label("Side by side").click()
    visit.page.wait_for_selector('.viewer[data-panels="1"]')


def test_an_upload_that_is_too_large_is_refused_with_a_message(visit, tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 400, (12, 256, 256)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(tmp_path / "large.nii"))
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        archive.write(tmp_path / "large.nii", "large.nii")
    visit.page.set_input_files("#side input[type=file]", tmp_path / "large.zip")
    visit.page.get_by_text(re.compile("maximum allowed size|at most 1 MB")).first.wait_for()
    assert "Phantom" in visit.page.inner_text("#status")


def test_a_file_that_is_no_scan_is_refused_and_a_scan_opens(visit, tmp_path):
    (tmp_path / "broken.nii").write_bytes(b"no volume")
    visit.page.set_input_files("#side input[type=file]", tmp_path / "broken.nii")
    visit.page.get_by_text("Expected a CT scan").first.wait_for()
    small = np.full((5, 40, 40), -900, np.int16)
    small[:, 10:30, 10:30] = 40
    sitk.WriteImage(sitk.GetImageFromArray(small), str(tmp_path / "scan.nii.gz"))
    visit.page.set_input_files("#side input[type=file]", tmp_path / "scan.nii.gz")
    visit.page.get_by_text("Uploaded scan: 5 slices").wait_for()
    visit.wait_for_slice(2)


def test_the_page_asks_no_other_host_and_complains_of_nothing(visit, demo_url):
    hosts = {urlsplit(url).netloc for url in visit.requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(demo_url).netloc}
    assert visit.complaints == []
