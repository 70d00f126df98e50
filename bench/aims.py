"""Tables of docs/: what is aimed at, what is reached, and why not."""

from typing import NamedTuple


class Aim(NamedTuple):
    """One row: a number that is to be at most, or at least, another; and why it may not be."""

    name: str
    value: float
    aim: float
    at_most: bool
    text: str = "{:.2f} ×"
    scale: float = 1.0
    reason: str = ""

    @property
    def reached(self):
        return self.value <= self.aim if self.at_most else self.value >= self.aim


def table(aims, paths, reached=True):
    """Return the table of aims, perhaps of those missed alone, and links to the results."""
    lines = ["| | aim | reached | if not, why |", "|---|---:|---:|---|"]
    for aim in aims:
        if aim.reached and not reached:
            continue
        bound = "at most" if aim.at_most else "at least"
        limit, value = (aim.text.format(aim.scale * x) for x in (aim.aim, aim.value))
        mark = value if aim.reached else f"**{value}**"
        why = "" if aim.reached else aim.reason
        lines.append(f"| {aim.name} | {bound} {limit} | {mark} | {why} |")
    links = ", ".join(f"[{path.name}](../bench/results/{path.name})" for path in paths)
    missed = sum(not aim.reached for aim in aims)
    counted = f"{len(aims) - missed} of {len(aims)} are reached"
    others = "" if reached else ", which are left out"
    return "\n".join([*lines, "", f"{counted}{others}; {links}."])
