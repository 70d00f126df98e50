"""What was compiled when fastkeras was built; for missing parts, why, and the command to get them.

`setup.py` records it beside the compiled parts, in `_built.json`.
"""

import json
import sys
import sysconfig
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
NAMED = "FASTKERAS_TENSORFLOW"  # environment variables of setup.py
NAMED_JAX = "FASTKERAS_JAX"


def core():
    """The compiled kernels for NumPy arrays, or an ImportError that says what to do."""
    name = "fastkeras._core"
    spec = find_spec(name)
    # an editable installation could give the sources of one folder the kernels of another
    if spec is None or Path(spec.origin).parent.resolve() != FOLDER.resolve():
        raise ImportError(reason("_core"), name=name)
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{error}; it does not load in this Python, `{rebuild()}` builds it again", name=name
        ) from error


def record():
    """What `setup.py` recorded: `tensorflow`, `jaxlib`, `compiler` and `failed`, or None."""
    try:
        return json.loads((FOLDER / "_built.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def reason(part, tensorflow=None, jaxlib=None):
    """Why a compiled part is missing, and how to get it.

    Args:
        part: its name, such as "_core".
        tensorflow: the minor version of the running TensorFlow, if the part fits only one.
        jaxlib: the version of the running jaxlib, if the part is built from its headers.
    """
    built, others = record(), [file.name for file in FOLDER.glob(f"{part}.*")]
    if others:
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        return f"{others[0]} is not for this {python}; `{rebuild()}` builds it"
    if built is None:
        installed = elsewhere()
        if installed:
            return (
                f"Python took the sources in {FOLDER}, where nothing is compiled, for the "
                f"fastkeras installed in {installed}; start Python in another folder, or "
                f"`{rebuild()}`"
            )
        return f"{part} was not built: nothing is compiled in {FOLDER}; `{rebuild()}` does it"
    if part in built["failed"]:
        return (
            f"{part} was not built: {built['failed'][part]}; "
            f"`{rebuild()} --verbose` shows what the compiler says"
        )
    if tensorflow:
        was = f"for TensorFlow {built['tensorflow']}, and this is {tensorflow}"
        if built["tensorflow"] is None:
            was = "where no TensorFlow was found"
        return f"{part} was not built: fastkeras was built {was}; `{rebuild(NAMED)}` builds it"
    if jaxlib and built.get("jaxlib") is None:
        return (
            f"{part} was not built: fastkeras was built where no jaxlib was found, and this is "
            f"{jaxlib}; `{rebuild(NAMED_JAX)}` builds it"
        )
    return f"{part} was built, but is gone from {FOLDER}; `{rebuild()}` builds it"


def elsewhere():
    """The folder of an installed fastkeras that is not this one, or None."""
    for found in _distributions():
        folder = Path(found.locate_file("fastkeras"))
        if (folder / "_engines.py").exists() and folder.resolve() != FOLDER.resolve():
            return folder
    return None


def rebuild(named=None):
    """The command that builds this fastkeras again.

    `named` is the environment variable that tells setup.py which installed framework to use.
    """
    clone = FOLDER.parent
    if (clone / "setup.py").exists():
        return f"{sys.executable} -m pip install --editable {clone}"
    source, installer = "fastkeras", "pip"
    for found in _distributions():
        if Path(found.locate_file("fastkeras")).resolve() == FOLDER.resolve():
            came_from = json.loads(found.read_text("direct_url.json") or "{}")
            source = came_from.get("url", source).removeprefix("file://")
            if source.endswith(".whl"):
                source = "THE_SOURCES_OF_FASTKERAS"  # not the same wheel again
            installer = (found.read_text("INSTALLER") or installer).strip()
    if installer == "uv":
        command = f"uv pip install --python {sys.executable} --reinstall --no-deps --no-cache"
        place = f"{named}={sysconfig.get_path('platlib')} " if named else ""
        return f"{place}{command} {source}"
    command = f"{sys.executable} -m pip install --force-reinstall --no-deps --no-cache-dir"
    return f"{command} {source}"


def _distributions():
    from importlib.metadata import distributions  # slow to import, and needed only for an error

    return distributions(name="fastkeras")
