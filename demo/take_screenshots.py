"""Draw the pictures of the demo in the documentation: the real page, in headless Chromium, with the phantom.

python demo/take_screenshots.py [--backbone FOLDER_OR_HUB_ID] [--out docs]
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dinox_hf.console import run_command

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
PORT = 7899
NODULE = (0.405, 0.158)  # share of the height and width at which the phantom opens on its largest one
MS = 300_000  # to wait for the networks


def main() -> None:
    """Start the demo, use it, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="as for app.py")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    args = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("Expected a browser; found no chromium. Run: apt-get install chromium")
    command = [sys.executable, str(Path(__file__).with_name("app.py")), "--port", str(PORT)]
    command += ["--backbone", args.backbone] if args.backbone else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo, sync_playwright() as playwright:
        try:
            if not any(re.search(r"http://127\.0\.0\.1", line) for line in demo.stdout):
                raise RuntimeError("Expected the demo to start; found that it ended. Its own message stands above.")
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            take(browser.new_page(viewport={"width": 1440, "height": 850}), args.out)
            browser.close()
        finally:
            demo.terminate()


def take(page: Page, out: Path) -> None:
    """Use the page as a visitor would, and take one picture of each overlay."""
    page.set_default_timeout(MS)
    page.goto(f"http://127.0.0.1:{PORT}")
    page.wait_for_selector(".viewer[data-slice]")
    stage = page.locator(".stage").first
    box = stage.bounding_box()
    stage.click(position={"x": NODULE[1] * box["width"], "y": NODULE[0] * box["height"]})
    page.wait_for_function(
        "document.querySelector('.viewer').dataset.encoded == +document.querySelector('.slider').max + 1"
    )
    page.wait_for_function("/compared\\.$/.test(document.querySelector('#progress').innerText.trim())")
    page.mouse.move(0, 0)
    save(page, out / "demo.png")
    page.get_by_label("PCA colours", exact=True).click()
    page.wait_for_selector('.viewer[data-overlay="colours"][data-pending="false"]')
    save(page, out / "demo_colours.png")


def save(page: Page, path: Path) -> None:
    """Write the page as it looks once its pictures are there."""
    page.wait_for_function("[...document.querySelectorAll('.stage img')].every(image => image.complete)")
    page.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    run_command(main)
