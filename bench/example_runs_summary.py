"""What examples printed, for examples/README.md and the docs."""


def markdown(results, path=None):
    """What each example printed, by its name; with a path, a link to it from a page of docs/."""
    link = "" if path is None else f"\n\n[{path.name}](../bench/results/{path.name})"
    return {
        name: "\n".join(["```", *run["printed"], "```"]) + link
        for name, run in results["runs"].items()
    }
