"""SOAP and APOLLO against their formulas in float64; what Muon shares is in test_muon.py."""

import keras
import numpy as np
import pytest

from fastkeras import optimizers
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import transforms
from fastkeras.optimizers.fused.classes.apollo import signs_of
from optimizer_calls import applied

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = {"wide": (4, 9), "tall": (9, 4), "square": (5, 5), "bias": (6,), "embedding": (9, 4)}
RATE, DECAY, BETA_1, BETA_2, EPSILON = 0.1, 0.3, 0.8, 0.9, 1e-6
COMMON = {"beta_1": BETA_1, "beta_2": BETA_2, "epsilon": EPSILON, "weight_decay": DECAY}
STEPS = 6


def variables_of(names=tuple(SHAPES)):
    rng = np.random.default_rng(1)
    start = {name: rng.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}
    return [keras.Variable(start[name], name=name) for name in names]


def gradients_of(step, names=tuple(SHAPES)):
    rng = np.random.default_rng(10 + step)
    drawn = {name: rng.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}
    return [drawn[name] for name in names]


def stepped(optimizer, variables, steps):
    names = [variable.name for variable in variables]
    return applied(optimizer, variables, [gradients_of(step, names) for step in steps])


def trained(optimizer, names=tuple(SHAPES)):
    variables = variables_of(names)
    optimizer.build(variables)
    return stepped(optimizer, variables, range(STEPS))


def corrected(m, v, t):
    return m / (1 - BETA_1**t) / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON / np.sqrt(1 - BETA_2**t))


def soap(p, gradients, largest, frequency, shampoo_beta=BETA_2):
    """Where it goes, in float64; `epsilon` is added before the correction of v."""
    axes = [axis for axis in (0, 1) if p.shape[axis] <= largest]
    m, v = np.zeros(p.shape), np.zeros(p.shape)
    products, bases = [0.0, 0.0], [np.eye(p.shape[0]), np.eye(p.shape[1])]
    for t, g in enumerate(gradients):
        p = p - RATE * DECAY * p
        if t > 0:
            m = BETA_1 * m + (1 - BETA_1) * g
            left, right = bases
            v = BETA_2 * v + (1 - BETA_2) * (left.T @ g @ right) ** 2
            p = p - RATE * left @ corrected(left.T @ m @ right, v, t) @ right.T
        for axis in axes:
            square = g @ g.T if axis == 0 else g.T @ g
            products[axis] = shampoo_beta * products[axis] + (1 - shampoo_beta) * square
            if t == 0:
                bases[axis] = np.linalg.eigh(products[axis])[1]
            elif t % frequency == 0:
                ahead = products[axis] @ bases[axis]
                order = np.argsort(-np.sum(bases[axis] * ahead, axis=0))
                v = v.take(order, axis)
                bases[axis] = np.linalg.qr(ahead[:, order])[0]
    return p


@pytest.mark.parametrize(
    "name, largest, frequency, beta",
    [("square", 9, 2, None), ("wide", 4, 1, 0.7), ("tall", 4, 3, None)],
)
def test_soap_follows_its_formula(name, largest, frequency, beta):
    """On axes whose products have full rank: others have bases of which any is right."""
    optimizer = optimizers.SOAP(
        RATE,
        **COMMON,
        shampoo_beta=beta,
        precondition_frequency=frequency,
        max_precondition_size=largest,
    )
    goal = soap(
        variables_of([name])[0].numpy().astype("float64"),
        [gradients_of(step, [name])[0].astype("float64") for step in range(STEPS)],
        largest,
        frequency,
        beta or BETA_2,
    )
    np.testing.assert_allclose(trained(optimizer, [name])[0], goal, rtol=0, atol=1e-5)


def apollo(p, gradients, position, rank, scale, by, period):
    m = v = 0.0
    before = 0.0
    for t, g in enumerate(gradients, start=1):
        p = p - RATE * DECAY * p
        tall = p.shape[0] > p.shape[1]
        g = g.T if tall else g
        epoch = np.int32((t - 1) // period)
        small = signs_of(NUMPY, epoch, position, (rank, g.shape[0])) @ g / np.sqrt(rank)
        m = BETA_1 * m + (1 - BETA_1) * small
        v = BETA_2 * v + (1 - BETA_2) * small**2
        adapted, axis = m / (np.sqrt(v) + EPSILON), 0 if by == "channel" else None
        step = g * np.linalg.norm(adapted, axis=axis) / (np.linalg.norm(small, axis=axis) + 1e-8)
        length = np.linalg.norm(step)
        limiter = max(length / (before + 1e-8), 1.01) / 1.01 if before else 1.0
        step, before = step / limiter, length / limiter
        rate = RATE * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t) * np.sqrt(scale)
        p = p - rate * (step.T if tall else step)
    return p


@pytest.mark.parametrize("rank, scale, by", [(2, 1.0, "channel"), (1, 4.0, "matrix")])
def test_apollo_follows_its_formula(rank, scale, by):
    settings = {"rank": rank, "scale": scale, "by": by, "projection_period": 4}
    found = trained(optimizers.APOLLO(RATE, **COMMON, **settings))
    for i, name in enumerate(("wide", "tall", "square")):
        gradients = [gradients_of(step)[i].astype("float64") for step in range(STEPS)]
        start = variables_of()[i].numpy().astype("float64")
        goal = apollo(start, gradients, i, rank, scale, by, 4)
        np.testing.assert_allclose(found[i], goal, rtol=0, atol=2e-5, err_msg=name)


