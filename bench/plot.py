"""Draws docs/img and fills the marked parts of the documents, from bench/results/*.json alone."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import crf_aims
import crf_inference_summary
import crf_summary
import example_runs_summary
import gpu_summary
import matplotlib.pyplot as plt
import optimizer_aims
import optimizer_quantization_summary
import scaling_summary
import seq2seq_summary
import short_summary
import word2vec_aims
import word2vec_quality_summary
import word2vec_summary
import word2vec_vectors_summary
import word2vec_workers_summary

ROOT = Path(__file__).parents[1]
PROVIDERS = {  # in the table: name, color
    "tensorflow_native": ("**fastkeras**", "#2166ac"),
    "native": ("**fastkeras**, NumPy", "#92c5de"),
    "keras, XLA": ("composite, XLA", "#8c8c8c"),
    "JAX scan": ("JAX scan", "#b8b8b8"),
    "pytorch-crf": ("pytorch-crf", "#dddddd"),
}
TITLES = {"gradient": "Loss and gradient", "viterbi": "Viterbi"}


def main():
    (ROOT / "docs" / "img").mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "bench" / "results").glob("crf-[!io]*.json")):
        results = json.loads(path.read_text())
        draw(results, ROOT / "docs" / "img" / "crf.svg")
        fill(ROOT / "docs" / "speed.md", "crf", table(results, path))
    for path in sorted((ROOT / "bench" / "results").glob("crf-inference-*.json")):
        table_of_inference = crf_inference_summary.markdown(json.loads(path.read_text()), path)
        fill(ROOT / "docs" / "crf.md", "inference", table_of_inference)
        fill(ROOT / "docs" / "crf.md", "aims", aims_of_crf(path))
    for backend in BACKENDS:
        for path in sorted((ROOT / "bench" / "results").glob(f"crf-on-{backend}-*.json")):
            results = json.loads(path.read_text())
            fill(ROOT / "docs" / "crf.md", backend, backend_table(results, path, backend))
    for path in sorted((ROOT / "bench" / "results").glob("optimizer-*.json")):
        results = json.loads(path.read_text())
        if "optimizer" in results:
            fill(ROOT / "docs" / "speed.md", "optimizer", optimizer_table(results, path))
            fill(ROOT / "docs" / "optimizers.md", "others", others_table(results, path))
            fill(ROOT / "docs" / "optimizers.md", "aims", aims_table(results, path))
        if "problems" in results:
            quality = optimizer_quantization_summary.markdown(results, path)
            fill(ROOT / "docs" / "optimizers.md", "quality", quality)
    for path in sorted((ROOT / "bench" / "results").glob("seq2seq-*.json")):
        tables = seq2seq_summary.markdown(json.loads(path.read_text()), path)
        fill(ROOT / "docs" / "seq2seq.md", "seq2seq", tables)
    for path in sorted((ROOT / "bench" / "results").glob("word2vec-quality-*.json")):
        fill(ROOT / "docs" / "speed.md", "word2vec", word2vec_table(path))
        table_of_quality = word2vec_quality_summary.markdown(json.loads(path.read_text()), path)
        fill(ROOT / "docs" / "word2vec.md", "quality", table_of_quality)
        fill(ROOT / "docs" / "word2vec.md", "aims", aims_of_word2vec(path))
    for path in sorted((ROOT / "bench" / "results").glob("word2vec-vectors-*.json")):
        table_of_vectors = word2vec_vectors_summary.markdown(json.loads(path.read_text()), path)
        fill(ROOT / "docs" / "word2vec.md", "vectors", table_of_vectors)
    for path in sorted((ROOT / "bench" / "results").glob("word2vec-workers-*.json")):
        table_of_workers = word2vec_workers_summary.markdown(json.loads(path.read_text()), path)
        fill(ROOT / "docs" / "word2vec.md", "workers", table_of_workers)
    for path in sorted((ROOT / "bench" / "results").glob("scaling-*.json")):
        results = json.loads(path.read_text())
        scaling_summary.draw(results, ROOT / "docs" / "img" / "scaling.svg")
        fill(ROOT / "docs" / "speed.md", "scaling", scaling_summary.markdown(results, path))
    for path in sorted((ROOT / "bench" / "results").glob("gpu-*.json")):
        results = json.loads(path.read_text())
        text = f"{gpu_summary.tables(results)}\n\n[{path.name}](../bench/results/{path.name})"
        fill(ROOT / "docs" / "gpu.md", "gpu", text)
    fill(ROOT / "README.md", "short", short_summary.table())
    sys.path.append(str(ROOT / "examples"))
    import segment_report

    for path in sorted((ROOT / "bench" / "results").glob("demo-*.json")):
        results = json.loads(path.read_text())
        segment_report.draw(results, ROOT / "docs" / "img" / "segment.png")
        text = f"```\n{segment_report.report(results).strip()}\n```"
        fill(ROOT / "docs" / "speed.md", "demo", text)
        fill(ROOT / "examples" / "README.md", "demo", text)
    for path in sorted((ROOT / "bench" / "results").glob("examples-*.json")):
        results = json.loads(path.read_text())
        for name, text in example_runs_summary.markdown(results).items():
            fill(ROOT / "examples" / "README.md", name, text)
        of_chains = example_runs_summary.markdown(results, path)["semi_markov"]
        fill(ROOT / "docs" / "crf.md", "semi_markov", of_chains)
    import crf_memory
    import finetune_memory

    for path in sorted((ROOT / "bench" / "results").glob("memory-by-setting-*.json")):
        table_of_memory = finetune_memory.table(json.loads(path.read_text()))
        text = f"{table_of_memory}\n\n[{path.name}](../../bench/results/{path.name})"
        fill(ROOT / "docs" / "jobs" / "keras_hub.md", "memory", text)
    for path in sorted((ROOT / "bench" / "results").glob("checkpoint-memory-*.json")):
        table_of_memory = crf_memory.table(json.loads(path.read_text()))
        text = f"{table_of_memory}\n\n[{path.name}](../bench/results/{path.name})"
        fill(ROOT / "docs" / "crf.md", "checkpoint", text)
    import finetune_report

    for path in sorted((ROOT / "bench" / "results").glob("finetune-*.json")):
        results = json.loads(path.read_text())
        finetune_report.draw(results, ROOT / "docs" / "img" / "finetune.png")
        text = f"```\n{finetune_report.report(results).strip()}\n```"
        fill(ROOT / "examples" / "README.md", "finetune", text)


def table(results, path):
    """docs/speed.md: the table: a row for each workload, time and error for each provider."""
    lines = []
    for function, title in TITLES.items():
        names = [name for name, _ in PROVIDERS.values()]
        lines += [f"| {title} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        for workload, row in results["crf"].items():
            shape = " × ".join(map(str, row["shape"]))
            cells = [cell(row[function], name) for name in PROVIDERS]
            lines.append(f"| {workload}, {shape} | {' | '.join(cells)} |")
        lines.append("")
    machine = results["machine"]
    versions = machine["versions"]
    packages = {
        "TensorFlow": "tensorflow-cpu",
        "Keras": "keras",
        "torch": "torch",
        "pytorch-crf": "pytorch-crf",
        "JAX": "jax",
    }
    named = ", ".join(f"{name} {versions[package]}" for name, package in packages.items())
    note = (
        "Shapes are batch × steps × tags, lengths between half the steps and all of them. A cell "
        "is the median time and, after ±, the largest errors against float64: of a log-likelihood "
        "and of the gradient with respect to the emissions; for Viterbi, how far the path "
        "found falls short of the best score. "
        f"{machine['cpu']} ({machine['instruction_set']}), {machine['threads']} threads for "
        f"everybody, float32, {named}; [{path.name}](../bench/results/{path.name})."
    )
    if any("steps_scaled_by" in row for row in rows(results)):
        note += " ≈: from an eighth of the steps; all of them need more memory than there is."
    if "limit" in results:
        note += f" {of_limits(results)}"
    return "\n".join([*lines, note])


def of_limits(results):
    """How far the kernels are from what the machine can do at best."""

    def times(limit):
        seconds = [
            row["gradient"]["native"]["median"] / limit(row, "gradient", results["limit"])
            for row in results["crf"].values()
        ]
        return ", ".join(f"{number:.1f}" for number in seconds)

    return (
        "Loss and gradient on NumPy arrays take, row by row, "
        f"{times(crf_summary.arithmetic_limit)} times as long as their multiply-adds in registers "
        "and exponentials at a library's rate would on all threads, and "
        f"{times(crf_summary.multiply_add_limit)} times as long as multiply-adds alone, of which "
        f"an exponential takes {crf_summary.MULTIPLY_ADDS_OF_EXP}."
    )


BACKENDS = {  # by Keras' backend, in the table: name
    "jax": {
        "jax_native": "**`jax_native`**",
        "keras on JAX": "`keras`, under jit",
        "JAX scan": "`lax.scan`",
    },
    "torch": {
        "torch_native": "**`torch_native`**",
        "keras on torch": "`keras`",
        "pytorch-crf": "pytorch-crf",
        "pytorch-crf, compiled": "under torch.compile",
    },
}


def backend_table(results, path, backend):
    """The table of a backend in docs/crf.md: loss and gradient."""
    measured = {name for row in results["crf"].values() for name in row["gradient"]}
    names = {name: title for name, title in BACKENDS[backend].items() if name in measured}
    ours = next(iter(names))
    lines = [
        f"| Loss and gradient | {' | '.join(names.values())} |",
        "|---|" + "---:|" * len(names),
    ]
    for workload, row in results["crf"].items():
        shape = " × ".join(map(str, row["shape"]))
        cells = [cell(row["gradient"], name, ours) for name in names]
        lines.append(f"| {workload}, {shape} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"[{path.name}](../bench/results/{path.name})"])


OPTIMIZERS = {  # in the table: name
    "fastkeras": "**fastkeras**",
    "keras": "Keras",
    "keras, XLA": "Keras, XLA",
    "keras MultiOptimizer": "Keras MultiOptimizer",
    "torch fused": "torch, fused",
}


def optimizer_table(results, path):
    """docs/speed.md: the table of the optimizer step: a row for each model and case."""
    lines = [f"| AdamW step | {' | '.join(OPTIMIZERS.values())} |", "|---|" + "---:|" * 5]
    for model, of_model in results["optimizer"].items():
        count, millions = of_model["variables"], of_model["numbers"] / 1e6
        for case in ("one rate", "rates by layer", "global norm"):
            cells = [optimizer_cell(of_model[case], name) for name in OPTIMIZERS]
            name = f"{model}, {count} variables, {millions:.0f} M, {case}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
    machine, versions = results["machine"], results["machine"]["versions"]
    note = (
        "A cell is the median processor time of a step, gradients given, and after ± the largest "
        "error of the first step in units of the last place. Rates by layer: 14 learning rates; "
        "global norm: clipping by the norm of all gradients. "
        f"{machine['cpu']} ({machine['instruction_set']}), {machine['threads']} threads for "
        f"everybody, float32, in a tf.function, TensorFlow {versions['tensorflow-cpu']}, Keras "
        f"{versions['keras']}, torch {versions['torch']}; "
        f"[{path.name}](../bench/results/{path.name}), which has the times on the clock as well."
    )
    return "\n".join([*lines, "", note])


OTHERS = {  # backends of Keras but TensorFlow: in the table, and beside whom
    "fastkeras, torch": ("**`compat.torch_optim.AdamW`**", "fastkeras, torch"),
    "torch fused": ("torch, fused", "fastkeras, torch"),
    "fastkeras, JAX": ("**fastkeras**, JAX", "fastkeras, JAX"),
    "optax": ("optax, under jit", "fastkeras, JAX"),
}


def others_table(results, path):
    """The table of docs/optimizers.md: torch's and JAX' own optimizers beside ours."""
    lines = [f"| AdamW step | {' | '.join(title for title, _ in OTHERS.values())} |"]
    lines.append("|---|" + "---:|" * len(OTHERS))
    for model, of_model in results["optimizer"].items():
        for case, rows in of_model.items():
            if isinstance(rows, dict):
                cells = [optimizer_cell(rows, name, ours) for name, (_, ours) in OTHERS.items()]
                lines.append(f"| {model}, {case} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"[{path.name}](../bench/results/{path.name})"])


def aims_table(results, path):
    """The table of docs/optimizers.md: the aims, from three files, of which two may lack."""
    others = []
    for kind in ("rules", "quantization-quality"):
        file = path.with_name(path.name.replace("optimizer-", f"optimizer-{kind}-"))
        others.append((json.loads(file.read_text()) if file.exists() else None, file))
    return optimizer_aims.markdown(results, path, *others)


def optimizer_cell(rows, name, of="fastkeras"):
    if name not in rows or of not in rows:
        return ""
    row, ours = rows[name], rows[of]
    text = f"{milliseconds(row['cpu']['median'])} ± {row['error']:.1f}"
    if row is ours:
        return f"**{text}**"
    return f"{text} · {row['cpu']['median'] / ours['cpu']['median']:.1f}×"


def word2vec_table(quality_path):
    """docs/speed.md: the table of Word2Vec: speed and quality, from two files."""
    path = quality_path.with_name(quality_path.name.replace("quality-", ""))
    results, quality = (json.loads(p.read_text()) for p in (path, quality_path))
    return word2vec_summary.markdown(results, quality, path, quality_path)


def aims_of_crf(inference_path):
    """The table of docs/crf.md: the aims, from two files."""
    path = inference_path.with_name(inference_path.name.replace("inference-", ""))
    return crf_aims.markdown(*((json.loads(p.read_text()), p) for p in (path, inference_path)))


def aims_of_word2vec(quality_path):
    """The table of docs/word2vec.md: the aims, from four files, of which some may lack."""
    names = ("", "quality-", "vectors-", "workers-")
    paths = [quality_path.with_name(quality_path.name.replace("quality-", n)) for n in names]
    given = [(json.loads(p.read_text()), p) if p.exists() else None for p in paths]
    return word2vec_aims.markdown(*given)


def rows(results):
    for workload in results["crf"].values():
        for function in TITLES:
            yield from workload[function].values()


def cell(rows, name, ours="tensorflow_native"):
    row = rows.get(name)
    if row is None:
        return ""
    about = "≈ " if "steps_scaled_by" in row else ""
    errors = [row[key] for key in ("error", "gradient_error") if key in row]
    text = f"{about}{milliseconds(row['median'])} ± {' / '.join(map(short, errors))}"
    if name == ours:
        return f"**{text}**"
    return f"{text} · {row['median'] / rows[ours]['median']:.1f}×"


def short(error):
    return f"{error:.0e}".replace("e-0", "e-") if error else "0"


def milliseconds(seconds):
    value = 1000 * seconds
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


def fill(path, name, text):
    """Replace the text between the markers of this name."""
    begin, end = f"<!-- {name}: begin, made by bench/plot.py -->", f"<!-- {name}: end -->"
    whole = path.read_text("utf-8")
    before, _, rest = whole.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no markers {begin!r} … {end!r}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def draw(results, path):
    """Times as multiples of fastkeras' own, on a logarithmic scale."""
    style = {"font.size": 9.5, "svg.hashsalt": "fastkeras", "axes.titleweight": "bold"}
    workloads = results["crf"]
    with plt.rc_context(style):
        figure, panels = plt.subplots(2, 1, figsize=(8, 10), sharex=True, layout="constrained")
        for axes, (function, title) in zip(panels, TITLES.items(), strict=True):
            draw_function(axes, workloads, function)
            axes.set_title(f"{title}: times as long as fastkeras", loc="left")
            axes.set_yticks(
                range(len(workloads)),
                [f"{n}\n{' × '.join(map(str, row['shape']))}" for n, row in workloads.items()],
            )
            axes.invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_function(axes, workloads, function):
    height = 0.8 / len(PROVIDERS)
    for i, (provider, (name, color)) in enumerate(PROVIDERS.items()):
        places, times = [], []
        for j, workload in enumerate(workloads.values()):
            if provider in workload[function]:
                ours = workload[function]["tensorflow_native"]["median"]
                places.append(j + (i - (len(PROVIDERS) - 1) / 2) * height)
                times.append(workload[function][provider]["median"] / ours)
        axes.barh(places, times, 0.9 * height, color=color, label=name.replace("*", ""))
        for place, time in zip(places, times, strict=True):
            if time != 1:
                text = f"{time:.3g}×" if time < 100 else f"{time:,.0f}×"
                axes.text(time * 1.06, place, text, va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(left=min(0.8, axes.get_xlim()[0]), right=axes.get_xlim()[1] * 1.6)
    axes.axvline(1, color="#2166ac", lw=0.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}×")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)


if __name__ == "__main__":
    main()
