"""What MkDocs does not know of itself: links out of the pages, and names that load on first use."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?:bench|examples|csrc|tests)/[^)]*\)")
PACKAGE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def on_page_markdown(markdown, **_):
    """Links to files of the repository, which work in its pages, become plain words."""
    return PACKAGE.sub(_names, OUTSIDE.sub(r"\1", markdown))


def _names(directive):
    """In place of a package whose names are in a stub, its names."""
    stub = ROOT / directive[1].replace(".", "/") / "__init__.pyi"
    if not stub.exists():
        return directive[0]
    return "\n\n".join(
        f"::: {node.module}.{alias.name}\n    options:\n      show_root_heading: true"
        for node in ast.parse(stub.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fastkeras")
        for alias in sorted(node.names, key=lambda alias: alias.name)
    )