def test_random_signs_are_both_and_others_for_each_epoch_and_variable():
    drawn = [
        signs_of(NUMPY, np.int32(epoch), position, (8, 500))
        for epoch in (0, 1)
        for position in (0, 1)
    ]
    for signs in drawn:
        assert set(np.unique(signs)) == {-1, 1} and abs(signs.mean()) < 0.1
        gram = signs @ signs.T / 500
        assert np.abs(gram - np.eye(8)).max() < 0.25
    assert all((a != b).any() for i, a in enumerate(drawn) for b in drawn[:i])


CASES = [("SOAP", {"precondition_frequency": 2}), ("APOLLO", {"rank": 2})]


@pytest.mark.parametrize("name, settings", CASES, ids=str)
def test_all_that_is_no_matrix_goes_by_adamw(name, settings):
    adam = {n: value for n, value in COMMON.items() if n != "epsilon"}
    found = trained(getattr(optimizers, name)(RATE, **COMMON, **settings))
    expected = trained(optimizers.AdamW(RATE, **adam, epsilon=EPSILON))
    for i in (3, 4):
        np.testing.assert_array_equal(found[i], expected[i])
    excluded = trained(
        getattr(optimizers, name)(RATE, **COMMON, **settings, exclude_layers=["wide", "tall"])
    )
    for i in (0, 1, 3):
        np.testing.assert_array_equal(excluded[i], expected[i])


@pytest.mark.parametrize("name, settings", CASES, ids=str)
def test_it_goes_on_from_what_was_saved_and_skips_what_is_not_finite(name, settings):
    settings = settings | {"gradient_transforms": transforms.sanitize()}
    variables = variables_of()
    optimizer = getattr(optimizers, name).from_config(
        getattr(optimizers, name)(RATE, **settings).get_config()
    )
    optimizer.build(variables)
    bad = [gradient * np.nan for gradient in gradients_of(0)]
    optimizer.apply(bad, variables)
    for variable, start in zip(variables, variables_of(), strict=True):
        np.testing.assert_array_equal(variable.numpy(), start.numpy())
    stepped(optimizer, variables, range(3))
    store, lines = {}, []
    optimizer.save_own_variables(store)
    again, others = variables_of(), getattr(optimizers, name)(RATE, **settings)
    others.build(again)
    for variable, other in zip(variables, again, strict=True):
        other.assign(variable)
    others.load_own_variables(store)
    results = [stepped(o, v, range(3, 6)) for o, v in ((optimizer, variables), (others, again))]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    size = optimizer.report(print_fn=lines.append)
    of_soap = sum(2 * (r * r + c * c + r * c) for r, c in ((4, 9), (9, 4), (5, 5)))
    of_matrices = of_soap if name == "SOAP" else 2 * 2 * (9 + 9 + 5) + 3
    assert size == 4 * (of_matrices + 2 * (6 + 36))


LARGE = {"embedding": (256, 20), "kernel": (64, 64), "heads": (8, 32, 32)}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["Muon", "SOAP", "APOLLO"])
def test_what_goes_by_adamw_has_narrow_moments_with_the_same_bits(name, bits, tmp_path):
    """As those of AdamW; matrices keep theirs."""
    rng = np.random.default_rng(0)
    steps = [[rng.standard_normal(s).astype("f4") for s in LARGE.values()] for _ in range(4)]
    of_adam = {"weight_decay": 0.1, "epsilon": 1e-7}
    settings = of_adam | ({"adam_weight_decay": 0.1} if name == "Muon" else {"beta_1": 0.9})
    settings |= {} if name == "Muon" else {"beta_2": 0.999}
    settings |= {"rank": 8} if name == "APOLLO" else {}
    made, values = [], []
    for class_name, more in (("AdamW", of_adam), (name, settings), (name, settings)):
        variables = [keras.Variable(np.ones(s, "f4"), name=n) for n, s in LARGE.items()]
        made.append(getattr(optimizers, class_name)(0.1, moment_bits=bits, **more))
        made[-1].build(variables)
        values.append(variables)
    adam, ours, again = made
    expected = applied(adam, values[0], steps)
    for optimizer, variables, part in ((ours, values[1], steps[:2]), (again, values[2], [])):
        applied(optimizer, variables, part)
    store, lines = {}, []
    ours.save_own_variables(store)
    again.load_own_variables(store)
    for variable, other in zip(values[1], values[2], strict=True):
        other.assign(variable)
    found = applied(again, values[2], steps[2:])
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])
    again.report(print_fn=lines.append)
    rows = [line for line in lines[0].splitlines() if any(n in line for n in LARGE)]
    assert ["AdamW" in row for row in rows] == [True, False, True]
    assert [name in row for row in rows] == [False, True, False]
    narrow = {8: "uint8", 16: "bfloat16"}[bits]
    assert [str(again._slots(i)[0].dtype) for i in range(3)] == [narrow, "float32", narrow]


@pytest.mark.parametrize("name, arguments, message", [
    ("SOAP", {"precondition_frequency": 0}, "precondition_frequency must be an integer of at leas"),
    ("SOAP", {"shampoo_beta": 1.0}, "shampoo_beta must be a number from 0 to below 1, got 1.0"),
    ("APOLLO", {"rank": 0.5}, "rank must be an integer of at least 1, got 0.5"),
    ("APOLLO", {"scale": "1"}, "scale must be a number above 0, got '1'"),
    ("APOLLO", {"by": "row"}, 'by must be "channel" or "matrix", got \'row\''),
    ("APOLLO", {"scale": 0}, "scale must be a number above 0, got 0"),
    ("SOAP", {"lazy": ["wide"]}, "layer_adaptation and lazy are not for SOAP"),
])  # fmt: skip
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(**arguments).build(variables_of())
