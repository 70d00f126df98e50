"""The results of an earlier `fastkeras bench --json`, and what has become slower since."""

import json
from pathlib import Path

VERSION = 2  # of the results that --json writes
SLOWER = 1.2  # times as slow; it must also be more than the spread of both runs explains
CALIBRATIONS = ("calibration", "long_calibration")
NUMBERS = ("size", "threads", "median", "p20", "p80", *CALIBRATIONS)


def read(path, title):
    """The results in a file, checked.

    Args:
        path: of a file that --json wrote.
        title: what is measured now.

    Raises:
        OSError: it cannot be read.
        ValueError: --json did not write it, or not of this problem.
    """
    try:
        old = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except OSError as error:
        raise OSError(f"it cannot be read: {error.strerror}") from None
    if not isinstance(old, dict) or not isinstance(old.get("rows"), list):
        raise ValueError("`fastkeras bench --json` did not write it")
    if old.get("version") != VERSION:
        raise ValueError("another version of fastkeras wrote it; measure that one again")
    for row in old["rows"]:
        words = isinstance(row, dict) and (row.get("function"), row.get("provider"))
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"this is no measurement: {str(row)[:100]}")
        for name in NUMBERS:
            value = row.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{', '.join(words)}: {name}={value!r} is not a number")
        if not min(row[name] for name in ("median", "p80", *CALIBRATIONS)) > 0:
            raise ValueError(f"{', '.join(words)}: it took no time")
    if old.get("title") != title:
        raise ValueError(f"it is of {old.get('title')!r}, and now {title!r} is measured")
    return old


def compared(found, old):
    """Lines that compare with an earlier run, and whether anything has become slower.

    Each time is divided by that of the calibration kernels beside it, so that another machine, or a
    busy one, does not look like slower code: what either of the two explains is explained.
    """
    lines, slower = ["", "against the earlier run, each relative to its calibration"], False
    before = {_key(row): row for row in old["rows"]}
    for row in found["rows"]:
        earlier = before.get(_key(row))
        if earlier is None:
            continue
        machine = min(earlier[name] / row[name] for name in CALIBRATIONS)
        ratio = row["median"] / earlier["median"] * machine
        surely = row["p20"] / earlier["p80"] * machine  # a good time now, a bad one then
        flagged = ratio > SLOWER and surely > 1
        slower |= flagged
        words = "  SLOWER" if flagged else ""
        lines.append(f"  {row['function'] + ', ' + row['provider']:44}{ratio:8.2f}×{words}")
    if len(lines) == 2:
        lines.append("  nothing in it is what was measured now")
    return lines, slower


def _key(row):
    return row["function"], row["provider"], row["size"], row["threads"]
