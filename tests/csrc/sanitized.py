"""Run a module with the `_core` that `make sanitize` builds: sanitized.py MODULE ARGUMENTS."""

import runpy
import sys
from importlib import import_module
from pathlib import Path


def main():
    tests = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(tests.parent), str(tests)]
    built = tests.parent / "build" / "sanitize" / "python"
    import_module("fastkeras").__path__.insert(0, str(built))
    core = import_module("fastkeras._core")
    assert "sanitize" in core.__file__, core.__file__
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
