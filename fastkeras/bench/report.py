"""The results of `fastkeras bench` as a table."""

from fastkeras.bench.limits import ideal

COLUMNS = ("", "median", "20 to 80 %", "ratio", "error", "of the limit")
WIDTHS = (28, 10, 21, 10, 8, 14)


def heading(found):
    """A line that says what was measured, and one about the machine."""
    machine, rates = found["machine"], found["rates"]
    return (
        f"{found['title']}, float32\n"
        f"{machine['cpu']}, {machine['processors']} processors: "
        f"{rates['flops'] / 1e9:,.0f} G flops a second in matrix products, "
        f"{rates['exps'] / 1e9:,.1f} G exps, {rates['bytes'] / 2**30:,.0f} GiB in copies"
    )


def table(found):
    """The lines of a table for each function, and of what was skipped or wrong."""
    lines = []
    for function in functions(found):
        lines += ["", _line((function, *COLUMNS[1:]))]
        lines += [_line(cells) for cells in rows_of(found, function)]
    return [*lines, *notes(found)]


def rows_of(found, function):
    """The cells of the table of a function, fastest first, as strings.

    Ratios are relative to the fastest of our engines; the limit is the time of an ideal kernel.
    """
    rows = sorted(largest(found, function), key=lambda row: row["median"])
    base = next((row for row in rows if row["ours"]), rows[0])
    for row in rows:
        limit = ideal(row["work"], found["rates"])
        yield (
            row["provider"],
            seconds(row["median"]),
            f"{seconds(row['p20'])} to {seconds(row['p80'])}",
            f"{row['median'] / base['median']:,.2f}×",
            f"{row['error']:.0e}" if "error" in row else "",
            f"{row['median'] / limit:,.1f}×" if limit else "",
        )


def notes(found):
    """Lines about what could not be measured: once each, if it is the same for all functions."""
    lines, reasons = [], {}
    for function, provider, reason in found["skipped"]:
        functions_of = reasons.setdefault((provider, reason.splitlines()[0]), [])
        if function not in functions_of:
            functions_of.append(function)
    every = {function for of_reason in reasons.values() for function in of_reason}
    every |= set(functions(found))
    for (provider, reason), of_reason in reasons.items():
        of = "" if every == set(of_reason) else f" ({', '.join(of_reason)})"
        lines.append(f"  {provider}{of}: {reason}")
    if lines:
        lines = ["", "not measured", *lines]
    return lines + [line for wrong in found["wrong"] for line in ("", f"WRONG: {wrong}")]


def functions(found):
    """What was computed, in order."""
    return list(dict.fromkeys(row["function"] for row in found["rows"]))


def largest(found, function):
    """The rows of a function at the largest size, with all processors."""
    rows = [row for row in found["rows"] if row["function"] == function]
    size, threads = (max(row[name] for row in rows) for name in ("size", "threads"))
    return [row for row in rows if (row["size"], row["threads"]) == (size, threads)]


def seconds(value):
    """A time with three digits and its unit."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:,.3g} {unit}"
    return f"{value * 1e6:.2g} µs"


def _line(cells):
    first, *rest = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    return f"  {cells[0]:{len(first)}}{''.join(rest)}".rstrip()
