"""What the benchmark of the optimizers' rules says at its end."""

MUON_OVER_PRODUCTS, KERAS_OVER_MUON = 1.25, 2.0  # at most, at least


def summary(results):
    for rule, row in results.get("optimizer_rules", {}).items():
        yield (
            f"{rule:>28}: {row['bytes']} bytes a number, {row['median']:.2f} × the time of moving "
            f"them ({row['p20']:.2f} to {row['p80']:.2f})"
        )
    for ns_dtype, row in results.get("muon", {}).items():
        yield f"{'Muon, ' + ns_dtype:>28}: {1000 * row['cpu']:,.0f} ms of processor time"
        over = row["products"]["median"]
        yield f"{over:28.2f} × the time of its products (aim: at most {MUON_OVER_PRODUCTS})"
        if "gemm" in row:
            over, rate = row["gemm"]["median"], row["gemm_gflops"]
            yield f"{over:28.2f} × that at the {rate:.0f} GFLOP/s of a large one"
        if "keras" in row:
            faster = 1 / row["keras"]["median"]
            yield f"{faster:28.2f} × as fast as Keras' (aim: at least {KERAS_OVER_MUON})"
