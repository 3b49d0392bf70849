"""serve.png: the page of ``charlm serve``, photographed in chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

WRITTEN = "#mode=write&prompt=ROMEO%3A&seed=7&length=300&run=1"
HELD = 27
"""The text in serve.png, and the character whose alternatives are shown."""


def draw_page(target: Path) -> None:
    """Take a picture of the page of ``charlm serve``, with a text by the model that comes with charlm."""
    from PIL import Image
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    command = [sys.executable, "-m", "charlm", "serve", "--checkpoint", "checkpoints/shakespeare", "--port", "0"]
    with (
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            address = re.search(r"http://\S+", server.stderr.readline())[0]
            with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
                size = {"width": 1280, "height": 940, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.get(address + WRITTEN)
                stop, characters = (By.ID, "write-stop"), (By.CSS_SELECTOR, "#write-text i")
                WebDriverWait(browser, 30).until(
                    lambda _: browser.find_elements(*characters) and not browser.find_element(*stop).is_enabled()
                )
                browser.find_elements(*characters)[HELD].click()
                browser.save_screenshot(f"{folder}/page.png")
        finally:
            server.terminate()
        Image.open(f"{folder}/page.png").convert("RGB").quantize(64).save(target, optimize=True)
