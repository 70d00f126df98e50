"""The memory of a fine-tune by setting: BERT and GPT-2 of keras-hub in their base sizes.

    python bench/finetune_memory.py [--json FILE] [--quick] [--only SETTING]

Each setting trains a few steps in a process of its own, under the backend of KERAS_BACKEND, and is
added to FILE beside those that are there. Measured are the bytes of all variables, and the peak of
the process' resident memory during the steps, less what it was after the imports. How busy the
machine is changes neither. It takes Linux, 4 GB, and keras-hub.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

BATCH, LENGTH, STEPS = 2, 32, 2
BASE = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
SIZES = {
    "bert": {**BASE, "vocabulary_size": 30522, "max_sequence_length": 512},
    "gpt2": {**BASE, "vocabulary_size": 50257, "max_sequence_length": 1024},
}
SETTINGS = {  # the dtype, whether gradients are released, LoRA's rank, arguments of our optimizer
    "Keras AdamW": ("float32", False, 0, None),
    "AdamW": ("float32", False, 0, {}),
    "8-bit moments": ("float32", False, 0, {"moment_bits": 8}),
    "gradients released": ("float32", True, 0, {}),
    "8-bit moments, gradients released": ("float32", True, 0, {"moment_bits": 8}),
    "mixed bfloat16": ("mixed_bfloat16", False, 0, {}),
    "bfloat16, master weights": ("bfloat16", False, 0, {"master_weights": True}),
    "bfloat16 at random, 8-bit moments, released": (
        "bfloat16",
        True,
        0,
        {"stochastic_rounding": True, "moment_bits": 8},
    ),
    "Muon": ("float32", False, 0, {"of": "Muon"}),  # and by default AdamW
    "APOLLO": ("float32", False, 0, {"of": "APOLLO"}),
    "AdamMini, 8-bit moments": ("float32", False, 0, {"of": "AdamMini", "moment_bits": 8}),
    "LoRA of rank 8": ("float32", False, 8, {}),
    "LoRA of rank 8, bfloat16": ("bfloat16", False, 8, {}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two layers")
    parser.add_argument("--only", default="", help="this setting alone")
    parser.add_argument("--model", choices=(*SIZES,), action="append")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(*options.one, options.quick)))
        return
    results = {"machine": machine(), "batch": BATCH, "tokens": LENGTH, "steps": STEPS, "rows": []}
    for model in options.model or SIZES:
        for setting in SETTINGS:
            if options.only and options.only != setting:
                continue
            row = in_a_process(model, setting, options.quick)
            if options.json and options.json.exists():  # another backend may have added to it
                earlier = json.loads(options.json.read_text())
                results["rows"] = earlier["rows"]
                results["machine"]["versions"] |= earlier["machine"]["versions"] | versions()
            key = [row[name] for name in KEY]
            results["rows"] = [r for r in results["rows"] if [r[name] for name in KEY] != key]
            results["rows"].append(row)
            print(row, flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


KEY = ("backend", "model", "setting")


def machine():
    from fastkeras.bench import limits

    return {"cpu": limits.cpu(), "processors": limits.processors(), "versions": versions()}


def versions():
    packages = {"tensorflow": "tensorflow-cpu", "torch": "torch", "jax": "jax"}
    backend = packages[os.environ["KERAS_BACKEND"]]
    return {name: version(name) for name in ("keras", "keras-hub", "numpy", backend)}


def in_a_process(model, setting, quick):
    command = [sys.executable, __file__, "--one", model, setting, *["--quick"][: int(quick)]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name, setting, quick):
    import finetune_keras_hub
    import keras
    import keras_hub  # noqa: F401 - before memory is looked at
    import numpy as np

    from fastkeras import optimizers

    keras.ops.convert_to_numpy(keras.ops.matmul(np.ones((9, 9), "f"), np.ones((9, 9), "f")))
    dtype, releases, rank, arguments = SETTINGS[setting]
    before = kibibytes("VmRSS")
    sizes = SIZES[name] | ({"num_layers": 2} if quick else {})
    model, backbone = finetune_keras_hub.MODELS[name](sizes, dtype)
    if rank:
        backbone.enable_lora(rank)
    of = keras.optimizers.AdamW
    if arguments is not None:
        of = getattr(optimizers, arguments.get("of", "AdamW"))
    settings = {name: value for name, value in (arguments or {}).items() if name != "of"}
    optimizer = of(1e-4, weight_decay=0.01, **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    optimizer.build(model.trainable_variables)
    tokens = np.random.default_rng(0).integers(1, 30000, (BATCH * STEPS, LENGTH + 1))
    tokens, targets = tokens[:, :-1], tokens[:, 1:]
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    if name == "bert":
        inputs["segment_ids"], targets = np.zeros_like(tokens), tokens[:, 0] % 2
    variables = model.trainable_variables
    forget_peak()
    released = optimizers.release_gradients(optimizer, variables) if releases else nullcontext()
    with released:
        model.fit(inputs, targets, batch_size=BATCH, verbose=0)
    of_model, of_optimizer = model.variables, optimizer.variables
    return {
        "backend": keras.backend.backend(),
        "model": name,
        "setting": setting,
        "model_mib": mebibytes(of_model),
        "trained_mib": mebibytes(variables),
        "optimizer_mib": mebibytes(of_optimizer),
        "peak_mib": round((kibibytes("VmHWM") - before) / 1024),
    }


def mebibytes(variables):
    from fastkeras.optimizers.fused.matching import bytes_of

    return round(sum(map(bytes_of, variables)) / 2**20, 1)


def kibibytes(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


def forget_peak():
    """Let the peak begin anew, since making the weights has one of its own."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory that was used and freed counts
    Path("/proc/self/clear_refs").write_text("5")


def table(results):
    """The text of docs/jobs/keras_hub.md."""
    backends = {"tensorflow": "TensorFlow", "torch": "torch", "jax": "JAX"}
    models = {"bert": "BERT", "gpt2": "GPT-2"}
    found = {tuple(row[name] for name in KEY): row for row in results["rows"]}
    columns = [
        (backend, model)
        for backend in backends
        for model in models
        if any(key[:2] == (backend, model) for key in found)
    ]
    head = [f"{models[m]}, {backends[b]}" for b, m in columns]
    lines = [f"| MiB: model + optimizer, **peak** | {' | '.join(head)} |"]
    lines += ["|---|" + "---:|" * len(columns)]
    for setting in SETTINGS:
        cells = [cell(found.get((*column, setting))) for column in columns]
        if any(cells):
            lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row):
    if row is None:
        return ""
    return f"{row['model_mib']:,.0f} + {row['optimizer_mib']:,.0f}, **{row['peak_mib']:,}**"


if __name__ == "__main__":
    main()
