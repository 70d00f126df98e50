"""Opens a page in a headless browser, as its reader would, and tells what came of it."""

import shutil
import subprocess
from typing import NamedTuple

import numpy as np
import pytest

# What else a browser does at its start; this machine may have no network.
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--hide-scrollbars", "--force-device-scale-factor=1",
    "--virtual-time-budget=3000",
]  # fmt: skip


class Opened(NamedTuple):
    """What a reader gets.

    Attributes:
        dom: the document as text, after its scripts have run.
        pixels: array of shape (height, width, 3), 0 to 1.
        console: what the page logs, errors of its scripts among it.
    """

    dom: str
    pixels: np.ndarray
    console: list


def open_page(url, folder, width=1200, height=800):
    """Open a page; skip the test where no browser is installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed (apt-get install chromium)")
    picture = folder / "page.png"
    command = [browser, *QUIET, f"--user-data-dir={folder / 'browser'}"]
    command += [f"--window-size={width},{height}", f"--screenshot={picture}", "--dump-dom", url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and picture.exists(), ran.stderr
    from matplotlib.image import imread

    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return Opened(ran.stdout, imread(picture)[..., :3], console)
