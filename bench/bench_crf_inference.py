"""Other inference with the CRF, compared with Viterbi, with loss and gradient, or with a peer."""

import time
from functools import partial

import numpy as np
import pytest

from fastkeras import _core, crf
from fastkeras.bench import limits
from fastkeras.bench.crf import PROVIDERS, draw
from fastkeras.bench.crf_accuracy import check, exact
from fastkeras.crf import constraints, second_order, semi_markov
from fastkeras.crf._engines import native
from fastkeras.crf.chain import Chain
from fastkeras.crf.second_order.arguments import chain_and_triples

WORKLOADS = {  # batch, steps, tags
    "named entities": (32, 128, 9),
    "fine-grained tags": (64, 256, 32),
    "speech": (16, 512, 128),
    "long documents": (8, 2048, 16),
    "morphology": (256, 64, 64),
}
SENTENCE = (1, 30, 9)
SEMI_MARKOV = (8, 512, 32, 16)  # batch, steps, tags, longest segment
VARYING = {  # batch, steps, tags
    "named entities": (32, 128, 9),
    "fine-grained tags": (32, 128, 32),
    "long documents": (8, 1024, 16),
}
SECOND_ORDER = {  # batch, steps, tags, and the scheme of rules, if there are any
    "named entities": (32, 128, 9, None),
    "part of speech": (32, 64, 17, None),
    "fine-grained tags": (64, 32, 41, "BIOES"),
}
K, NUM_SAMPLES = 8, 16
ROUNDS = 40


