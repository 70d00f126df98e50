"""Opens a page in a headless browser, as its reader would, and tells what came of it."""

import html
import json
import re
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
    "--virtual-time-budget=3000", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--allow-file-access-from-files",
]  # fmt: skip


WIDTHS = (400, 1200)  # of a telephone and of a desk, in pixels
HEIGHT = 7000  # more than any of the pages
# A page at both widths; a window of its own could not be as narrow as a telephone.
FRAMES = """<!doctype html><meta charset=utf-8><body style="margin: 0; white-space: nowrap">
{frames}<pre></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, at = frame.getBoundingClientRect();
    return {{
      width: frame.clientWidth,
      heading: page.querySelector("h1").textContent,
      needed: page.documentElement.scrollWidth,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map((e) => e.name),
      figures: [...page.querySelectorAll("figure svg")].map((svg) => {{
        const box = svg.getBoundingClientRect();
        return [at.x + box.x, at.y + box.y, box.width, box.height];
      }}),
    }};
  }});
  document.querySelector("pre").textContent = JSON.stringify(found);
}});
</script>"""


class Framed(NamedTuple):
    """A page at one width.

    Attributes:
        width: of the window, in pixels.
        heading: the first one.
        needed: the width that the page takes.
        requests: addresses of what is not in the file of the page.
        figures: for each picture, (x, y, width, height).
        ink: for each picture, the share of its pixels that have not the color of its corner.
    """

    width: int
    heading: str
    needed: int
    requests: list
    figures: list
    ink: list


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


def open_at_widths(path, folder):
    """Open a file at each of `WIDTHS`: return a `Framed` for each, and the messages on the console.

    The pictures looked at are `svg` in a `figure`.
    """
    frames = "".join(
        f'<iframe width={width} height={HEIGHT} style="border: 0" src="{path.name}"></iframe>'
        for width in WIDTHS
    )
    around = path.with_name("frames.html")
    around.write_text(FRAMES.format(frames=frames), "utf-8")
    opened = open_page(around.as_uri(), folder, sum(WIDTHS) + 50, HEIGHT)
    found = json.loads(html.unescape(re.search("<pre>(.*?)</pre>", opened.dom, re.DOTALL)[1]))
    framed = [
        Framed(**of_width, ink=[_ink(opened.pixels, box) for box in of_width["figures"]])
        for of_width in found
    ]
    return framed, opened.console


def _ink(pixels, box):
    x, y, width, height = map(round, box)
    part = pixels[y : y + height, x : x + width]
    return float(np.mean(np.abs(part - part[0, 0]).max(axis=-1) > 0.1))
