"""What MkDocs does not know of itself: links out of the pages, and names that load on first use.

And for the docstrings, what their sections are under the names that it knows.
"""

import ast
import re
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?:bench|examples|csrc|tests)/[^)]*\)")
SECTIONS = {
    "Example:\n": "Examples:\n",
    "Call arguments:\n": "Args: Call arguments\n",
    "Call:\n": "Args: Call\n",
    "Source: ": "**Source:** ",
}
SECTION = re.compile(rf"^({'|'.join(SECTIONS)})", re.MULTILINE)
RESULT = re.compile(r"^(?:Returns|Yields):\n(?: {4}.*\n?)+", re.MULTILINE)
MORE_LINES = re.compile(r"(?<=\n)( {4})(?! |\w+: )(?<!:\n {4})")  # all but the first, and names
OPTIMIZERS = tuple(
    f"fastkeras.optimizers.fused.{name}."
    for name in ("classes.stock", "classes.newer", "optimizer")
)
ROW = re.compile(r"^\|.*± .*\|$", re.MULTILINE)
PACKAGE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def on_page_markdown(markdown, **_):
    """Links to files of the repository, which work in its pages, become plain words.

    In tables, the parts of a measurement get a line each.
    """
    markdown = ROW.sub(lambda row: row[0].replace(" · ", "<br>"), markdown)
    return PACKAGE.sub(_names, OUTSIDE.sub(r"\1", markdown))


def on_page_content(html, page, **_):
    """An example that is taken for prose becomes three quotations within each other."""
    if re.search(r"<blockquote>\s*<blockquote>\s*<blockquote>", html):
        raise PluginError(f"{page.file.src_uri}: an example is not shown as code")


def _names(directive):
    """In place of a package whose names are in a stub, its names."""
    stub = ROOT / directive[1].replace(".", "/") / "__init__.pyi"
    if not stub.exists():
        return directive[0]
    names = [
        (alias.name, node.module)
        for node in ast.parse(stub.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fastkeras")
        for alias in node.names
        if not ROOT.joinpath(*node.module.split("."), f"{alias.name}.py").exists()  # its own page
    ]
    return "\n\n".join(
        f"::: {module}.{name}\n    options:\n"
        "      show_root_heading: true\n      show_root_full_path: false"
        for name, module in sorted(names, key=lambda pair: (pair[0][0].islower(), pair))
    )


def _text_of(optimizer):
    """The docstring of an optimizer, which its module puts together when it is imported."""
    package = optimizer.module.parent
    package = package.members.get("classes", package)
    texts = {
        name: ast.literal_eval(str(attribute.value))
        for module in (package["stock"], package["newer"])
        for name, attribute in module.attributes.items()
        if str(attribute.value)[:1] in "\"'"
    }
    if optimizer.name == "Fused":
        return f"They come after those of Keras, by name only.\n\nArgs:\n{texts['ARGUMENTS']}"
    head = optimizer.docstring and optimizer.docstring.value
    if "__doc__" in optimizer.members:
        head = eval(str(optimizer["__doc__"].value), texts)
    head = head or texts["_DOC"].partition("\nArgs:")[0].format(name=optimizer.name)
    more = "The other arguments are at the end of this page, and in Keras' documentation."
    return f"{head}\n\n{more}\n\n{texts['REST'].format(name=optimizer.name)}"


class Sections(griffe.Extension):
    """The sections of docstrings under the names, and in the form, that Griffe knows."""

    def on_object(self, *, obj, **_):
        """Examples become code and call arguments a list, not boxes; a result is one entry."""
        if obj.path.startswith(OPTIMIZERS) and obj.is_class and not obj.name.startswith("_"):
            obj.docstring = griffe.Docstring(_text_of(obj), parent=obj)
        if obj.docstring:
            text = SECTION.sub(lambda found: SECTIONS[found[1]], obj.docstring.value)
            text = RESULT.sub(lambda found: MORE_LINES.sub(r"\1    ", found[0]), text)
            obj.docstring.value = text
