"""The structure of the package: no import cycles, no imports upwards, a short way to the kernel."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import fastkeras

PACKAGE = Path(fastkeras.__file__).parent
FILES = {
    ".".join(("fastkeras", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in PACKAGE.rglob("*.py")
}
LARGEST_FOLDER = 23  # modules and folders in the package itself, including the public modules


def imports_of(name):
    """The modules of the package that a module imports at once, without lazy imports."""
    tree = ast.parse(FILES[name].read_text("utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastkeras"):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in FILES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in FILES}
    return found - {name}


GRAPH = {name: imports_of(name) for name in FILES}


def test_no_circle_of_imports():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_no_module_imports_the_face_of_a_package_that_it_is_in():
    faces = {name for name, path in FILES.items() if path.name == "__init__.py"}
    for name, imported in GRAPH.items():
        up = {face for face in imported & faces if name.startswith(f"{face}.")}
        assert not up - {"fastkeras"}, f"{name} imports {up}"


def test_no_folder_is_crowded():
    for folder in {path.parent for path in FILES.values()}:
        inside = [path for path in folder.iterdir() if not path.name.startswith("__")]
        rooms = [p for p in inside if p.suffix == ".py" or (p / "__init__.py").exists()]
        assert len(rooms) <= LARGEST_FOLDER, f"{folder} has {len(rooms)} rooms"


def test_the_way_of_emissions_from_the_loss_to_the_kernel():
    tf = pytest.importorskip("tensorflow")
    if fastkeras.engines("crf")["tensorflow_native"] != "ready":
        pytest.skip(fastkeras.engines("crf")["tensorflow_native"])
    import sys

    from fastkeras.layers import CRF

    crf = CRF(3)
    emissions, tags = crf(tf.zeros((2, 5, 3))), np.zeros((2, 5), int)
    crf.loss(tags, emissions)  # loads what is loaded on first use
    way = []

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event != "call" or PACKAGE not in path.parents:
            return
        given = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        values = [frame.f_locals.get(name) for name in given]
        values += [part for value in values if isinstance(value, tuple) for part in value]
        if any(isinstance(v, tf.Tensor) and v.shape == emissions.shape for v in values):
            way.append(str(path.relative_to(PACKAGE)))

    sys.setprofile(note)
    try:
        crf.loss(tags, emissions)
    finally:
        sys.setprofile(None)
    way = way[: len(way) - way[::-1].index("crf/_engines/tensorflow_native.py")]
    rooms = [room for room in dict.fromkeys(way) if room != "_arrays.py"]  # used everywhere
    assert rooms == [
        "crf/layers/loss.py",
        "crf/layers/output.py",
        "crf/layers/crf.py",
        "crf/arguments.py",
        "crf/chain.py",
        "crf/_engines/tensorflow_native.py",
    ]
