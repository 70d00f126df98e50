"""The plots of the page of `fastkeras bench`: for each section a function that draws its panels.

Each takes what was found and the styles of the providers, and yields (name, svg).
"""

import io
from functools import partial

import numpy as np

from fastkeras.bench import report
from fastkeras.bench.cases import SIZES
from fastkeras.bench.limits import arithmetic

COLORS = (  # that can be told apart, also by the color-blind
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b"),
    *("#1b9e3f", "#b40426", "#555555", "#999933", "#3b4cc0"),
)
SMALLEST = 1e-12  # an exact result needs a place on a logarithmic scale too


def styles_of(found):
    """The color of each provider, and whether it is ours: then its markers are filled."""
    providers = {row["provider"]: row["ours"] for row in found["rows"]}
    return {
        provider: (COLORS[place % len(COLORS)], ours)
        for place, (provider, ours) in enumerate(providers.items())
    }


def times(found, styles):
    """The medians, as bars."""
    for function in report.functions(found):
        rows = sorted(report.largest(found, function), key=lambda row: -row["median"])

        def draw(axes, rows=rows):
            for place, row in enumerate(rows):
                color, filled = styles[row["provider"]]
                spread = [[row["median"] - row["p20"]], [row["p80"] - row["median"]]]
                axes.barh(
                    place, row["median"], xerr=spread, capsize=2, ecolor="black",
                    color=color if filled else "white", edgecolor=color,
                )  # fmt: skip
            axes.set_yticks(range(len(rows)), [row["provider"] for row in rows])
            ends = min(row["p20"] for row in rows) / 3, max(row["p80"] for row in rows) * 2
            axes.set(xscale="log", xlabel="seconds", xlim=ends, ylim=_bars(rows))

        yield function, _drawn(draw)


def against_size(quantity, label, found, styles):
    """A quantity against the size of the problem, with all processors."""
    most = max((row["threads"] for row in found["rows"]), default=0)
    rows = [row for row in found["rows"] if row["threads"] == most and quantity in row]
    label = {"x": SIZES[found["domain"]], "y": label}
    return _lines(rows, "size", quantity, label, found, styles)


def against_threads(found, styles):
    """The times of the largest size against the number of processors."""
    rows = []
    for function in report.functions(found):
        of_function = [row for row in found["rows"] if row["function"] == function]
        largest = max(row["size"] for row in of_function)
        rows += [row for row in of_function if row["size"] == largest]
    label = {"x": "processors", "y": "seconds"}
    return _lines(rows, "threads", "median", label, found, styles)


def errors(found, styles):
    """Error against time: lower left is better."""
    for function in report.functions(found):
        rows = [row for row in report.largest(found, function) if "error" in row]

        def draw(axes, rows=rows):
            for row in rows:
                _mark(axes, row["median"], max(row["error"], SMALLEST), styles[row["provider"]])
            axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="largest error")

        if rows:
            yield function, _drawn(draw)


def roofline(found, styles):
    """Arithmetic per second against arithmetic per byte, below what the machine can do."""
    rates = found["rates"]
    for function in report.functions(found):
        rows = [row for row in report.largest(found, function) if row["work"].get("bytes")]
        points = [
            (arithmetic(row["work"], rates) / row["work"]["bytes"],
             arithmetic(row["work"], rates) / row["median"], row)
            for row in rows if arithmetic(row["work"], rates)
        ]  # fmt: skip

        def draw(axes, points=points):
            ridge = rates["flops"] / rates["bytes"]
            intensities = [intensity for intensity, _, _ in points]
            low, high = min(*intensities, ridge) / 4, max(*intensities, ridge) * 4
            x = np.geomspace(low, high, 100)
            roof = np.minimum(rates["flops"], x * rates["bytes"])
            axes.plot(x, roof, color="black", lw=1.2)
            axes.fill_between(x, roof, roof.max() * 3, color="#f0f0f0", lw=0)
            for intensity, speed, row in points:
                _mark(axes, intensity, speed, styles[row["provider"]])
            axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(None, roof.max() * 3))
            axes.set(xlabel="operations per byte", ylabel="operations per second")

        if points:
            yield function, _drawn(draw)


