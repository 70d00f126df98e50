"""The optimizer step in programs compiled by XLA: the kernel, in place, with the same results."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastkeras import optimizers
from fastkeras._ops import tensorflow_variables as variable_ops
from fastkeras.optimizers import transforms

SHAPES = ((3, 5), (7,), (), (40, 300), (0, 4))
STEPS = 4
RULES = {
    "SGD": {},
    "SGD, Nesterov": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"moment_bits": 8},
    "AdamW, in 16 bits": {"moment_bits": 16},
    "Nadam": {},
    "Lion": {"moment_bits": 8, "cautious": True},
    "Lamb": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {},
    "AdEMAMix": {"alpha_warmup": 3, "beta_3_warmup": 9},
    "ScheduleFreeAdamW": {"warmup_steps": 3},
    "ScheduleFreeSGD": {},
    "StableAdamW": {"weight_decay": 0.1},
}


def variables_of(dtype):
    rng = np.random.default_rng(3)
    return [
        keras.Variable(rng.standard_normal(shape), dtype=dtype, name=f"weight_{i}")
        for i, shape in enumerate(SHAPES)
    ]


def gradients_of(step, dtype):
    rng = np.random.default_rng(step)
    return [tf.cast(tf.constant(rng.standard_normal(shape)), dtype) for shape in SHAPES]


def stepper(name, settings, dtype="float32"):
    """Return (a function of a step, the variables, the optimizer)."""
    variables = variables_of(dtype)
    optimizer = getattr(optimizers, name.partition(",")[0])(0.1, **settings)
    optimizer.build(variables)
    return lambda *gradients: optimizer.apply(gradients, variables), variables, optimizer


def after_steps(jit_compile, name, settings, dtype="float32"):
    step, variables, optimizer = stepper(name, settings, dtype)
    step = tf.function(step, jit_compile=jit_compile)
    for number in range(STEPS):
        step(*gradients_of(number, dtype))
    return [tf.cast(v.value, v.dtype).numpy() for v in (*variables, *optimizer.variables)]


def program(step, *gradients, stage="hlo"):
    compiled = tf.function(step, jit_compile=True)
    return compiled.experimental_get_compiler_ir(*gradients)(stage=stage)


@pytest.mark.parametrize("name", RULES)
def test_the_step_of_a_graph(name):
    assert variable_ops.XLA == "ready"
    settings = {
        **RULES[name],
        "learning_rate_multipliers": [("weight_0", 0.5), ("weight_1", 0)],
        "gradient_transforms": [("weight", transforms.chain(transforms.clip_by_norm(1.0)))],
        "global_clipnorm": 3.0,
    }
    compiled, plain = (after_steps(jit, name, settings) for jit in (True, False))
    for one, other in zip(compiled, plain, strict=True):
        assert one.dtype == other.dtype
        # the coefficients are computed by XLA's powers and roots, in float64
        np.testing.assert_allclose(
            one.astype("float64"), other.astype("float64"), rtol=2e-6, atol=2e-7
        )
    step, *_ = stepper(name, settings)
    text = program(step, *gradients_of(0, "float32"))
    assert 'custom_call_target="Fastkeras>OptimizerStep"' in text


@pytest.mark.parametrize("dtype", ("bfloat16", "float16", "float64"))
@pytest.mark.parametrize("master_weights", (False, True))
def test_other_dtypes(dtype, master_weights):
    dithered = dtype == "bfloat16" and not master_weights
    settings = {"master_weights": master_weights, "stochastic_rounding": dithered}
    compiled, plain = (after_steps(jit, "AdamW", settings, dtype) for jit in (True, False))
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(
            one.astype("float64"), other.astype("float64"), rtol=1e-13, atol=1e-15
        )


def test_it_works_in_place():
    """XLA copies no variable: each result is in the buffer of its argument."""
    step, variables, _ = stepper("AdamW", {})
    text = program(step, *gradients_of(0, "float32"), stage="optimized_hlo")
    aliases = text.partition("input_output_alias={")[2].partition("entry_computation")[0]
    changed = 3 * sum(variable.value.shape.num_elements() > 0 for variable in variables)
    assert aliases.count("alias)") >= changed
    assert "f32[40,300]{1,0} copy(" not in text


def test_a_step_that_is_not_finite_is_skipped():
    settings = {"gradient_transforms": transforms.sanitize()}
    step, variables, optimizer = stepper("Adam", settings)
    compiled = tf.function(step, jit_compile=True)
    before = [variable.numpy() for variable in variables]
    compiled(*(gradient * np.nan for gradient in gradients_of(0, "float32")))
    for variable, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    assert optimizer.skipped_steps == 1
    compiled(*gradients_of(0, "float32"))
    assert not np.array_equal(variables[0].numpy(), before[0])


def test_rows_are_left_to_the_keras_engine():
    """The number of rows with a gradient is unknown when XLA compiles."""
    step, *_ = stepper("Adam", {"lazy": ["weight_3"]})
    assert "Fastkeras>" not in program(step, *gradients_of(0, "float32"))


def test_the_engine_can_be_forced(monkeypatch):
    monkeypatch.setenv("FASTKERAS_ENGINE", "keras")
    step, *_ = stepper("Adam", {})
    assert "Fastkeras>" not in program(step, *gradients_of(0, "float32"))
