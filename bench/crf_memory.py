"""Peak memory of a loss and its gradient for one long sequence, with `checkpoint=True` and without.

    python bench/crf_memory.py                         # some minutes; takes Linux and 2 GB
    python bench/crf_memory.py --quick                 # a tenth of the steps; writes nothing

Each setting runs in a process of its own, under its backend: with this interpreter, and those of
`.venv-jax` and `.venv-torch`. Measured is the peak of the process' resident memory during one call,
less what it was before, when all was compiled. How busy the machine is does not change it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import machine, results_path, store

ROOT = Path(__file__).resolve().parent.parent
NUM_TAGS = 32
SETTINGS = {  # backend, engine, steps, the score of a transition
    "`keras` on TensorFlow, scaled domain": ("tensorflow", "keras", 131_072, 0.0),
    "`keras` on TensorFlow, log-sum-exps": ("tensorflow", "keras", 131_072, -1e4),
    "`keras` on JAX, scaled domain": ("jax", "keras", 131_072, 0.0),
    "`keras` on torch, scaled domain, 0.5 MiB of emissions": ("torch", "keras", 4_096, 0.0),
    "`tensorflow_native`": ("tensorflow", "tensorflow_native", 131_072, 0.0),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--results", type=Path, help="default: of this machine, in bench/results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, checkpoint = given.one
        print(json.dumps(measured(*SETTINGS[name][1:], checkpoint == "True", given.quick)))
        return
    results = {"machine": machine(), "num_tags": NUM_TAGS, "mebibytes": {}}
    for name, (backend, *_) in SETTINGS.items():
        results["mebibytes"][name] = [
            in_a_process(name, backend, checkpoint, given.quick) for checkpoint in (False, True)
        ]
        print(name, results["mebibytes"][name], flush=True)
    if not given.quick:
        path = given.results or results_path("checkpoint-memory", results["machine"])
        store(results, path)
        print(f"written: {path}")


def in_a_process(name, backend, checkpoint, quick):
    python = ROOT / f".venv-{backend}" / "bin" / "python"
    python = sys.executable if backend == "tensorflow" else str(python)
    own = {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [python, __file__, "--one", name, str(checkpoint), *["--quick"][: int(quick)]]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **own}
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(engine, steps, score, checkpoint, quick):
    """MiB by which the process grows for a moment."""
    import numpy as np
    from finetune_memory import forget_peak, kibibytes
    from keras import backend, ops

    from fastkeras import crf
    from fastkeras.training.gradients.differentiate import value_and_gradients

    transitions = np.zeros((NUM_TAGS, NUM_TAGS), "float32")
    transitions[0, 1] = score
    rng = np.random.default_rng(0)

    def given(steps):
        x = rng.standard_normal((1, steps, NUM_TAGS), "float32")
        tags = np.full((1, steps), 2, "int32")
        return [*map(ops.convert_to_tensor, (x, transitions, tags))]

    def gradients(x, transitions, tags):
        def total(values):
            more = {"checkpoint": checkpoint, "engine": engine}
            return ops.sum(crf.log_likelihood(values[0], tags, values[1], **more)), None

        return value_and_gradients(total, [x, transitions])

    steps = steps // 10 if quick else steps
    long, function = given(steps), gradients
    if backend.backend() == "jax":
        import jax

        function = jax.jit(gradients).lower(*long).compile()
    else:
        function(*given(64))  # compiles for any number of steps
    forget_peak()
    before = kibibytes("VmRSS")
    (value, _), (gradient, _) = function(*long)
    assert np.isfinite(ops.convert_to_numpy(ops.sum(gradient) + value))
    return round((kibibytes("VmHWM") - before) / 1024)


def table(results):
    """The text of docs/crf.md."""
    lines = ["| MiB | plain | `checkpoint=True` |", "|---|---:|---:|"]
    lines += [f"| {name} | {a:,} | {b:,} |" for name, (a, b) in results["mebibytes"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