def distances(found, styles):
    """How many times as long as an ideal kernel each takes, as bars."""
    for function in report.functions(found):
        rows = [
            (row["median"] / limit, row["provider"])
            for row in report.largest(found, function)
            if (limit := report.ideal(row["work"], found["rates"]))
        ]
        rows.sort(reverse=True)

        def draw(axes, rows=rows):
            for place, (distance, provider) in enumerate(rows):
                color, filled = styles[provider]
                axes.barh(place, distance, color=color if filled else "white", edgecolor=color)
            axes.axvline(1, color="black", lw=1)
            axes.set_yticks(range(len(rows)), [provider for _, provider in rows])
            axes.set(xscale="log", xlabel="times as long as the limit", ylim=_bars(rows))

        if rows:
            yield function, _drawn(draw)


SECTIONS = (  # heading, explanation, function
    ("Time", "Medians; the black lines reach from the 20th to the 80th percentile.", times),
    (
        "Error against time",
        "Against float64, at the largest size; lower left is better. Results that are exact stand "
        f"at {SMALLEST:.0e}.",
        errors,
    ),
    (
        "Time against size",
        "With all processors, on logarithmic scales: the constant costs of a call keep a line flat "
        "at first.",
        partial(against_size, "median", "seconds"),
    ),
    (
        "Error against size",
        f"The largest error against float64; {SMALLEST:.0e} for results that are exact.",
        partial(against_size, "error", "largest error"),
    ),
    (
        "Time against processors",
        "Each number of processors in a process of its own, at the largest size; the dotted lines "
        "would be half the time with twice the processors.",
        against_threads,
    ),
    (
        "Roofline",
        "The line is what this machine does at best: multiply-adds, or to the left of the bend "
        "copies. An exp counts as the operations that NumPy's exp takes the time of.",
        roofline,
    ),
    (
        "Distance to the limit of this machine",
        "The limit is the time of the arithmetic or of the memory traffic at the best rates "
        "measured, whichever is longer.",
        distances,
    ),
)


def _lines(rows, x, y, label, found, styles):
    """One panel for each function, one line for each provider that has more than one point."""
    for function in report.functions(found):
        series = {}
        for row in rows:
            if row["function"] == function:
                point = row[x], max(row[y], SMALLEST)
                series.setdefault(row["provider"], []).append(point)
        series = {name: sorted(points) for name, points in series.items() if len(points) > 1}

        def draw(axes, series=series):
            ticks = sorted({at for points in series.values() for at, _ in points})
            for provider, points in series.items():
                _mark(axes, *zip(*points, strict=True), styles[provider])
                if x == "threads":
                    (first, most), *_ = points
                    halved = [most * first / at for at in ticks]
                    axes.plot(ticks, halved, ":", lw=0.8, color=styles[provider][0])
            axes.set(xscale="log", yscale="log", xlabel=label["x"], ylabel=label["y"])
            axes.set_xticks(ticks, [_short(tick) for tick in ticks])
            axes.minorticks_off()

        if series:
            yield function, _drawn(draw)


def _mark(axes, x, y, style):
    color, filled = style
    axes.plot(x, y, "o-", color=color, lw=1.5, ms=6, mfc=color if filled else "white", mew=1.5)


def _bars(rows):
    """The ends of the axis on which bars stand: a few of them are no thicker than many."""
    return -0.6, max(len(rows), 4) - 0.4


def _short(number):
    """A number with two digits and K, M or G."""
    for suffix, factor in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= factor:
            value = number / factor
            return f"{value:.1f}{suffix}" if value < 10 and value % 1 else f"{value:.0f}{suffix}"
    return f"{number:g}"


def _drawn(draw):
    """The SVG of a panel."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"font.size": 10, "svg.hashsalt": "fastkeras", "axes.grid": True}
    style |= {"grid.color": "#e5e5e5", "axes.axisbelow": True}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]
