"""The results of `fastkeras bench` as a table, and compared with an earlier run."""

from fastkeras.bench.limits import ideal

SLOWER = 1.2  # times as slow; it must also be more than the spread of both runs explains


def table(found):
    """The lines of a table for each function; ratios are relative to the fastest of our engines."""
    lines = []
    for function in dict.fromkeys(row["function"] for row in found["rows"]):
        rows = sorted(_of(found, function), key=lambda row: row["median"])
        base = next((row for row in rows if row["ours"]), rows[0])
        lines += ["", f"{function}", f"  {'':26}{'median':>12}  {'20 to 80 %':>23}{'ratio':>9}  "
                  f"{'error':>8}  of the limit"]  # fmt: skip
        for row in rows:
            limit = ideal(row["work"], found["rates"])
            share = f"{row['median'] / limit:9.1f} ×" if limit else ""
            error = f"{row['error']:8.0e}" if "error" in row else f"{'':8}"
            spread = f"{_seconds(row['p20'])} to {_seconds(row['p80'])}"
            lines.append(
                f"  {row['provider']:26}{_seconds(row['median']):>12}  {spread:>23}"
                f"{row['median'] / base['median']:8.2f}×  {error}  {share}".rstrip()
            )
    for function, provider, reason in found["skipped"]:
        lines.append(f"  {function}, {provider}: {reason.splitlines()[0]}")
    return lines


def compared(found, old):
    """Lines that compare with an earlier run, and whether anything has become slower.

    Times are divided by those that arithmetic or copying took in the same run, so that another
    machine, or a busy one, does not look like slower code.
    """
    lines, slower = ["", "against the earlier run, each in units of its own machine"], False
    before = {(row["function"], row["provider"], row["size"]): row for row in old["rows"]}
    for row in found["rows"]:
        earlier = before.get((row["function"], row["provider"], row["size"]))
        if earlier is None:
            continue
        kind = "bytes" if "bytes" in row["work"] else "flops"
        machine = found["rates"][kind] / old["rates"][kind]
        ratio = row["median"] / earlier["median"] * machine
        surely = row["p20"] / earlier["p80"] * machine  # a good time now, a bad one then
        flagged = ratio > SLOWER and surely > 1
        slower |= flagged
        words = "  SLOWER" if flagged else ""
        lines.append(f"  {row['function'] + ', ' + row['provider']:44}{ratio:8.2f}×{words}")
    if len(lines) == 2:
        lines.append("  nothing in it is what was measured now")
    return lines, slower


def _of(found, function):
    largest = max(row["size"] for row in found["rows"] if row["function"] == function)
    return [r for r in found["rows"] if (r["function"], r["size"]) == (function, largest)]


def _seconds(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:,.3g} {unit}"
    return f"{seconds * 1e6:.2g} µs"
