"""Optimizers that scale a step by the whole variable: layers, decays, what is saved, bad arguments.

Their formulas are in test_rules.py.
"""

import keras
import numpy as np
import pytest

from fastkeras import optimizers
from fastkeras.optimizers import update
from fastkeras.optimizers.rules import RULES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CASES = {
    "stable_adamw": ("StableAdamW", {}),
    "cautious_adam": ("AdamW", {"cautious": True}),
    "cautious_lion": ("Lion", {"cautious": True}),
    "adam_mini": ("AdamMini", {"blocks": [("v[02]", -1)]}),
}


@pytest.mark.parametrize("rule", CASES)
def test_rates_and_decays_by_variable_reach_the_rule(rule, rng):
    name, settings = CASES[rule]
    start = [rng.standard_normal(shape) for shape in ((40, 3), (7,), (0, 3))]
    variables = [keras.Variable(p.astype("float32"), name=f"v{i}") for i, p in enumerate(start)]
    optimizer = getattr(optimizers, name)(
        0.1,
        **settings,
        weight_decay=0.5,
        learning_rate_multipliers=[("v1", 0.25)],
        weight_decay_overrides=[("v1", 0.125)],
    )
    made_again = getattr(optimizers, name).from_config(optimizer.get_config())
    assert made_again.cautious == optimizer.cautious
    optimizer.build(variables)
    row = RULES[rule]
    slots = [tuple(np.zeros(row.shape_of_slot(s, p.shape)) for s in row.slots) for p in start]
    given = {n: getattr(optimizer, n) for n in optimizer._HYPERPARAMETERS}
    for step in range(1, 4):
        gradients = [step * rng.standard_normal(p.shape) for p in start]
        optimizer.apply([g.astype("float32") for g in gradients], variables)
        update(
            *(rule, start, gradients, slots),
            **{"learning_rate": 0.1, "step": step, "multipliers": [1, 0.25, 1], **given},
            weight_decays=[0.5, 0.125, 0.5],
            engine="reference",
        )
    for variable, expected in zip(variables, start, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if not row.element_wise])
def test_a_variable_without_numbers_has_no_mean(rule):
    row = RULES[rule]
    slots = tuple(np.zeros(row.shape_of_slot(name, (0, 4))) for name in row.slots)
    empty = np.ones((0, 4))
    update(rule, [empty], [empty], [slots], learning_rate=0.1, engine="reference")


def test_blocks_are_tokens_heads_units_or_all():
    attention = keras.layers.MultiHeadAttention(num_heads=2, key_dim=3, name="attention")
    embedding, dense = keras.layers.Embedding(7, 4), keras.layers.Dense(5)
    x = keras.Input((6,))
    hidden = embedding(x)
    model = keras.Model(x, dense(attention(hidden, hidden)))
    optimizer = optimizers.AdamMini(blocks=[("dense.*/kernel", ())])
    optimizer.build(model.trainable_variables)
    shapes = {
        v.path.split("/", 1)[-1]: tuple(s[1].shape)
        for v, s in zip(model.trainable_variables, map(optimizer._slots, range(11)), strict=True)
    }
    assert shapes["embeddings"] == (7, 1)
    assert shapes["query/kernel"] == shapes["key/kernel"] == (1, 2, 1)
    assert shapes["value/kernel"] == (1, 2, 3) and shapes["query/bias"] == (1, 1)
    assert shapes["attention_output/kernel"] == (1, 1, 4) and shapes["kernel"] == (1, 1)


def test_a_block_of_one_number_is_that_of_adam(rng):
    shape, start = (4, 3), rng.standard_normal((4, 3))
    results = []
    for rule in ("adam", "adam_mini"):
        p, slots = start.copy(), (np.zeros(shape), np.zeros(shape))
        settings = {"learning_rate": 0.1, "engine": "reference"}
        update(rule, [p], [np.cos(start)], [slots], **settings)
        results.append(p)
    np.testing.assert_array_equal(*results)
    with pytest.raises(ValueError, match="must have the shape"):
        update("adam_mini", [p], [p], [(slots[0], np.zeros((2, 3)))], **settings)


def test_nan_in_a_gradient_is_no_disagreement():
    parameter, gradient = np.ones(4), np.array([1.0, np.nan, 1.0, 1.0])
    slots = (np.zeros(4), np.zeros(4))
    update("cautious_adam", [parameter], [gradient], [slots], learning_rate=0.1)
    np.testing.assert_array_equal(np.isnan(parameter), np.isnan(gradient))


@pytest.mark.parametrize("name, arguments, message", [
    ("SGD", {"cautious": True}, "cautious is for Adam and AdamW, without amsgrad, and for Lion"),
    ("Adam", {"cautious": True, "amsgrad": True}, "not for Adam with the rule amsgrad"),
    ("Adam", {"cautious": "no"}, "cautious must be True or False, got 'no'"),
    ("Lion", {"cautious": True, "lazy": ["v"]}, "lazy are not for Lion with the rule"),
    ("AdamMini", {"blocks": [("(", 0)]}, "blocks must be pairs of a regular expression and axes"),
    ("AdamMini", {"blocks": [("v", False)]}, "blocks must be pairs of a regular expression and ax"),
    ("AdamMini", {"blocks": [("v", np.int64(1))]}, "blocks: v has 1 axes, but 'v' names \\(1,\\)"),
    ("AdamMini", {"blocks": [("v", 1)]}, "blocks: v has 1 axes, but 'v' names \\(1,\\)"),
    ("StableAdamW", {"layer_adaptation": True}, "are not for StableAdamW with the rule"),
])  # fmt: skip
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(0.1, **arguments).build([keras.Variable(np.ones(3), name="v")])
