"""Muon against its formula in float64, and against the Muon of Keras."""

import inspect
import math

import keras
import numpy as np
import pytest

from fastkeras import optimizers
from fastkeras.optimizers import set_learning_rate_multiplier, transforms
from fastkeras.optimizers.fused.classes import muon
from optimizer_calls import applied

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = {"wide": (6, 10), "tall": (10, 4), "head": (4, 3), "bias": (5,), "embedding": (9, 4)}
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(x, steps=5):
    """By the singular values themselves, which the iteration never computes."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / (np.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        s = A * s + B * s**3 + C * s**5
    return u * s @ v


def expected(start, gradients, rate, decay, nesterov, rms_rate):
    """Where a matrix goes, in float64."""
    p, m = start.astype("float64"), 0.0
    scale = 1.0 if rms_rate is None else rms_rate * np.sqrt(max(p.shape))
    for g in gradients:
        m = 0.95 * m + g
        p = p - rate * decay * p - rate * scale * orthogonal(g + 0.95 * m if nesterov else m)
    return p


def variables_of():
    rng = np.random.default_rng(1)
    return [
        keras.Variable(rng.standard_normal(shape).astype("float32"), name=name)
        for name, shape in SHAPES.items()
    ]


def gradients_of(step):
    rng = np.random.default_rng(10 + step)
    return [rng.standard_normal(shape).astype("float32") for shape in SHAPES.values()]


def trained(optimizer, steps=3):
    variables = variables_of()
    optimizer.build(variables)
    return applied(optimizer, variables, [gradients_of(step) for step in range(steps)])


@pytest.mark.parametrize("nesterov, rms_rate", [(True, 0.2), (False, None)])
def test_matrices_follow_the_formula(nesterov, rms_rate):
    settings = {"nesterov": nesterov, "rms_rate": rms_rate, "weight_decay": 0.3}
    rates = [("wide", 0.5)]
    found = trained(optimizers.Muon(0.1, learning_rate_multipliers=rates, **settings))
    for i, name in enumerate(("wide", "tall")):
        start, steps = variables_of()[i].numpy(), [gradients_of(k)[i] for k in range(3)]
        rate = 0.05 if name == "wide" else 0.1
        goal = expected(start, steps, rate, 0.3, nesterov, rms_rate)
        np.testing.assert_allclose(found[i], goal, rtol=0, atol=3e-5)


@pytest.mark.parametrize("columns", [12, 23, 24, 60])
def test_wide_matrices_of_small_singular_values_lose_no_digits(columns, rng):
    u, v = (np.linalg.qr(rng.standard_normal((n, 12)))[0] for n in (12, columns))
    matrix = u * 10.0 ** -np.linspace(0, 4, 12) @ v.T
    for steps in (1, 3, 5):
        found = muon.orthogonal(matrix.astype("float32"), (A, B, C), steps)
        goal = orthogonal(matrix, steps)
        np.testing.assert_allclose(found, goal, rtol=0, atol=5e-7 * A ** (steps - 1))


SETTINGS = (
    {"exclude_layers": ["head"], "global_clipnorm": 0.5},
    {"adam_lr_ratio": 0.5, "adam_weight_decay": None, "exclude_embeddings": False},
    {"weight_decay": None, "use_ema": True, "nesterov": False, "rms_rate": None},
)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_all_is_that_of_keras(settings):
    if not hasattr(keras.optimizers, "Muon"):
        pytest.skip("this Keras has no Muon")
    ours, theirs = optimizers.Muon(0.01, **settings), keras.optimizers.Muon(0.01, **settings)
    for a, b in zip(trained(ours), trained(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert [v.shape for v in ours.variables] == [v.shape for v in theirs.variables]
    for source, target in ((ours, theirs), (theirs, ours)):
        store = {}
        source.save_own_variables(store)
        target.load_own_variables(store)
        for a, b in zip(source.variables, target.variables, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    signature = inspect.signature(keras.optimizers.Muon).parameters.values()
    wanted = [(p.name, p.default) for p in signature if p.kind is not p.VAR_KEYWORD]
    given = [(p.name, p.default) for p in inspect.signature(optimizers.Muon).parameters.values()]
    assert given[: len(wanted)] == wanted


def test_products_in_bfloat16_have_an_error_of_its_digits():
    exact, rounded = (trained(optimizers.Muon(0.1, ns_dtype=t), 1) for t in ("float32", "bfloat16"))
    for a, b, start in zip(exact, rounded, variables_of(), strict=True):
        change = np.abs(a - start.numpy()).max()
        assert np.abs(a - b).max() <= 0.1 * change
    assert np.abs(exact[0] - rounded[0]).max() > 0


def test_a_frozen_matrix_and_a_skipped_step_change_nothing():
    variables = variables_of()
    chains = [("bias", transforms.sanitize())]
    optimizer = optimizers.Muon(0.1, gradient_transforms=chains)
    optimizer.build(variables)
    optimizer.apply(gradients_of(0), variables)
    set_learning_rate_multiplier(variables[0], 0.0)
    before = [v.numpy().copy() for v in (*variables, *optimizer.momentums)]
    bad = gradients_of(1)
    bad[3][2] = np.nan
    optimizer.apply(bad, variables)
    assert optimizer.skipped_steps == 1
    for variable, old in zip((*variables, *optimizer.momentums), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    optimizer.apply(gradients_of(1), variables)
    moved = [
        (variable.numpy() != old).any()
        for variable, old in zip((*variables, *optimizer.momentums), before, strict=True)
    ]
    assert moved == [False, True, True, True, True] * 2


def test_the_report_tells_both_decays_and_all_state():
    variables, lines = variables_of(), []
    optimizer = optimizers.Muon(weight_decay=0.25, adam_weight_decay=0.125, adam_lr_ratio=0.5)
    optimizer.build(variables)
    size = optimizer.report(print_fn=lines.append)
    assert size == 4 * (60 + 40 + 12 + 2 * (5 + 36))
    rows = {name: next(r for r in lines[0].splitlines() if name in r) for name in SHAPES}
    assert "0.25 " in rows["wide"] and "0.125" in rows["bias"] and "0.125" in rows["embedding"]


@pytest.mark.parametrize("arguments, message", [
    ({"ns_steps": 0}, "ns_steps must be an integer of at least 1, got 0"),
    ({"ns_dtype": "float8"}, 'ns_dtype must be "float32" or "bfloat16", got \'float8\''),
    ({"adam_lr_ratio": 0}, "adam_lr_ratio must be a finite number above 0, got 0"),
    ({"exclude_layers": ["("]}, "exclude_layers: '\\(' is no regular expression"),
    ({"moment_bits": 4}, "moment_bits must be 8, 16 or 32, got 4"),
    ({"lazy": ["wide"]}, "layer_adaptation and lazy are not for Muon"),
    ({"momentum": 1.5}, "momentum must be a number from 0 to 1, got 1.5"),
    ({"adam_beta_2": 1}, "adam_beta_2 must be a number from 0 to below 1, got 1"),
    ({"adam_lr_ratio": "1"}, "adam_lr_ratio must be a finite number above 0, got '1'"),
    ({"adam_weight_decay": math.nan}, "adam_weight_decay must be None or a finite number, got n"),
    ({"rms_rate": "no"}, "rms_rate must be None or a finite number, got 'no'"),
    ({"muon_a": math.nan}, "muon_a must be a finite number, got nan"),
    ({"ns_steps": True}, "ns_steps must be an integer of at least 1, got True"),
    ({"nesterov": "no"}, "nesterov must be True or False, got 'no'"),
    ({"exclude_embeddings": "no"}, "exclude_embeddings must be True or False, got 'no'"),
    ({"exclude_layers": "dense"}, r"must be a list of regular expressions, such as \['dense'\]"),
])  # fmt: skip
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.Muon(**arguments).build(variables_of())
