"""The short table of the README, one line for each job, from all results."""

import json
from pathlib import Path

from word2vec_summary import ratio, speed

RESULTS = Path(__file__).parent / "results"


def table():
    """The text between the marks."""
    lines = ["| | **fastkeras** | others |", "|---|---:|---|"]
    lines += [f"| {what} | **{ours}** | {others} |" for what, ours, others in rows()]
    return "\n".join([*lines, "", note()])


def rows():
    for name, title, providers in (
        ("crf-amd-epyc-2-cores", "TensorFlow", TENSORFLOW),
        ("crf-on-jax-amd-epyc-2-cores", "JAX", JAX),
        ("crf-on-torch-amd-epyc-2-cores", "torch", TORCH),
    ):
        found = read(name)["crf"]["fine-grained tags"]["gradient"]
        yield crf_row(title, found, providers)
    of_gpu = {
        row["name"]: row["ms"] / 1e3
        for row in read("gpu-nvidia-h100")["rows"]
        if row["domain"] == "crf" and row["shape"] == [64, 256, 32] and "ms" in row
    }
    ours = of_gpu["loss and gradient, in a graph"]
    others = [
        (name, of_gpu[key] / ours)
        for key, name in (
            ("jax: scaled lax.scan under jit", "scaled JAX scan"),
            ("torch: scaled recursion, in a graph", "torch in a CUDA graph"),
            ("pytorch-crf", "pytorch-crf"),
        )
        if key in of_gpu
    ]
    yield f"{CRF}, NVIDIA H100", milliseconds(ours), listed(others)
    steps = read("optimizer-amd-epyc-2-cores")["optimizer"]["BERT-base"]
    for case, names in (
        (
            "rates by layer",
            {"keras MultiOptimizer": "Keras MultiOptimizer", "torch fused": "torch, fused"},
        ),
        ("global norm", {"keras": "Keras", "keras, XLA": "XLA", "torch fused": "torch, fused"}),
    ):
        of_case = steps[case]
        ours = of_case["fastkeras"]["cpu"]["median"]
        others = [(title, of_case[n]["cpu"]["median"] / ours) for n, title in names.items()]
        yield f"AdamW step, 110 M parameters, {case}", milliseconds(ours), listed(others)
    skip_gram = read("word2vec-amd-epyc-2-cores")["word2vec"]["skip-gram"]
    ours = skip_gram["fastkeras, window-shared"]
    others = [(name, ratio(ours, skip_gram[name])[0]) for name in ("gensim", "fastText")]
    yield "Word2Vec, skip-gram", f"{speed(ours) / 1e6:.1f} M words / CPU second", listed(others)


CRF = "CRF, loss and gradient, 64 × 256 × 32"
TENSORFLOW = {
    "tensorflow_native": "",
    "keras, XLA": "Keras operations under XLA",
    "pytorch-crf": "pytorch-crf",
}
JAX = {"jax_native": "", "keras on JAX": "Keras operations under jit", "JAX scan": "`lax.scan`"}
TORCH = {"torch_native": "", "keras on torch": "Keras operations", "pytorch-crf": "pytorch-crf"}


def crf_row(title, found, providers):
    ours, *_ = providers
    base = found[ours]["median"]
    others = [
        (name, found[key]["median"] / base)
        for key, name in providers.items()
        if name and key in found
    ]
    return f"{CRF}, {title}", milliseconds(base), listed(others)


def listed(others):
    return "; ".join(f"{name} {by:,.{0 if by >= 10 else 1}f}×" for name, by in others)


def milliseconds(seconds):
    value = 1000 * seconds
    return f"{value:.{2 if value < 10 else 1}f} ms"


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def note():
    machine = read("crf-amd-epyc-2-cores")["machine"]
    return (
        f"Times, and those of others as multiples; {machine['cpu']}, {machine['threads']} threads "
        "for everybody, but for the line that names a GPU. Errors, more sizes, and where we lose: "
        "[docs/speed.md](docs/speed.md)."
    )
