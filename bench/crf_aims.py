"""The table of docs/crf.md: what the CRF is to reach, what it reaches, and why not."""

from aims import Aim, table
from crf_inference_summary import DOOR, LIMITS, SECOND_ORDER, SEMI_MARKOV, VARYING
from crf_summary import LIMIT_OF_FEW, LIMIT_OF_MANY, arithmetic_limit, ratio, targets

from fastkeras.bench.crf import OF_BACKEND

TITLES = {"gradient": "loss and gradient", "viterbi": "Viterbi"}
MORE_THAN_CACHES = 64  # MB
OURS = OF_BACKEND["tensorflow"][0]

OF_CALLS = (
    "an empty `tf.function` takes {empty:.2f} ms of its {ours:.2f} ms, the kernel {native:.2f} ms"
)
OF_FEW = (
    "a step of 16 sequences is a chain of dependent operations on few vectors, so that latency "
    "and transposing count beside the multiply-adds"
)
OF_ONE_THREAD = (
    "the limit is that of two threads, and to wake the second takes longer than it saves"
)
SHORT = 1e-4  # seconds, below which a call stays on one thread
OF_MEMORY = (
    "emissions, rows that the backward sweep reads and the gradient fill {megabytes:.0f} MB, from "
    "memory; the multiply-adds of the limit are in registers"
)
REASONS = {
    "k_best": "the k best of a tag are sorted, where a step of Viterbi is cheapest",
    "sample": (
        "a sample is one choice among K weights at each step, whereas the gradient takes all at "
        "once; where tags are few the choices count most"
    ),
    "marginals": "both are the same sweeps; the results of marginals are as large as the gradients",
    "constrained": (
        "with forbidden transitions rows are rescaled and looked at up to 8 times as often; to "
        "look less often would send the chains of confident taggers to the exact path"
    ),
    "log-likelihood, weighted": (
        "a weight of a step needs the logarithm of its own probability; log Z needs one for each "
        "sequence"
    ),
    "gradient, weighted": "as above, and each step adds to the derivative of its gold tag",
}
OF_TRIPLES = (
    "prefixes are computed once more on the way back, the longest sequence of a vector sets its "
    "pace, and products with entries that are broadcast run at two thirds of the peak"
)
OF_VARYING = (
    "{ours:.2f} ms, where the limit of the memory is {limit:.2f} ms: the latency of a step's sums "
    "and exponentials bounds it"
)
OF_VARYING_CALLS = "the kernel takes {native:.2f} ms of {ours:.2f} ms, TensorFlow the others"


def markdown(chains, inference):
    """What is missed, from (results, path) of bench_crf.py and of bench_crf_inference.py."""
    aims = [*of_chains(chains[0]), *of_inference(inference[0])]
    return table(aims, [chains[1], inference[1]], reached=False)


def of_chains(results):
    """Times of the limit of arithmetic, and of the fastest peers."""
    for workload in results["crf"].values():
        shape, num_tags = " × ".join(map(str, workload["shape"])), workload["shape"][2]
        for function, title in TITLES.items():
            rows = workload[function]
            native = rows["native"]["median"]
            times = native / arithmetic_limit(workload, function, results["limit"])
            bound = LIMIT_OF_FEW if num_tags < 10 else LIMIT_OF_MANY
            steps = workload["valid_steps"]
            megabytes = 4e-6 * steps * num_tags * 4
            of_memory = megabytes > MORE_THAN_CACHES
            reason = OF_ONE_THREAD if native < SHORT else OF_FEW
            reason = OF_MEMORY.format(megabytes=megabytes) if of_memory else reason
            what = f"{title}, {shape}"
            yield Aim(f"{what}: NumPy, times its limit", times, bound, True, reason=reason)
            for peers, aim in targets(function, num_tags, "tensorflow"):
                peers = [peer for peer in peers if peer in rows]
                value, low, high = ratio(rows, peers, OURS)
                of_call = OF_CALLS.format(
                    empty=1e3 * results["empty_call"],
                    ours=1e3 * rows[OURS]["median"],
                    native=1e3 * native,
                )
                of_spread = f"the ratios of this run go from {low:.1f} to {high:.1f}"
                reason = (
                    of_call if results["empty_call"] > 0.2 * rows[OURS]["median"] else of_spread
                )
                fastest = min(peers, key=lambda peer: rows[peer]["median"])
                named = f"{what}: TensorFlow, times as fast as {fastest}"
                yield Aim(named, value, aim, False, "{:.1f} ×", reason=reason)


def of_inference(results):
    for workload in results["crf"].values():
        shape = " × ".join(map(str, workload["shape"]))
        for what, (by, aim, title) in LIMITS.items():
            if aim is not None:
                value = workload[what]["median"] / workload[by]["median"]
                yield Aim(f"{title}, {shape}", value, aim, True, reason=REASONS[what])
    for what in ("log-likelihood", "gradient", "viterbi"):
        rows = results["doors"]
        value = rows[what]["median"] - rows[f"{what}, kernel"]["median"]
        shape = " × ".join(map(str, rows["shape"]))
        named = f"{what}, {shape}: the function beside its kernel"
        yield Aim(named, value, DOOR, True, "{:.1f} µs", 1e6)
    for workload in results["varying"].values():
        shape = " × ".join(map(str, workload["shape"]))
        for ours, title in (("native", "NumPy"), (OURS, "TensorFlow")):
            peer, mine = workload["keras, XLA"]["median"], workload[ours]["median"]
            native, limit = workload["native"]["median"], workload["limit of memory"]
            reason = OF_VARYING if ours == "native" else OF_VARYING_CALLS
            reason = reason.format(ours=1e3 * mine, native=1e3 * native, limit=1e3 * limit)
            yield Aim(
                f"varying transitions, {shape}: {title}, times as fast as Keras under XLA",
                peer / mine, VARYING, False, "{:.1f} ×", reason=reason,
            )  # fmt: skip
    for workload in results["second_order"].values():
        shape, limits = " × ".join(map(str, workload["shape"])), workload["limits of arithmetic"]
        value = workload["gradient"]["median"] / limits["gradient"]
        named = f"second order, loss and gradient, {shape}: NumPy, times its limit"
        yield Aim(named, value, SECOND_ORDER, True, reason=OF_TRIPLES)
    rows = results["semi_markov"]
    shape = " × ".join(map(str, rows["shape"]))
    for what in ("log_partition", "marginals", "viterbi"):
        value = rows[f"{what}, flash-semicrf"]["median"] / rows[what]["median"]
        named = f"semi-Markov {what}, {shape}: times as fast as flash-semicrf"
        yield Aim(named, value, SEMI_MARKOV, False, "{:.0f} ×")
