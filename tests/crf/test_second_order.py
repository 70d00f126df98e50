"""Second-order chains, compared with the enumeration of all sequences."""

import re

import keras
import numpy as np
import pytest

from engine_parameters import engines_of
from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from fastkeras.crf import second_order
from fastkeras.crf.second_order.blocks import states_of
from fastkeras.layers import SecondOrderCRF
from fastkeras.losses import CRFLoss, CRFObjective

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BIO = crf.constraints.allowed("BIO", ["O", "B", "I"])
DEAD_END = crf.Constraints(np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool))
MASKS = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)


@pytest.fixture(params=engines_of("crf.second_order"))
def engine(request):
    """The engines of second-order chains."""
    return request.param


def dtype_of(engine):
    """JAX computes in float32 unless told otherwise."""
    on_jax = engine == "jax_native" or (engine == "keras" and keras.backend.backend() == "jax")
    return "float32" if on_jax else "float64"


def chain_for(kind, dtype):
    """Return arguments, constraints among them, and the same for the enumeration."""
    rng = np.random.default_rng(5)
    shapes = {
        "emissions": (5, 4, 3),
        "transitions": (3, 3),
        "triples": (3, 3, 3),
        "start_transitions": (3,),
        "end_transitions": (3,),
    }
    chain = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if kind == "far apart":
        chain = {name: 300 * np.round(scores) for name, scores in chain.items()}
    if kind == "forbidden triples":
        chain["triples"][rng.random((3, 3, 3)) < 0.4] = -np.inf
        chain["emissions"][0, 2] = -np.inf
    rules = {"BIO": BIO, "dead end": DEAD_END}.get(kind)
    chain = {name: scores.astype(dtype) for name, scores in chain.items()} | {"mask": MASKS}
    full = chain
    if rules is not None:
        names = ("transitions", "start_transitions", "end_transitions")
        full = {**chain, **rules.apply(*(chain[name] for name in names))}
    return {**chain, "constraints": rules}, {**full, "lengths": None}


def paths_of(full):
    """Yield the valid steps, the paths and their scores of each sequence."""
    for steps, paths, scores in enumerate_paths(full):
        of_triples = full["triples"].astype(np.longdouble)
        of_triples = of_triples[paths[:, :-2], paths[:, 1:-1], paths[:, 2:]]
        yield steps, paths, scores + of_triples.sum(axis=1)


KINDS = ("all allowed", "BIO", "dead end", "forbidden triples", "far apart")


@pytest.mark.parametrize("kind", KINDS)
def test_every_function_is_that_of_the_enumeration(kind, engine):
    dtype = dtype_of(engine)
    chain, full = chain_for(kind, dtype)
    tags = np.where(MASKS, np.array([1, 0, 2, 1])[:4], -100)
    log_z, score, log_p, unary, counts, found, best = (
        np.asarray(result)
        for result in (
            second_order.log_partition(**chain, engine=engine),
            second_order.sequence_score(tags=tags, **chain, engine=engine),
            second_order.log_likelihood(tags=tags, **chain, engine=engine),
            *second_order.marginals(**chain, engine=engine),
            *second_order.viterbi(**chain, engine=engine),
        )
    )
    assert found.dtype == np.int32
    own = np.asarray(second_order.sequence_score(tags=found, **chain, engine=engine))
    allowed = {"rtol": 1e-12, "atol": 1e-11} if dtype == "float64" else {"rtol": 1e-6, "atol": 1e-4}
    for b, (steps, paths, scores) in enumerate(paths_of(full)):
        exact, p = probabilities(scores)
        gold = (paths == tags[b, steps]).all(axis=1).argmax()
        np.testing.assert_allclose(log_z[b], float(exact), **allowed)
        np.testing.assert_allclose(score[b], float(scores[gold]), **allowed)
        impossible = np.isneginf(scores[gold])
        expected = -np.inf if impossible else min(float(scores[gold] - exact), 0)
        np.testing.assert_allclose(log_p[b], expected, **allowed)
        np.testing.assert_allclose(best[b], float(scores.max()), **allowed)
        if scores.max() > -np.inf:
            np.testing.assert_allclose(own[b], best[b], **allowed)
        of_steps, of_pairs = np.zeros((4, 3)), np.zeros((3, 3))
        for path, probability in zip(paths, p, strict=True):
            of_steps[steps, path] += probability
            np.add.at(of_pairs, (path[:-1], path[1:]), float(probability))
        np.testing.assert_allclose(unary[b], of_steps, rtol=0, atol=allowed["atol"])
        np.testing.assert_allclose(counts[b], of_pairs, rtol=0, atol=allowed["atol"])


