"""Correct, small calls of the doors of the CRF."""

from fastkeras import _core


def crf_chain(rng, dtype, may_vary=True):
    batch, steps, tags = rng.integers((0, 0, 1), (5, 7, 6))
    varies = may_vary and rng.random() < 0.3
    pairs = (batch, max(steps - 1, 0), tags, tags) if varies else (tags, tags)
    return {
        "emissions": rng.standard_normal((batch, steps, tags)).astype(dtype),
        "transitions": rng.standard_normal(pairs).astype(dtype),
        "lengths": rng.integers(0, steps + 1, batch).astype("i4"),
        "mask": rng.random((batch, steps)) < 0.7 if rng.random() < 0.4 else None,
        "start_transitions": rng.standard_normal(tags).astype(dtype),
        "end_transitions": rng.standard_normal(tags).astype(dtype),
    }


def crf(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype)
        batch, steps, tags = chain["emissions"].shape
        if "value" in name or "gradient" in name:
            chain["tags"] = rng.integers(0, tags, (batch, steps)).astype("i4")
            chain["quantity"] = int(rng.integers(3))
        if "gradient" in name:
            chain["weights"] = rng.random(batch).astype(dtype)
        if name == "crf_gradient":
            chain["value"] = rng.random(batch).astype(dtype)
            size = batch * steps * (2 * tags + 1) + batch
            chain["workspace"] = rng.random(size).astype(dtype)
        if "k_best" in name:
            chain["k"] = int(rng.integers(1, 6))
        if "sample" in name:
            chain["uniforms"] = rng.random((int(rng.integers(4)), batch, steps)).astype(dtype)
        return getattr(_core, name), chain

    return call


def crf_entropy(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype)
        batch, steps, tags = chain["emissions"].shape
        if name == "crf_entropy":
            chain["keep_workspace"] = bool(rng.integers(2))
        else:
            chain["value"] = rng.random(batch).astype(dtype)
            size = batch * steps * (4 * tags + 1) + batch
            chain["workspace"] = rng.random(size).astype(dtype)
            chain["weights"] = rng.random(batch).astype(dtype)
        return getattr(_core, name), chain

    return call


def crf_weighted(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype)
        batch, steps, tags = chain["emissions"].shape
        chain["tags"] = rng.integers(0, tags, (batch, steps)).astype("i4")
        chain["weights"] = rng.random((batch, steps)).astype(dtype)
        if name == "crf_weighted_value":
            chain["keep_workspace"] = bool(rng.integers(2))
        else:
            chain["value"] = rng.random(batch).astype(dtype)
            size = batch * steps * (2 * tags + 2) + batch
            chain["workspace"] = rng.random(size).astype(dtype)
            chain["factors"] = rng.random(batch).astype(dtype)
        return getattr(_core, name), chain

    return call


def second_order(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype, may_vary=False)
        batch, steps, tags = chain["emissions"].shape
        chain["triples"] = rng.standard_normal((tags, tags, tags)).astype(dtype)
        if name in ("second_order_value", "second_order_gradient"):
            chain["tags"] = rng.integers(0, tags, (batch, steps)).astype("i4")
            chain["quantity"] = int(rng.integers(3))
        if name == "second_order_value":
            chain["keep_workspace"] = bool(rng.integers(2))
        if name == "second_order_gradient":
            size = batch * ((steps + 5) // 8 * tags**2 + steps + 2)
            chain["value"], chain["weights"] = rng.random((2, batch)).astype(dtype)
            chain["workspace"] = rng.random(size).astype(dtype)
        return getattr(_core, name), chain

    return call


def crf_ready_chain(rng):
    return _core.crf_ready_chain, crf_chain(rng, rng.choice(("f4", "f8")))


def crf_ready_tags(rng):
    chain = crf_chain(rng, "f4")
    batch, steps, tags = chain["emissions"].shape
    return _core.crf_ready_tags, {
        "tags": rng.integers(0, tags, (batch, steps)).astype(rng.choice(("i4", "i8"))),
        "batch": batch,
        "steps": steps,
        "num_tags": tags,
        "lengths": chain["lengths"],
        "mask": chain["mask"],
    }


def semi_markov(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype, may_vary=False)
        del chain["mask"]
        tags = chain["emissions"].shape[2]
        chain["durations"] = rng.standard_normal((int(rng.integers(1, 5)), tags)).astype(dtype)
        return getattr(_core, name), chain

    return call


CALLS = {
    **{
        f"crf_{name}": crf(f"crf_{name}")
        for name in (
            *("value", "value_and_workspace", "value_and_gradient", "gradient"),
            *("marginals", "viterbi", "k_best", "sample"),
        )
    },
    **{
        f"crf_{name}": crf_weighted(f"crf_{name}")
        for name in ("weighted_value", "weighted_gradient")
    },
    **{name: crf_entropy(name) for name in ("crf_entropy", "crf_entropy_gradient")},
    "crf_ready_chain": crf_ready_chain,
    "crf_ready_tags": crf_ready_tags,
    **{
        f"second_order_{name}": second_order(f"second_order_{name}")
        for name in ("value", "gradient", "marginals", "viterbi")
    },
    **{
        f"semi_markov_{name}": semi_markov(f"semi_markov_{name}")
        for name in ("log_partition", "marginals", "viterbi")
    },
}
