"""The demo as a visitor meets it: the real command in a process of its own, and Chromium to look at it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serving.conftest import tiny_backbone

ROOT = Path(__file__).resolve().parents[2]
BROWSER = "chromium"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SECONDS = 120  # for a start, on a machine with other work


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium; without it these tests fail, since nothing else shows that the page works."""
    from playwright.sync_api import sync_playwright

    path = shutil.which(BROWSER)
    assert path, "Expected a browser; found no chromium. Run: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory):
    """The address of a demo with a tiny backbone and uploads of at most 1 MB."""
    folder = tmp_path_factory.mktemp("demo")
    backbone = tiny_backbone()
    backbone.model.save_pretrained(folder / "backbone")
    backbone.processor.save_pretrained(folder / "backbone")
    port = _free_port()
    options = ["--backbone", str(folder / "backbone"), "--port", port, "--pixel-mm", "1.5", "--max-upload-mb", "1"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    with (folder / "log").open("w") as log:
        demo = subprocess.Popen(
            [sys.executable, str(ROOT / "demo" / "app.py"), *options], stdout=log, stderr=log, env=environment
        )
        try:
            yield _address(demo, folder / "log")
        finally:
            demo.terminate()
            demo.wait()


def _free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def _address(demo: subprocess.Popen, log: Path) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and demo.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"Expected the demo to start; found:\n{log.read_text()[-2000:]}")
