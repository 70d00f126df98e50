"""`release_gradients`: the bits of the ordinary step, with few gradients at a time."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers
from fastkeras.optimizers import release_gradients, transforms
from fastkeras.optimizers.fused import release

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.skipif(BACKEND == "jax", reason="on JAX it is refused"),
]
X = np.random.default_rng(0).normal(size=(16, 72)).astype("float32")
Y = X[:, :1] * 2
CASES = {
    "AdamW": {"weight_decay": 0.1, "clipnorm": 0.1, "use_ema": True, "lookahead_period": 2},
    "Adam": {"moment_bits": 8, "learning_rate_multipliers": [("head", 0.0)]},
    "Muon": {},
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(release, "_TOGETHER", 1000)


def network(optimizer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((72,))
    shared = keras.layers.Dense(72, activation="tanh", kernel_constraint="non_neg", name="shared")
    hidden = keras.layers.Dense(8, name="hidden")(shared(shared(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(hidden))
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def fitted(model):
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    every = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v.value))) for v in every]


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_the_ordinary_step(name):
    models = [network(getattr(optimizers, name)(0.01, **CASES[name])) for _ in range(2)]
    with release_gradients(models[0].optimizer, models[0].trainable_variables):
        released = fitted(models[0])
    assert models[0].optimizer._release is None
    for one, another in zip(released, fitted(models[1]), strict=True):
        np.testing.assert_array_equal(one, another)


def test_few_gradients_are_there_at_a_time(monkeypatch):
    model = network(optimizers.SGD(0.01))
    variables = model.trainable_variables
    optimizer, move, seen = model.optimizer, model.optimizer._move, []

    def noted(gradients, moved, *rest):
        alive = sum(v.value.grad is not None for v in variables) if BACKEND == "torch" else 0
        seen.append((sorted(v.path for v in moved), alive))
        return move(gradients, moved, *rest)

    monkeypatch.setattr(optimizer, "_move", noted)
    with release_gradients(optimizer, variables):
        model.fit(X[:8], Y[:8], verbose=0)
    head = ["head/bias", "head/kernel", "hidden/bias", "hidden/kernel"]
    assert [paths for paths, _ in seen][:1] == [head]
    assert sorted(path for paths, _ in seen[1:] for path in paths) == [
        "shared/bias",
        "shared/kernel",
    ]
    assert not any(alive for _, alive in seen)
    seen.clear()
    model.fit(X[:8], Y[:8], verbose=0)
    assert BACKEND != "torch" or len(seen) == 1  # the hooks are gone


def test_a_variable_without_a_gradient_has_missed_the_update():
    model = network(optimizers.Adam(0.01))
    variables, optimizer = model.trainable_variables, model.optimizer
    head = variables[-2:]
    with release_gradients(optimizer, variables):
        if BACKEND == "torch":
            ops.sum(model.layers[-1](ops.ones((2, 8)))).backward()
            gradients = [v.value.grad for v in variables]
            assert gradients == [None] * len(variables)
        else:
            gradients = [None] * (len(variables) - 2) + [ops.ones(v.shape) for v in head]
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply(gradients, variables)
    behind = ops.convert_to_numpy(optimizer._settings.behind)
    assert behind.tolist() == [1] * (len(variables) - 2) + [0, 0]
    assert int(optimizer.iterations) == 1


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: optimizers.SGD(global_clipnorm=1.0), "global_clipnorm=1.0 needs all .* clipnorm"),
        (lambda: optimizers.SGD(gradient_accumulation_steps=2), "gradient_accumulation_steps=2"),
        (
            lambda: optimizers.SGD(gradient_transforms=transforms.clip_by_global_norm(1.0)),
            "clip_by_global_norm, a transform of .*kernel",
        ),
        (lambda: optimizers.SGD(gradient_transforms=[transforms.sanitize()]), "sanitize.*OnNaN"),
        (lambda: keras.optimizers.SGD(), "fastkeras.optimizers, got SGD"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(optimizers.SGD()),
            "got LossScaleOptimizer, which looks at all gradients",
        ),
    ],
)
def test_what_needs_all_gradients_is_refused(optimizer, message):
    optimizer = optimizer()
    variables = [keras.Variable(np.ones(3), name="kernel")]
    with (
        pytest.raises(ValueError, match=message),
        release_gradients(optimizer, variables),
    ):
        pass
    assert getattr(optimizer, "_release", None) is None


def test_a_model_in_place_of_its_variables_is_named():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with (
        pytest.raises(TypeError, match="variables must be a list, got <Sequential"),
        release_gradients(optimizers.SGD(), model),
    ):
        pass


@pytest.mark.skipif(BACKEND != "torch", reason="backward is torch's")
def test_a_second_gradient_in_a_step_is_an_error():
    variable = keras.Variable(np.ones(300), name="kernel")
    optimizer = optimizers.SGD(0.1)
    with release_gradients(optimizer, [variable]):
        ops.sum(variable).backward()
        with pytest.raises(RuntimeError, match="kernel got a second gradient"):
            ops.sum(variable).backward()
        with pytest.raises(RuntimeError, match="kernel got a second gradient"):
            optimizer.apply([ops.ones(300)], [variable])
        with pytest.raises(ValueError, match="holds for it already"):
            release_gradients(optimizer, [variable]).__enter__()
        optimizer.apply([None], [variable])
    np.testing.assert_allclose(ops.convert_to_numpy(ops.stop_gradient(variable.value)), 0.9)
