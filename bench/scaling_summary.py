"""The exponents of a run of bench_scaling.py: as lines, as a table, and drawn."""

from fastkeras.bench.scaling import ASYMPTOTIC

THREADS = "Time on the clock, by threads"


def summary(results):
    """The lines printed at the end of a run."""
    yield ""
    yield f"scaling on {results['machine']['cpu']}, one thread, float32"
    for row in results["scaling"]:
        yield f"  {row['kernel']:24} {row['size_of']:12} {_grows(row)}"


def markdown(results, path):
    """The table and the picture of docs/speed.md."""
    lines = ["| kernel | size | from … to | seconds | measured p |", "|---|---|---:|---:|---:|"]
    lines += [_line(row) for row in results["scaling"]]
    machine = results["machine"]
    note = (
        f"p is the slope over the {ASYMPTOTIC} largest sizes, ± its standard error; for threads, "
        f"how many times as fast. {machine['cpu']} ({machine['instruction_set']}), processor time "
        "of one thread, for threads time on the clock, the least of several; "
        f"[{path.name}](../bench/results/{path.name})."
    )
    picture = "![Time of a call against each size](img/scaling.svg)"
    return "\n".join([*lines, "", note, "", picture])


def draw(results, path):
    """A panel for each kernel: time against each size, relative to its smallest."""
    import matplotlib.pyplot as plt

    kernels = list(dict.fromkeys(row["kernel"] for row in results["scaling"]))
    style = {"font.size": 9.5, "svg.hashsalt": "fastkeras", "axes.titleweight": "bold"}
    with plt.rc_context(style):
        figure, panels = plt.subplots(3, 2, figsize=(8, 9), layout="constrained")
        for axes, title in zip(panels.flat, [*kernels, THREADS], strict=True):
            for row in results["scaling"]:
                if title == (row["kernel"] if "exponent" in row else THREADS):
                    sizes = [size / row["sizes"][0] for size in row["sizes"]]
                    axes.plot(sizes, row["seconds"], "o-", ms=4, label=_label(row))
            axes.set(yscale="log", ylabel="seconds", xlabel="size, in multiples of the smallest")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            if title == THREADS:
                axes.set(xlabel="threads")
            axes.set_title(title, loc="left")
            bottom, top = axes.get_ylim()
            axes.set_ylim(top=top * (top / bottom) ** 0.4)  # room for the legend
            axes.legend(frameon=False, fontsize=8, loc="upper left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="#eeeeee")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _line(row):
    first, last = (f"{row['sizes'][end]:,}" for end in (0, -1))
    start, end = (_milliseconds(row["seconds"][place]) for place in (0, -1))
    cells = row["kernel"], row["size_of"], f"{first} … {last}", f"{start} … {end}", _grows(row)
    return f"| {' | '.join(cells)} |"


def _label(row):
    if "exponent" not in row:
        return row["kernel"]
    return f"{row['size_of']} from {row['sizes'][0]:,}"


def _grows(row):
    if "exponent" in row:
        return f"{row['exponent']:.2f} ± {row['standard_error']:.2f}"
    return f"{row['seconds'][0] / min(row['seconds']):.2f}× faster"


def _milliseconds(seconds):
    return f"{1e3 * seconds:,.3g} ms"