@pytest.mark.parametrize("kind", ("all allowed", "dead end", "forbidden triples"))
def test_the_chain_of_pairs_is_for_every_function(kind):
    dtype = dtype_of("keras")
    chain, full = chain_for(kind, dtype)
    tensors = {
        n: v if n == "constraints" else keras.ops.convert_to_tensor(v) for n, v in chain.items()
    }
    pairs = second_order.pair_chain(**tensors)
    (states, scores), entropy, drawn = (
        crf.k_best(k=3, **pairs.arguments),
        crf.entropy(**pairs.arguments),
        crf.sample(num_samples=2000, seed=1, **pairs.arguments),
    )
    states, scores, entropy, drawn = (
        as_array(result) for result in (pairs.tags(states), scores, entropy, pairs.tags(drawn))
    )
    exact_entropy, rounding = [], 100 * np.finfo(dtype).eps  # of some dozen sums
    allowed = {"rtol": rounding, "atol": rounding}
    for b, (steps, paths, exact) in enumerate(paths_of(full)):
        p = probabilities(exact)[1]
        best = np.sort(exact)[::-1][:3]
        np.testing.assert_allclose(scores[b, : len(best)], best.astype(float), **allowed)
        if best[0] > -np.inf:
            np.testing.assert_array_equal(states[b, 0][steps], paths[exact.argmax()])
            frequency = (drawn[:, b][:, steps][:, None] == paths).all(axis=2).mean(axis=0)
            np.testing.assert_allclose(frequency, p.astype(float), rtol=0, atol=0.06)
        with np.errstate(divide="ignore", invalid="ignore"):
            exact_entropy.append(float(-np.nansum(p * np.log(p))))
    np.testing.assert_allclose(entropy, exact_entropy, **allowed)


def test_the_snippet_of_the_page_is_right(request):
    page = (request.config.rootpath / "docs" / "crf.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(chain = .*?pair_chain.*?)```", page, re.DOTALL)
    chain, _ = chain_for("BIO", "float64")
    given = {name: chain[name] for name in ("emissions", "transitions", "triples")}
    names = {**vars(crf), **given, "rules": BIO, "weights_of_steps": np.ones(MASKS.shape)}
    exec(snippet, names)
    best = second_order.viterbi(**given, constraints=BIO)
    np.testing.assert_array_equal(names["tags"][:, 0], best[0])
    log_p = second_order.log_likelihood(tags=best[0], **given, constraints=BIO)
    np.testing.assert_allclose(names["log_p"], log_p, rtol=1e-12, atol=1e-12)


def test_ties_go_to_the_lowest_tags(engine):
    zeros = np.zeros((3, 3), dtype_of(engine)), np.zeros((3, 3, 3), dtype_of(engine))
    tags, _ = second_order.viterbi(
        np.zeros((2, 5, 3), dtype_of(engine)), *zeros, constraints=BIO, engine=engine
    )
    np.testing.assert_array_equal(tags, 0)


def test_nothing_to_do_and_what_is_not_a_number(engine):
    dtype = dtype_of(engine)
    scores = np.zeros((3, 3), dtype), np.zeros((3, 3, 3), dtype)
    for shape in ((0, 4, 3), (2, 0, 3)):
        log_z = second_order.log_partition(np.zeros(shape, dtype), *scores, engine=engine)
        np.testing.assert_array_equal(np.asarray(log_z), np.zeros(shape[0]))
    emissions = np.zeros((3, 4, 3), dtype)
    emissions[1, 2, 0] = np.nan
    log_z = np.asarray(second_order.log_partition(emissions, *scores, [4, 4, 2], engine=engine))
    np.testing.assert_allclose(log_z, [4 * np.log(3), np.nan, 2 * np.log(3)], rtol=1e-6)


