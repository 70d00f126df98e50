"""Constraints: the rules of each scheme, and what they do to scores, functions and the layer."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import FUNCTIONS, call, check
from fastkeras import crf
from fastkeras.crf import constraints
from strategies import chains, is_valid

SEGMENTS = {  # of `length` steps and type x: the letters of a span, apart from what surrounds it
    "BIO": lambda length: "B" + "I" * (length - 1),
    "BIOES": lambda length: "S" if length == 1 else "B" + "I" * (length - 2) + "E",
    "BIOUL": lambda length: "U" if length == 1 else "B" + "I" * (length - 2) + "L",
    "BMES": lambda length: "S" if length == 1 else "B" + "M" * (length - 2) + "E",
}
ALIASES = {"IOB2": "BIO", "IOBES": "BIOES", "BILOU": "BIOUL"}
SCHEMES = (*SEGMENTS, *ALIASES, "IOB1")
STEPS = 4

# NumPy 2 warns when Keras on TensorFlow saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def names_of(scheme):
    """Return all tags of a scheme for two types."""
    letters = "BIO" if scheme == "IOB1" else sorted(set("".join(map(letters_of(scheme), (1, 4)))))
    return ["O", *(f"{letter}-{kind}" for letter in letters if letter != "O" for kind in "xy")]


def letters_of(scheme):
    return SEGMENTS[ALIASES.get(scheme, scheme)]


def encodings(scheme, steps):
    """Yield all sequences of tags that stand for some spans of types x and y."""

    def begin(steps):
        if steps == 0:
            yield []
        for length, kind in product(range(1, steps + 1), ("O", "x", "y")):
            if kind != "O" or length == 1:
                yield from ([(length, kind), *rest] for rest in begin(steps - length))

    for segments in begin(steps):
        tags, before = [], "O"
        for length, kind in segments:
            if kind == "O":
                tags.append("O")
            elif scheme == "IOB1":  # B only where a span of this type has just ended
                tags += [f"{'B' if before == kind else 'I'}-{kind}", *[f"I-{kind}"] * (length - 1)]
            else:
                tags += [f"{letter}-{kind}" for letter in letters_of(scheme)(length)]
            before = kind
        yield tuple(tags)


@pytest.mark.parametrize("steps", (1, 2, STEPS))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_allows_the_encodings_of_spans_and_no_other_sequence(scheme, steps):
    names = names_of(scheme)
    rules = constraints.allowed(scheme, names)

    def is_allowed(tags):
        pairs = all(rules.transitions[pair] for pair in pairwise(tags))
        return pairs and rules.start[tags[0]] and rules.end[tags[-1]]

    paths = product(range(len(names)), repeat=steps)
    found = {tuple(names[tag] for tag in path) for path in paths if is_allowed(path)}
    assert found == set(encodings(scheme, steps))


def test_tags_without_types_and_with_underscores():
    np.testing.assert_array_equal(
        constraints.allowed("BMES", "BMES").transitions,
        np.array([[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]], bool),
    )
    for rule, same in zip(
        constraints.allowed("BIO", ["O", "B_x_y", "I_x_y"]),
        constraints.allowed("BIO", ["O", "B-x-y", "I-x-y"]),
        strict=True,
    ):
        np.testing.assert_array_equal(rule, same)


@pytest.mark.parametrize(
    ("scheme", "tags", "message"),
    (
        ("bio", ["O"], r"^scheme='bio' must be one of BIO, IOB2, IOB1, "),
        ("BIO", [], r"^tags must be the names of at least one tag, got none"),
        ("BIO", ["O", "E-x"], r"^tags must be 'O', .* for the scheme BIO, got 'E-x'"),
        ("BIO", ["O", "B-"], r"got 'B-'"),
        ("BIO", ["O", "Bx"], r"got 'Bx'"),
        ("BIO", ["O-x"], r"got 'O-x'"),
        ("BMES", ["I-x"], r"got 'I-x'"),
        ("BIO", [""], r"got ''"),
    ),
)
def test_what_is_no_tag_of_the_scheme_raises(scheme, tags, message):
    with pytest.raises(ValueError, match=message):
        constraints.allowed(scheme, tags)


@pytest.mark.parametrize(
    "wrong",
    (
        {"transitions": np.ones((2, 3), bool)},
        {"transitions": np.ones(2, bool)},
        {"transitions": np.ones((2, 2))},
        {"start": np.ones(3, bool)},
        {"end": np.ones(2, int)},
    ),
    ids=str,
)
def test_rules_of_another_shape_or_dtype_raise(wrong):
    rules = crf.Constraints(np.ones((2, 2), bool))._replace(**wrong)
    with pytest.raises(ValueError, match=rf"^constraints.{next(iter(wrong))} must be bool of"):
        rules.apply(np.zeros((2, 2)))


def test_bad_arguments_of_apply_and_restrict():
    with pytest.raises(ValueError, match=r"^transitions must have shape .* got \(3, 3\)"):
        crf.Constraints(np.ones((2, 2), bool)).apply(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"^allowed must be bool, got float64"):
        constraints.restrict(np.zeros((1, 2, 3)), np.ones(3))
    with pytest.raises(ValueError, match=r"^allowed must have shape .* got \(1, 1, 2\)"):
        constraints.restrict(np.zeros((1, 2, 3)), np.ones((1, 1, 2), bool))


free = chains(dtype="float32", num_tags=(3,), scales=(1.0, 30.0), forbidden=(None,))


@pytest.mark.parametrize("scheme", ("BIO", "IOB1", "BIOES"))
@given(chain=chains(num_tags=(9, 17), forbidden=(None,)), function=st.sampled_from(FUNCTIONS))
def test_constrained_functions_are_as_accurate(engine, scheme, chain, function):
    num_tags = chain["transitions"].shape[0]
    letters = "IBES" if scheme == "BIOES" else "IB"
    names = [
        "O",
        *(f"{letters[k % len(letters)]}-{k // len(letters)}" for k in range(num_tags - 1)),
    ]
    scores = ("transitions", "start_transitions", "end_transitions")
    rules = constraints.allowed(scheme, names)
    check(function, {**chain, **rules.apply(*(chain[name] for name in scores))}, engine)


@given(chain=free, seed=st.integers(0, 2**32 - 1))
def test_decoded_tags_obey_the_rules(engine, chain, seed):
    rng = np.random.default_rng(seed)
    transitions = rng.random((3, 3)) < 0.7
    transitions[0] = transitions[:, 0] = True  # so that some sequence is always possible
    start, end = rng.random((2, 3)) < 0.7
    start[0] = end[0] = True
    at_steps = rng.random(chain["emissions"].shape) < 0.7
    at_steps[..., 0] = True
    rules = crf.Constraints(transitions, start, end)
    scores = ("transitions", "start_transitions", "end_transitions")
    chain = {**chain, **rules.apply(*(chain[name] for name in scores))}
    chain["emissions"] = constraints.restrict(chain["emissions"], at_steps)
    assert chain["emissions"].dtype == chain["transitions"].dtype == np.float32
    tags, score = call("viterbi", chain, engine)
    assert np.isfinite(score).all()
    unary, _ = call("marginals", chain, engine)
    valid = is_valid(chain["lengths"], chain["mask"], *tags.shape)
    assert (unary[~at_steps] == 0).all()
    for b, steps in enumerate(map(np.flatnonzero, valid)):
        path = tags[b, steps]
        assert at_steps[b, steps, path].all()
        if len(path):
            assert transitions[path[:-1], path[1:]].all() and start[path[0]] and end[path[-1]]


def test_observed_tags_are_kept(engine, rng):
    observed = np.array([[-100, 2, -100, 0, -100]])
    emissions = 9 * rng.standard_normal((1, 5, 3))
    bitmap = constraints.bitmap_of_tags(observed, 3)
    np.testing.assert_array_equal(bitmap.sum(axis=-1), [[3, 1, 3, 1, 3]])
    chain = {"emissions": constraints.restrict(emissions, bitmap), "transitions": np.zeros((3, 3))}
    tags, _ = call("viterbi", chain, engine)
    np.testing.assert_array_equal(tags[observed >= 0], [2, 0])
    free = observed[0] < 0
    np.testing.assert_array_equal(tags[0, free], emissions[0, free].argmax(axis=-1))


def constrained_model(rules, **arguments):
    keras = pytest.importorskip("keras")
    from fastkeras.layers import CRF

    layer = CRF(len(rules.transitions), constraints=rules, **arguments)
    return layer, keras.Sequential([keras.Input((None, len(rules.transitions))), layer])


@pytest.mark.parametrize("use_boundaries", (False, True))
def test_the_layer_obeys_learns_and_is_saved(use_boundaries, tmp_path, rng):
    keras = pytest.importorskip("keras")
    rules = constraints.allowed("BIO", ["O", "B", "I"])
    layer, model = constrained_model(rules, use_boundaries=use_boundaries)
    model.compile(keras.optimizers.SGD(1.0), loss=layer.loss)
    scores = rng.standard_normal((4, 6, 3)).astype("float32")
    tags = np.tile([0, 1, 2, 2, 1, 0], (4, 1))
    before = keras.ops.convert_to_numpy(layer._transitions)
    first, *_, last = model.fit(scores, tags, epochs=9, verbose=0).history["loss"]
    assert np.isfinite(first) and last < first
    after = keras.ops.convert_to_numpy(layer._transitions)
    np.testing.assert_array_equal(before[0, 2], after[0, 2])  # forbidden ones get no gradient
    assert (before != after).sum() == 8

    path = tmp_path / "model.keras"
    layer.decode(model).save(path)
    loaded = keras.models.load_model(path)
    hostile = np.full((2, 5, 3), [0, 0, 99], "float32")
    hostile[1, 2] = [500, 0, 0]  # so high that it pays to have a B after it
    found = loaded.predict(hostile, verbose=0)
    np.testing.assert_array_equal(found, [[1, 2, 2, 2, 2], [1, 2, 0, 1, 2]])
    for rule, restored in zip(rules, loaded.layers[-1].constraints, strict=True):
        np.testing.assert_array_equal(rule, restored)


def test_a_layer_without_constraints_has_the_configuration_it_had():
    from fastkeras.layers import CRF

    assert "constraints" not in CRF(3).get_config()


def test_a_layer_refuses_constraints_of_another_number_of_tags():
    from fastkeras.layers import CRF

    rules = constraints.allowed("BIO", ["O", "B", "I"])
    with pytest.raises(
        ValueError, match=r"^constraints.transitions must be bool of shape \(4, 4\)"
    ):
        CRF(4, constraints=rules)
    with pytest.raises(
        ValueError, match=r"^constraints.transitions must be bool of shape \(4, 4\)"
    ):
        CRF(constraints=rules)(np.zeros((1, 2, 4), "float32"))
