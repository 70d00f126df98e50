"""The links out of the repository, from its texts and docstrings; run, it prints them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "docs": "*.md",
    "fastkeras": "*.py",
    "examples": "*.py",
    "csrc": "*.[ch]*",
    "bench": "*.py",
}
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / name for name in ("pyproject.toml", "mkdocs.yml", "setup.py")),
    *(path for folder, kind in FOLDERS.items() for path in sorted((ROOT / folder).rglob(kind))),
]
URL = re.compile(r"\b[a-z]+://[^\s<>\"'`\])}|]+")
ARXIV = re.compile(r"\barxiv(?:\.org/(\w+)/|[:\s]+(?:#+ *|// *)?)(\d[\w./]*\w)", re.IGNORECASE)


def external():
    """Each link out, without the punctuation behind it, and the file that has it."""
    for path in TEXTS:
        for url in URL.findall(path.read_text("utf-8")):
            yield url.rstrip(".,;:!?"), path.relative_to(ROOT)


if __name__ == "__main__":
    print(*sorted({url for url, _ in external()}), sep="\n")