def test_a_step_costs_what_is_allowed():
    tags = ["O", *(f"{letter}-{n}" for n in range(10) for letter in "BIES")]
    rules = crf.constraints.allowed("BIOES", tags).transitions
    states = states_of(rules.tobytes(), len(tags))
    pairs = rules.sum()
    triples = (rules[:, :, None] & rules[None]).sum()
    assert states.num_triples == triples + pairs < len(tags) ** 3 / 6
    assert len(states.tags) == pairs + len(tags)
    assert len(states.blocks) < 6


def test_arguments_are_checked():
    emissions, transitions = np.zeros((1, 4, 3)), np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"triples must have shape .* = \(3, 3, 3\), got \(3, 3\)"):
        second_order.viterbi(emissions, transitions, transitions)
    with pytest.raises(ValueError, match="triples must be numbers, got bool"):
        second_order.viterbi(emissions, transitions, np.zeros((3, 3, 3), bool))
    with pytest.raises(ValueError, match=r"constraints\.transitions must be bool of shape"):
        second_order.viterbi(
            emissions, transitions, np.zeros((3, 3, 3)), constraints=crf.Constraints(np.eye(4) > 0)
        )
    scores = emissions, transitions, np.zeros((3, 3, 3))
    wrong = np.full((1, 4), 3)
    with pytest.raises(ValueError, match=r"tags must be in 0\.\.2"):
        second_order.log_likelihood(emissions, wrong, *scores[1:])
    for array in (np.asarray, keras.ops.convert_to_tensor):
        pairs = second_order.pair_chain(*map(array, scores))
        with pytest.raises(ValueError, match=r"tags must be in 0\.\.2 at valid steps, got 3"):
            pairs.states(array(wrong))
    layer = SecondOrderCRF(3)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match="label_smoothing=2 must be from 0 to below 1"):
        tags = np.zeros((1, 4), int)
        layer.log_likelihood(emissions.astype("float32"), tags, label_smoothing=2)


def test_the_layer_learns_what_depends_on_two_tags(tmp_path):
    tags = np.tile([0, 0, 1, 1], (4, 3))[:, :10]  # 0 after 0 is as frequent as 1 after 0
    layer = SecondOrderCRF(constraints=crf.Constraints(np.ones((2, 2), bool)), num_tags=2)
    inputs = keras.Input((10, 2))
    model = keras.Model(inputs, layer(keras.layers.Masking(-1.0)(inputs)))
    x = np.zeros((4, 10, 2), "float32")
    x[1, 8:] = -1.0
    model.compile(keras.optimizers.Adam(0.5), loss=layer.loss, metrics=[layer.accuracy])
    first = model.evaluate(x, tags, verbose=0)[0]
    chain = {name: value for name, value in layer.arguments(model(x)).items() if name != "engine"}
    chain = {
        name: value if value is None or name == "constraints" else as_array(value)
        for name, value in chain.items()
    }
    exact = -second_order.log_likelihood(tags=tags, **chain, engine="reference").mean()
    np.testing.assert_allclose(first, exact, rtol=1e-5)
    model.fit(x, tags, epochs=20, verbose=0)
    loss, accuracy = model.evaluate(x, tags, verbose=0)
    assert loss < 0.8  # of a linear chain at least 8 log 2, but for the first tags
    assert accuracy == 1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found, p = loaded.layers[-1].decode(loaded, confidence=True).predict(x, verbose=0)
    np.testing.assert_array_equal(found[as_array(chain["mask"])], tags[as_array(chain["mask"])])
    assert ((p > 0.5) == as_array(chain["mask"])).all()


TAG_WEIGHTS = np.array([1.0, 2.0, 0.5])


def losses_of(scores, paths, gold):
    """All losses of a sequence by the enumeration of its paths."""
    log_z, p = probabilities(scores)
    p = p.astype(float)
    right = (paths == gold).all(axis=1)
    costs = (paths != gold).sum(axis=1)
    best = np.argsort(-scores, kind="stable")[:3]
    follows = [p[(paths[:, :t] == gold[:t]).all(axis=1)].sum() for t in range(len(gold) + 1)]
    of_steps = [p[paths[:, t] == gold[t]].sum() for t in range(len(gold))]
    weighted = -TAG_WEIGHTS[gold] @ np.log(np.divide(follows[1:], follows[:-1]))
    possible = scores > -np.inf
    return {
        "softmax_margin": float(probabilities(scores + costs)[0] - scores[right][0]),
        "max_margin": float((scores + costs).max() - scores[right][0]),
        "perceptron": float(scores.max() - scores[right][0]),
        "marginal": -np.log(of_steps).sum(),
        "risk": p[best] @ costs[best] / p[best].sum() / max(len(gold), 1),
        "weighted": weighted,
        "smoothed": 0.9 * weighted - 0.1 * float((scores[possible] - log_z).mean()),
    }


