"""A page that shows the results of `fastkeras bench` in pictures; it needs no other file."""

import html
import io

import matplotlib

from fastkeras.bench import report

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto; background: #f6f6f6; padding: 1rem } svg { max-width: 100%; height: auto }
"""


def page(title, found):
    """The whole page as text.

    Args:
        title: what was measured, on which machine.
        found: as `--json` writes it.
    """
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    parts = [f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(_text(found))}</pre>"]
    for heading, draw in PICTURES.items():
        figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
        if draw(axes, found):
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            svg = drawn.getvalue()
            parts += [f"<h2>{html.escape(heading)}</h2>", svg[svg.index("<svg") :]]
        plt.close(figure)
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    body = "\n".join(parts)
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def _text(found):
    return "\n".join(report.table(found)).strip("\n")


def times(axes, found):
    """The medians at the largest size, as bars."""
    rows = _largest(found)
    for place, row in enumerate(reversed(rows)):
        color = "#2166ac" if row["ours"] else "#aaaaaa"
        spread = [[row["median"] - row["p20"]], [row["p80"] - row["median"]]]
        axes.barh(place, row["median"], color=color, xerr=spread, ecolor="black", capsize=2)
    axes.set_yticks(range(len(rows)), [f"{r['function']}, {r['provider']}" for r in reversed(rows)])
    axes.set(xscale="log", xlabel="seconds; the line is from the 20th to the 80th percentile")
    return rows


def errors(axes, found):
    """Error against time: lower left is better."""
    rows = [row for row in _largest(found) if "error" in row]
    for row in rows:
        error = max(row["error"], 1e-12)  # so that an exact result has a place on the log scale
        axes.plot(row["median"], error, "o", label=f"{row['function']}, {row['provider']}")
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="largest error against float64")
    if rows:
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return rows


def by_size(quantity, label):
    """A plot of a quantity against the size of the problem."""

    def draw(axes, found):
        series = {}
        for row in found["rows"]:
            if quantity in row and row["size"]:
                series.setdefault((row["function"], row["provider"]), []).append(row)
        series = {name: rows for name, rows in series.items() if len(rows) > 1}
        for (function, provider), rows in series.items():
            rows.sort(key=lambda row: row["size"])
            values = [max(row[quantity], 1e-12) for row in rows]
            sizes = [row["size"] for row in rows]
            axes.plot(sizes, values, "o-", label=f"{function}, {provider}")
        axes.set(xscale="log", yscale="log", xlabel="size: steps of all sequences, or numbers")
        axes.set_ylabel(label)
        if series:
            axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        return series

    return draw


def roofline(axes, found):
    """Work per second, compared with the rate of a matrix product or a copy on this machine."""
    drawn = [
        (row, row["work"][kind] / row["median"] / found["rates"][kind])
        for row in reversed(_largest(found))
        for kind in ("flops", "bytes")
        if row["work"].get(kind)
    ]
    for place, (row, share) in enumerate(drawn):
        axes.barh(place, share, color="#2166ac" if row["ours"] else "#aaaaaa")
    axes.set_yticks(range(len(drawn)), [f"{r['function']}, {r['provider']}" for r, _ in drawn])
    axes.axvline(1, color="black", lw=1)
    axes.set(xscale="log", xlabel="share of the rate of a matrix product (CRF), or of a copy")
    return drawn


PICTURES = {
    "Time": times,
    "Error against time": errors,
    "Time against size": by_size("median", "seconds"),
    "Error against size": by_size("error", "largest error against float64"),
    "Distance to the limit of this machine": roofline,
}


def _largest(found):
    sizes = {}
    for row in found["rows"]:
        sizes[row["function"]] = max(row["size"], sizes.get(row["function"], 0))
    return [row for row in found["rows"] if row["size"] == sizes[row["function"]]]
