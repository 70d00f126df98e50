"""The table of docs/optimizers.md: how well moments of fewer bits train."""

PROBLEMS = {
    "quadratic": "quadratic, curvatures of 10⁻⁴ to 10⁴ in each block",
    "quadratic, Lion": "the same, Lion",
    "shrinking gradients": "steps, where half of the gradients became 30 times smaller",
    "Zipf embedding": "embedding whose words have Zipf's frequencies",
    "language model": "language model of characters, Adam",
    "language model, momentum": "the language model, momentum",
    "language model, Lion": "the language model, Lion",
    "MiniLM": "MiniLM, fine-tuned on tweets, AdamW",
}
CODES = {
    "float32": "float32",
    "fastkeras": "8 bits",
    "bfloat16, both at random": "bfloat16",
    "dynamic": "dynamic code, nearest",
}


def markdown(results, path):
    lines = [f"| rms distance, loss, error or steps, three seeds | {' | '.join(CODES.values())} |"]
    lines.append("|---|" + "---|" * len(CODES))
    for problem, title in PROBLEMS.items():
        if problem in results["problems"]:
            of_problem = results["problems"][problem]
            cells = [cell(of_problem.get(code), of_problem["float32"]) for code in CODES]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    note = (
        "After the three numbers: by how much their mean is larger than in float32, and at most "
        "how many times as large the largest weight became. "
        f"[{path.name}](../bench/results/{path.name})"
    )
    return "\n".join([*lines, "", note])


def cell(rows, exact):
    if rows is None:
        return ""
    losses = ", ".join(f"{row['loss']:.3f}" for row in rows)
    if rows is exact:
        return losses
    more, largest = beside(rows, exact)
    return f"{losses} · {more:+.1%}, {largest:.2f} ×"


def beside(rows, exact):
    """How much larger the mean of the losses is, and how many times as large the largest weight."""
    more = sum(row["loss"] for row in rows) / sum(row["loss"] for row in exact) - 1
    return more, max(a["largest"] / b["largest"] for a, b in zip(rows, exact, strict=True))