ROUNDINGS = 100 * np.finfo("float32").eps  # of some dozen sums


def test_all_losses_are_those_of_the_enumeration():
    rng, normal = np.random.default_rng(7), keras.initializers.RandomNormal(stddev=1.0, seed=1)
    x = rng.standard_normal((5, 4, 3)).astype("float32")
    names = ("transitions", "boundary", "triples")
    initializers = {f"{name}_initializer": normal.clone() for name in names}
    layer = SecondOrderCRF(3, constraints=BIO, **initializers)
    emissions = layer(keras.ops.convert_to_tensor(x), mask=keras.ops.convert_to_tensor(MASKS))
    given = layer.arguments(emissions)
    full = {n: as_array(v) for n, v in given.items() if n not in ("constraints", "engine")}
    scores = ("transitions", "start_transitions", "end_transitions")
    full |= BIO.apply(*(full[name] for name in scores))
    tags = np.array([[1, 2, 0, 1], [-1, 1, -1, 2], [1, -1, 2, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    objectives = {
        mode: CRFObjective(layer, mode, num_paths=3, reduction="none")
        for mode in ("softmax_margin", "max_margin", "perceptron", "marginal", "risk")
    }
    objectives["weighted"] = CRFLoss(layer, tag_weights=TAG_WEIGHTS, reduction="none")
    objectives["smoothed"] = CRFLoss(layer, 0.1, TAG_WEIGHTS, reduction="none")
    found = {name: as_array(loss(tags, emissions)) for name, loss in objectives.items()}
    for b, (steps, paths, scores) in enumerate(paths_of({**full, "lengths": None})):
        for name, expected in losses_of(scores, paths, tags[b, steps]).items():
            allowed = {"rtol": ROUNDINGS, "atol": ROUNDINGS}
            np.testing.assert_allclose(found[name][b], expected, **allowed, err_msg=name)
    impossible = np.where(MASKS, [0, 2, 2, 2], 0)  # I after O
    for name in ("weighted", "smoothed", "max_margin"):
        assert np.isposinf(as_array(objectives[name](impossible, emissions))[0])


@pytest.mark.parametrize("engine", ("numba", "cupy", "torch_cuda", "jax_cuda"))
def test_the_layer_refuses_engines_of_linear_chains_alone(engine):
    with pytest.raises(ValueError, match=f"'{engine}' is none of crf.second_order"):
        SecondOrderCRF(2, engine=engine)


def test_the_chain_of_pairs_refuses_an_engine_that_is_none():
    with pytest.raises(ValueError, match="engine='typo' is none of crf"):
        second_order.pair_chain(
            np.zeros((1, 3, 2)), np.zeros((2, 2)), np.zeros((2, 2, 2)), engine="typo"
        )


def test_the_layer_is_exported_without_ops_of_its_own(monkeypatch):
    layer = SecondOrderCRF(2, engine="reference")  # which takes no tensors
    emissions = layer(keras.ops.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="does not take"):
        layer.decoded(emissions, None)
    monkeypatch.setattr("fastkeras.crf.layers.crf.is_exporting", lambda: True)
    assert tuple(layer.decoded(emissions, None).shape) == (1, 3)


def test_the_layer_learns_the_triples_by_other_losses():
    class Sum(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            of_modes = [CRFObjective(layer, mode) for mode in ("max_margin", "risk")]
            of_labels = CRFLoss(layer, 0.1, [1.0, 2.0])
            return sum(loss(y_true, y_pred) for loss in (*of_modes, of_labels))

    tags = np.tile([0, 0, 1, 1], (2, 1))
    layer = SecondOrderCRF(2)
    model = keras.Sequential([keras.Input((4, 2)), layer])
    model.compile(keras.optimizers.Adam(0.1), loss=Sum())
    losses = [float(model.train_on_batch(np.zeros((2, 4, 2), "float32"), tags)) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    assert (np.abs(as_array(layer.triples)) > 0.05).any()


def as_array(tensor):
    """Return the tensor as a NumPy array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))
