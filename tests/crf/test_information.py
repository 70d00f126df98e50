"""Entropy, cross-entropy, divergence and count: by enumeration, identities, gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from strategies import chains

ULPS = 64  # of sums over all steps and pairs of tags
SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")
small = chains(num_tags=(1, 2, 3), max_steps=5, scales=(0.1, 1.0, 30.0), forbidden=(None, -np.inf))


def draw_other(seed, chain, forbids):
    """Return another chain over the same steps and tags."""
    rng = np.random.default_rng(seed)
    other = {**chain}
    for name in SCORES:
        if chain[name] is not None:
            other[name] = rng.standard_normal(chain[name].shape).astype(chain[name].dtype)
    if forbids:
        other["transitions"][rng.random(chain["transitions"].shape) < 0.2] = -np.inf
        other["emissions"][rng.random(chain["emissions"].shape) < 0.1] = -np.inf
    return other


def as_arguments(chain, other=None):
    given = {name: value for name, value in chain.items() if name != "tags"}
    if other is not None:
        given |= {f"other_{name}": other[name] for name in SCORES}
    return given


def expected(chain, other):
    """Return entropy, cross-entropy and log-count by enumeration."""
    results = []
    pairs = zip(enumerate_paths(chain), enumerate_paths(other), strict=True)
    for (steps, _, scores), (_, _, other_scores) in pairs:
        log_z, p = probabilities(scores)
        other_log_z, _ = probabilities(other_scores)
        kept = p > 0
        with np.errstate(invalid="ignore"):
            surprise = (other_log_z - other_scores)[kept]
        entropy = (p[kept] * (log_z - scores[kept])).sum()
        # a probability that rounds to 0 looks the same as a forbidden sequence
        cross = (
            (p[kept] * np.nan_to_num(surprise, nan=np.inf, posinf=np.inf)).sum()
            if len(steps)
            else 0
        )
        with np.errstate(divide="ignore"):
            results.append((entropy, cross, np.log(np.isfinite(scores).sum())))
    return np.array(results).T


@given(chain=small, seed=st.integers(0, 2**32 - 1), forbids=st.booleans())
def test_information_is_that_of_all_sequences(engine, chain, seed, forbids):
    other = draw_other(seed, chain, forbids)
    entropy, cross, count = expected(chain, other)
    dtype = chain["emissions"].dtype
    finite = np.concatenate([chain[n].ravel() for n in SCORES if chain[n] is not None])
    largest = max(1, np.abs(finite[np.isfinite(finite)]).max(initial=0))
    if engine == "reference":  # it does not recentre, so marginals are rounded like sums of scores
        largest *= largest
    allowed = {"rtol": 0, "atol": ULPS * np.finfo(dtype).eps * largest}
    result = np.asarray(crf.entropy(**as_arguments(chain), engine=engine))
    assert result.dtype == dtype and (result >= 0).all()
    np.testing.assert_allclose(result, entropy, **allowed)
    np.testing.assert_allclose(
        crf.log_count(**as_arguments(chain), engine=engine), count, **allowed
    )
    if dtype == np.float32:  # a p of 1e-60 rounds to 0 and does not see that q forbids it
        cross = np.where(np.isinf(cross), np.nan, cross)
    result = np.asarray(crf.cross_entropy(**as_arguments(chain, other), engine=engine))
    known = ~np.isnan(cross)
    assert not np.isnan(result).any()
    np.testing.assert_allclose(result[known], cross[known], **allowed)
    divergence = np.asarray(crf.kl_divergence(**as_arguments(chain, other), engine=engine))
    np.testing.assert_allclose(divergence[known], (cross - entropy)[known], **allowed)
    same = np.asarray(crf.kl_divergence(**as_arguments(chain, chain), engine=engine))
    np.testing.assert_array_equal(same, 0)


@pytest.mark.parametrize("dtype", ("float16", "float32"))
def test_many_steps_keep_their_digits(engine, dtype, rng):
    x = (3 * rng.standard_normal((2, 3000, 5))).astype(dtype)
    transitions = rng.standard_normal((5, 5)).astype(dtype)
    mask = rng.random((2, 3000)) < 0.8
    wider = x.astype("float64"), transitions.astype("float64")
    exact = crf.entropy(*wider, mask=mask)
    unary, counts = crf.marginals(*wider, mask=mask)
    score = (unary * wider[0]).sum(axis=(1, 2)) + (counts * wider[1]).sum(axis=(1, 2))
    np.testing.assert_allclose(exact, crf.log_partition(*wider, mask=mask) - score, rtol=1e-9)
    if engine != "reference" or dtype == "float64":
        entropy = np.asarray(crf.entropy(x, transitions, mask=mask, engine=engine))
        np.testing.assert_allclose(entropy, exact, rtol=max(2e-6, np.finfo(dtype).eps))


def test_a_chain_of_equal_scores_has_the_entropy_of_its_count(engine):
    rules = crf.constraints.allowed("BIO", ["O", "B", "I"])
    chain = {"emissions": np.zeros((2, 6, 3)), "lengths": np.array([6, 4])}
    chain |= rules.apply(np.zeros((3, 3)))
    count = np.asarray(crf.log_count(**chain, engine=engine))
    np.testing.assert_allclose(np.exp(count), [233, 34], rtol=1e-12)  # Fibonacci numbers
    np.testing.assert_allclose(crf.entropy(**chain, engine=engine), count, rtol=1e-12)


@pytest.mark.parametrize("tensor_engine", ("tensorflow_native", "keras"))
@settings(max_examples=10)
@given(
    chain=chains(dtype="float64", num_tags=(1, 3), scales=(1.0,), forbidden=(None, -np.inf)),
    seed=st.integers(0, 2**32 - 1),
)
def test_distillation_moves_the_student_by_the_difference_of_marginals(tensor_engine, chain, seed):
    tf = pytest.importorskip("tensorflow")
    other = draw_other(seed, chain, forbids=False)
    student = {name: tf.constant(other[name]) for name in SCORES if other[name] is not None}
    teacher = {n: tf.constant(v) if n in SCORES and v is not None else v for n, v in chain.items()}
    for function in (crf.cross_entropy, crf.kl_divergence):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = function(**as_arguments(teacher, {**other, **student}), engine=tensor_engine)
        gradient = tape.gradient(value, student)
        possible = np.isfinite(crf.log_partition(**as_arguments(chain)))
        unary, counts = crf.marginals(**as_arguments(chain))
        other_unary, other_counts = crf.marginals(**as_arguments(other))
        difference = (other_unary - unary) * possible[:, None, None]
        np.testing.assert_allclose(gradient["emissions"], difference, atol=1e-12)
        difference = ((other_counts - counts) * possible[:, None, None]).sum(axis=0)
        np.testing.assert_allclose(gradient["transitions"], difference, atol=1e-12)


def test_the_gradient_of_the_entropy_is_that_of_differences(rng):
    tf = pytest.importorskip("tensorflow")
    x, transitions = rng.standard_normal((1, 4, 3)), rng.standard_normal((3, 3))
    scores = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = crf.entropy(scores, tf.constant(transitions), engine="keras")
    gradient = tape.gradient(value, scores).numpy()
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-3
        far, near = (
            crf.entropy(x + n * step, transitions) - crf.entropy(x - n * step, transitions)
            for n in (2, 1)
        )
        numeric = (8 * near - far) / 12e-3
        np.testing.assert_allclose(gradient[index], numeric[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "shape"),
    (
        ("other_emissions", (2, 3, 5)),
        ("other_emissions", (2, 3)),
        ("other_transitions", (5, 5)),
        ("other_start_transitions", (3,)),
        ("other_end_transitions", (4, 4)),
    ),
)
def test_the_other_chain_is_named_in_errors(engine, name, shape):
    zeros = np.zeros((2, 3, 4)), np.zeros((4, 4))
    names = ("emissions", "transitions", "other_emissions", "other_transitions")
    given = {**dict(zip(names, (*zeros, *zeros), strict=True)), name: np.zeros(shape)}
    for function in (crf.cross_entropy, crf.kl_divergence):
        with pytest.raises(ValueError, match=f"^{name} must "):
            function(**given, engine=engine)


@pytest.mark.parametrize("name", ["reference", "native"])
@pytest.mark.parametrize("num_tags", [1, 3])
def test_a_certain_chain_of_large_scores_has_no_entropy(name, num_tags):
    if name == "native":
        pytest.importorskip("fastkeras._core")
    x = np.full((1, 30, num_tags), -np.inf)
    x[..., 0] = np.random.default_rng(0).normal(size=30) * 1e4
    entropy = crf.entropy(x, np.full((num_tags, num_tags), 7777.7), engine=name)
    np.testing.assert_allclose(entropy, 0, atol=1e-9)
