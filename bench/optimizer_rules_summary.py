"""What the benchmark of the optimizers' rules says at its end."""


def summary(results):
    for rule, row in results.get("optimizer_rules", {}).items():
        yield (
            f"{rule:>28}: {row['bytes']} bytes a number, {row['median']:.2f} × the time of moving "
            f"them ({row['p20']:.2f} to {row['p80']:.2f})"
        )
