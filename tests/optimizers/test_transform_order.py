"""Transforms before the kernel keep their order with those that precede them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastkeras import optimizers
from fastkeras.optimizers import transforms


def same(gradient, variable):
    return gradient


def without_nan(gradient, variable):
    return tf.where(tf.math.is_finite(gradient), gradient, 0)


def apply(gradients, **settings):
    """Return how far variables at 1 move in one step of SGD, and its skipped steps."""
    named = zip("abc", gradients, strict=False)
    variables = [keras.Variable(np.ones(len(g)), name=name) for name, g in named]
    optimizer = optimizers.SGD(1.0, **settings)
    optimizer.build(variables)
    optimizer.apply([tf.constant(g) for g in gradients], variables)
    return [1 - np.array(tf.identity(v.value)) for v in variables], optimizer.skipped_steps


@pytest.mark.parametrize("later", [same, without_nan, transforms.centralize()])
def test_what_follows_sanitize_does_not_hide_what_it_found(later):
    steps = transforms.chain(transforms.sanitize(), later, transforms.clip_by_norm(9.0))
    gradients = [[1.0, np.nan], [2.0], [3.0]]
    moved, skipped = apply(gradients, gradient_transforms=[("a", steps)])
    assert skipped == 1 and not np.concatenate(moved).any()
    moved, skipped = apply(gradients, gradient_transforms=[("b", steps)])
    assert skipped == 0 and [*moved[1], *moved[2]] == [2, 3]


@pytest.mark.parametrize("where", ["a", "b", "a|b"])
def test_a_global_norm_spans_all_variables_though_a_function_follows_at_some(where):
    settings = {"global_clipnorm": 0.5, "gradient_transforms": [(where, same)]}
    moved, _ = apply([[3.0], [4.0], [0.0]], **settings)
    np.testing.assert_allclose(np.concatenate(moved), [0.3, 0.4, 0], 1e-6)


def test_groups_that_share_a_chain_move_before_the_kernel_one_after_the_other():
    norm = transforms.clip_by_global_norm
    given = [
        ("a", (norm(5.0, "all"), same)),
        ("b", (norm(4.0), norm(5.0, "all"))),
        ("c", (norm(6.0), norm(5.0, "all"))),
    ]
    moved, _ = apply([[3.0], [8.0], [0.0]], gradient_transforms=given)
    np.testing.assert_allclose(np.concatenate(moved), [3, 4, 0], 1e-6)


@pytest.mark.parametrize("steps", [
    (transforms.sanitize(), transforms.clip_by_global_norm(0.1), same),
    (same, transforms.sanitize(), transforms.clip_by_global_norm(0.1)),
    (transforms.add_decayed_weights(1e-9), transforms.clip_by_global_norm(0.1), same),
])  # fmt: skip
def test_a_frozen_variable_counts_nowhere_before_the_kernel(steps):
    gradients = [[np.nan, 1e9], [3.0]]
    settings = {"learning_rate_multipliers": [0, 1], "gradient_transforms": transforms.chain(steps)}
    (frozen, moving), skipped = apply(gradients, **settings)
    assert skipped == 0 and not frozen.any()
    np.testing.assert_allclose(moving, [0.1], 1e-6)


def test_a_frozen_variable_counts_nowhere_in_the_engine_keras(monkeypatch):
    monkeypatch.setenv("FASTKERAS_ENGINE", "keras")
    chain = transforms.chain(
        transforms.sanitize(), transforms.add_decayed_weights(9), transforms.clip_by_global_norm(1)
    )
    settings = {"learning_rate_multipliers": [0, 1], "gradient_transforms": chain}
    (frozen, moving), skipped = apply([[np.nan], [-5.0]], **settings)
    assert skipped == 0 and not frozen.any()
    np.testing.assert_allclose(moving, [1], 1e-6)