@pytest.mark.parametrize("name", WORKLOADS)
def test_against_viterbi_and_gradient(records, quick, name):
    x, tags, a, lengths, start, end = draw(*WORKLOADS[name])
    chain = {"start_transitions": start, "end_transitions": end, "engine": "native"}
    rules = constraints.allowed("BIO", _names(a.shape[0])).apply(a, start, end)
    legal = crf.sample(x, lengths=lengths, **rules, seed=0, engine="native")[0]
    plain = Chain(x, a, lengths, None, start, end)
    uniforms = np.random.default_rng(0).random((NUM_SAMPLES, *tags.shape), np.float32)
    gradient = crf.log_likelihood_and_gradients
    ones = np.ones_like(x[:, 0, 0])
    given = plain._replace(mask=None)
    weights = np.random.default_rng(1).uniform(0.5, 2, tags.shape).astype(np.float32)

    def in_two_calls():  # as under a tape
        value, kept = _core.crf_value_and_workspace(x, tags, *given[1:], native.LOG_LIKELIHOOD)
        rest = value, kept, ones, native.LOG_LIKELIHOOD
        return value, *_core.crf_gradient(x, tags, *given[1:], *rest)

    def weighted(weights=weights):
        value, _, kept = _core.crf_weighted_value(*given, tags, weights, True)
        return value, *_core.crf_weighted_gradient(*given, tags, weights, value, kept, ones)

    for equal, right in zip(weighted(np.ones_like(weights)), in_two_calls(), strict=True):
        np.testing.assert_allclose(equal, right, rtol=1e-4, atol=1e-3)
    calls = {
        "log-likelihood": lambda: native.log_likelihood(plain, tags),
        "log-likelihood, weighted": lambda: native.weighted_log_likelihood(plain, tags, weights),
        "gradient in two calls": in_two_calls,
        "gradient, weighted": weighted,
        "viterbi": lambda: crf.viterbi(x, a, lengths, **chain),
        "gradient": lambda: gradient(x, tags, a, lengths, **chain),
        "k_best": lambda: crf.k_best(x, a, K, lengths, **chain),
        "sample": lambda: native.sample(plain, uniforms),
        "sample, numbers too": lambda: crf.sample(
            x, a, lengths, num_samples=NUM_SAMPLES, seed=0, **chain
        ),
        "marginals": lambda: crf.marginals(x, a, lengths, **chain),
        "constrained": lambda: gradient(x, legal, lengths=lengths, engine="native", **rules),
    }
    assert np.isfinite(calls["constrained"]()[0]).all()
    np.testing.assert_allclose(calls["k_best"]()[1][:, 0], calls["viterbi"]()[1], rtol=1e-6)
    unary, sampled = calls["marginals"]()[0], calls["sample"]()
    frequencies = (sampled[..., None] == np.arange(a.shape[0])).mean(axis=0)
    valid = np.arange(x.shape[1]) < lengths[:, None]
    assert np.abs((frequencies - unary)[valid].mean(axis=0)).max() < 0.02
    records.setdefault("crf", {})[name] = {
        "shape": WORKLOADS[name],
        **in_turns(calls, ROUNDS // 10 if quick else ROUNDS),
    }


def test_doors(records, quick):
    """What the functions take with one sentence, beside the kernels that they call."""
    x, tags, a, lengths, start, end = draw(*SENTENCE)
    chain, weights = Chain(x, a, lengths, None, start, end), np.ones_like(x[:, 0, 0])
    ends = {"start_transitions": start, "end_transitions": end, "engine": "native"}
    gradient = native.log_likelihood_and_gradients
    calls = {
        "log-likelihood": lambda: crf.log_likelihood(x, tags, a, lengths, **ends),
        "gradient": lambda: crf.log_likelihood_and_gradients(x, tags, a, lengths, **ends),
        "viterbi": lambda: crf.viterbi(x, a, lengths, **ends),
        "log-likelihood, kernel": lambda: native.log_likelihood(chain, tags),
        "gradient, kernel": lambda: gradient(chain, tags, weights),
        "viterbi, kernel": lambda: native.viterbi(chain),
    }
    np.testing.assert_array_equal(calls["viterbi"]()[0], calls["viterbi, kernel"]()[0])
    np.testing.assert_array_equal(calls["gradient"]()[0], calls["gradient, kernel"]()[0])
    records["doors"] = {"shape": SENTENCE, **in_turns(calls, 100 if quick else 4000)}


def test_semi_markov(records, quick):
    pytest.importorskip("torch")
    flash = pytest.importorskip("flash_semicrf", reason="flash-semicrf is not installed")
    import torch

    torch.set_num_threads(2)
    batch, steps, num_tags, longest = SEMI_MARKOV
    normal = partial(np.random.default_rng(0).standard_normal, dtype=np.float32)
    x, a, durations = (
        normal(s) for s in ((batch, steps, num_tags), (num_tags,) * 2, (longest, num_tags))
    )
    # there is a transition into the first segment, from any tag
    chain = {"start_transitions": np.logaddexp.reduce(a, axis=0), "engine": "native"}
    sums = torch.zeros(batch, steps + 1, num_tags, dtype=torch.float64)
    sums[:, 1:] = torch.cumsum(torch.from_numpy(x).double(), dim=1)
    sums.requires_grad_()
    lengths = torch.full((batch,), steps)
    scores = torch.from_numpy(a), torch.from_numpy(durations), lengths, longest

    def peer(semiring="log"):
        with torch.no_grad():
            return flash.semi_crf_streaming_forward(sums, *scores, semiring, use_triton=False)

    def peer_gradient():
        value = flash.semi_crf_streaming_forward(sums, *scores, use_triton=False)
        return torch.autograd.grad(value.sum(), sums)[0]

    calls = {
        "log_partition": lambda: semi_markov.log_partition(x, a, durations, **chain),
        "marginals": lambda: semi_markov.marginals(x, a, durations, **chain),
        "viterbi": lambda: semi_markov.viterbi(x, a, durations, **chain),
    }
    np.testing.assert_allclose(calls["log_partition"](), peer(), rtol=1e-5)
    rows = in_turns(calls, ROUNDS // 10 if quick else ROUNDS)
    peers = {
        "log_partition": peer,
        "marginals": peer_gradient,
        "viterbi": partial(peer, "max"),
    }
    for name, row in in_turns(peers, 1 if quick else 3).items():
        rows[f"{name}, flash-semicrf"] = row
    records["semi_markov"] = {"shape": SEMI_MARKOV, **rows}


@pytest.mark.parametrize("name", VARYING)
def test_transitions_that_vary(records, quick, name):
    problem = draw(*VARYING[name])
    batch, steps, num_tags = problem.emissions.shape
    normal = np.random.default_rng(1).standard_normal
    problem = problem._replace(
        transitions=normal((batch, steps - 1, num_tags, num_tags), np.float32)
    )
    calls = {
        provider: PROVIDERS[provider](problem)["gradient"]
        for provider in ("native", "tensorflow_native", "keras, XLA")
    }
    right = exact(problem)
    valid = problem.valid()
    into = (valid[:, 1:] & valid[:, :-1])[..., None, None]
    for call in calls.values():
        value, d_emissions, d_transitions = call()
        check("log-likelihood", value, problem, right)
        gradients = right[2]
        np.testing.assert_allclose(
            np.where(valid[..., None], d_emissions, 0), gradients.emissions, atol=1e-2
        )
        np.testing.assert_allclose(
            np.where(into, d_transitions, 0), gradients.transitions, atol=1e-2
        )
    matrices = 4 * num_tags**2 * int((problem.lengths - 1).sum())
    rate = limits.measured(touched=2 * problem.transitions.nbytes)["bytes"]
    records.setdefault("varying", {})[name] = {
        "shape": VARYING[name],
        "limit of memory": 2 * matrices / rate,  # scores read once, gradient written once
        **in_turns(calls, ROUNDS // 10 if quick else ROUNDS),
    }


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order(records, quick, name):
    tf = pytest.importorskip("tensorflow")
    *shape, scheme = SECOND_ORDER[name]
    x, tags, a, lengths, start, end = draw(*shape)
    num_tags = shape[-1]
    c = np.random.default_rng(1).standard_normal((num_tags,) * 3, np.float32)
    rules = None if scheme is None else constraints.allowed(scheme, _names(num_tags, "BIES"))
    allowed = np.ones((num_tags, num_tags), bool) if rules is None else rules.transitions
    if rules is not None:
        legal = rules.apply(a, start, end)
        tags = crf.sample(x, lengths=lengths, **legal, seed=0, engine="native")[0]

    def gradient_of(engine, jit_compile):
        given, y, n = tuple(map(tf.constant, (x, a, c, start, end))), tf.constant(tags), lengths

        @partial(tf.function, jit_compile=jit_compile)
        def gradient(x, a, c, start, end):
            with tf.GradientTape() as tape:
                tape.watch((x, a, c, start, end))
                ends = {"start_transitions": start, "end_transitions": end}
                more = {**ends, "constraints": rules, "engine": engine}
                value = second_order.log_likelihood(x, y, a, c, n, **more)
                total = tf.reduce_sum(value)
            return value, *tape.gradient(total, (x, a, c, start, end))

        return lambda: [result.numpy() for result in gradient(*given)]

    chain = {"start_transitions": start, "end_transitions": end, "constraints": rules}
    legal, triples, _ = chain_and_triples(x, a, c, lengths, rules, None, (start, end))
    weights, gold = np.ones_like(x[:, 0, 0]), {"tags": tags, "quantity": native.LOG_LIKELIHOOD}

    def kernels():  # what each engine calls
        value, workspace = _core.second_order_value(*legal, triples, **gold, keep_workspace=True)
        kept = {"value": value, "workspace": workspace, "weights": weights}
        return value, *_core.second_order_gradient(*legal, triples, **gold, **kept)

    chain["engine"] = "native"
    calls = {
        "gradient": kernels,
        "gradient, tensorflow_native": gradient_of("tensorflow_native", False),
        "gradient, keras, XLA": gradient_of("keras", True),
        "log-likelihood": lambda: second_order.log_likelihood(x, tags, a, c, lengths, **chain),
        "marginals": lambda: second_order.marginals(x, a, c, lengths, **chain),
        "viterbi": lambda: second_order.viterbi(x, a, c, lengths, **chain),
    }
    value, d_x, d_a, d_start, d_end, d_c = kernels()
    ours, peers = (calls[f"gradient, {name}"]() for name in ("tensorflow_native", "keras, XLA"))
    for found in ((value, d_x, d_a, d_c, d_start, d_end), ours):
        for of_ours, expected in zip(found, peers, strict=True):
            finite = np.isfinite(expected)
            np.testing.assert_allclose(of_ours[finite], expected[finite], rtol=1e-3, atol=1e-2)
    number = int((allowed[:, :, None] & allowed[None]).sum()) * int((lengths - 2).sum())
    products = {"log-likelihood": 1, "viterbi": 1, "gradient": 3, "marginals": 2}  # of all triples
    rate = limits.measured()["flops"]
    records.setdefault("second_order", {})[name] = {
        "shape": shape,
        "limits of arithmetic": {what: 2 * n * number / rate for what, n in products.items()},
        **in_turns(calls, ROUNDS // 10 if quick else ROUNDS),
    }


def in_turns(calls, rounds):
    """Time all calls once in each round, so that other load on the machine affects all alike."""
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: dict(
            zip(("p20", "median", "p80"), np.percentile(s, (20, 50, 80)).tolist(), strict=True)
        )
        for name, s in seconds.items()
    }


def _names(num_tags, letters="BI"):
    """O, B-0, I-0, B-1, …"""
    number = len(letters)
    return ["O", *(f"{letters[k % number]}-{k // number}" for k in range(num_tags - 1))]
