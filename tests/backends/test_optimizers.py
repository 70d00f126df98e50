"""The optimizers on the backend of the environment, JAX or torch: training, settings, saving.

Run by `make test-backends`, which sets KERAS_BACKEND in an environment for each backend.
"""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers
from fastkeras.optimizers import set_learning_rate_multiplier, transforms
from fastkeras.optimizers.fused.classes import stock
from fastkeras.training import model_state

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]]).astype("float32")
NAMES = [ours.__name__ for ours in stock.OPTIMIZERS]
MOMENTUM = {"SGD": {"momentum": 0.9, "nesterov": True}, "RMSprop": {"momentum": 0.9}}


def network(optimizer=None, compiled=True):
    """Return a model; without `compiled`, tests on JAX save the time of compilation."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(8, "tanh", name="body"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer or "sgd", "mse", run_eagerly=not compiled)
    return model


def train(model, epochs=2, batch_size=16, **options):
    model.fit(X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **options)
    return arrays(model.trainable_variables)


def arrays(variables):
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v.value))) for v in variables]


def slots(optimizer, position):
    return arrays(optimizer._slots(position))


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


SETTINGS = (
    {"weight_decay": 0.1, "clipnorm": 0.1},
    {"global_clipnorm": 0.1, "use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
)


# On torch that of Keras computes the old average with the new step.
NEWER = ["Muon"] if keras.backend.backend() == "torch" else ["Muon", "ScheduleFreeAdamW"]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", [*NAMES, *(n for n in NEWER if hasattr(keras.optimizers, n))])
def test_training_is_that_of_keras(name, settings):
    settings = settings | MOMENTUM.get(name, {})
    theirs = train(network(getattr(keras.optimizers, name)(0.01, **settings), compiled=False))
    model = network(getattr(optimizers, name)(0.01, **settings))
    assert distance(train(model), theirs) < 1e-5
    assert distance(theirs, arrays(network().trainable_variables)) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_multiplier_is_another_learning_rate_for_what_its_pattern_matches(name):
    def step(module, rate, **options):
        variables = [keras.Variable(np.ones((2, 3)), name=name) for name in ("a", "b", "c")]
        optimizer = getattr(module, name)(rate, weight_decay=0.1, **options)
        optimizer.build(variables)
        for _ in range(2):
            optimizer.apply([ops.convert_to_tensor(X[:2, :3]) for _ in "abc"], variables)
        return arrays(variables)

    ours = step(optimizers, 0.01, learning_rate_multipliers=[("a", 0.1), ("a|c", 3.0)])
    for i, factor in enumerate((0.1, 1, 3)):
        theirs = step(keras.optimizers, 0.01 * factor)
        assert distance(ours[i : i + 1], theirs[i : i + 1]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_multiplier_0_leaves_variables_and_slots_as_they_are(name):
    settings = {"weight_decay": 0.1, "learning_rate_multipliers": [("body", 0.0)]}
    settings |= MOMENTUM.get(name, {})
    model = network(getattr(optimizers, name)(0.01, **settings), compiled=False)
    model.optimizer.build(model.trainable_variables)
    before = arrays(model.trainable_variables)
    frozen, moving = slots(model.optimizer, 0), slots(model.optimizer, 2)
    after = train(model, 1)
    assert distance(after[:2], before[:2]) == 0
    assert distance(slots(model.optimizer, 0), frozen) == 0
    assert distance(after[2:], before[2:]) > 1e-3
    assert distance(slots(model.optimizer, 2), moving) > 0


def test_a_multiplier_set_between_two_fits_counts_in_the_second_and_can_be_taken_back():
    model = network(optimizers.SGD(0.01, learning_rate_multipliers=[("head", 0.5)]))
    body, head = model.layers
    weights = train(model, 1, batch_size=64)
    for given, factors in (
        ((body, 0.0), [0, 0, 0.5, 0.5]),
        ((body, 0.1), [0.1, 0.1, 0.5, 0.5]),
        (([body, head.kernel], 2.0), [2, 2, 2, 0.5]),
        ((model, None), [1, 1, 0.5, 0.5]),
    ):
        set_learning_rate_multiplier(*given)
        assert model.optimizer.learning_rate_multipliers == factors
        plain = network(keras.optimizers.SGD(0.01), compiled=False)
        plain.set_weights(weights)
        full = train(plain, 1, batch_size=64)
        now = train(model, 1, batch_size=64)
        expected = [w + m * (f - w) for w, f, m in zip(weights, full, factors, strict=True)]
        assert distance(now, expected) < 1e-6
        assert distance(full, weights) > 1e-3
        weights = now


def test_a_callback_changes_a_multiplier_within_one_fit():
    model = network(optimizers.Adam(0.01))
    body, seen = model.layers[0], []

    def freeze(epoch, logs=None):
        set_learning_rate_multiplier(body, 0.0 if epoch == 1 else None)
        seen.append(arrays(body.trainable_variables))

    train(model, 3, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=freeze)])
    seen.append(arrays(body.trainable_variables))
    moved = [distance(a, b) for a, b in pairwise(seen)]
    assert moved[0] > 1e-3 and moved[1] == 0 and moved[2] > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_not_finite_is_skipped_and_counted(name):
    settings = {"weight_decay": 0.1, "gradient_transforms": transforms.sanitize()}
    settings |= MOMENTUM.get(name, {})
    model = network(getattr(optimizers, name)(0.01, **settings), compiled=False)
    before = train(model, 1)
    assert model.optimizer.skipped_steps == 0
    state = [slots(model.optimizer, i) for i in range(4)]
    model.train_on_batch(X * np.float32(np.nan), Y)
    assert distance(before, arrays(model.trainable_variables)) == 0
    for i in range(4):
        assert all(map(np.array_equal, state[i], slots(model.optimizer, i)))
    assert model.optimizer.skipped_steps == 1
    assert distance(train(model, 1), before) > 1e-3
    assert model.optimizer.skipped_steps == 1


def double(gradient, variable):
    return gradient * (2.0 if variable.name == "kernel" else 1.0)


CHAINS = (
    (transforms.sanitize(), transforms.centralize(), transforms.clip_by_norm(0.1)),
    (transforms.centralize(), transforms.scale(0.5), transforms.sanitize()),
    (transforms.clip_by_global_norm(0.1), double, transforms.sanitize()),
    (transforms.sanitize(), double, transforms.zero()),
)


@pytest.mark.parametrize("steps", CHAINS, ids=lambda steps: "-".join(map(named, steps)))
def test_a_chain_is_applied_in_its_order_and_skips_from_any_place(steps):
    model = network(optimizers.SGD(0.01, gradient_transforms=transforms.chain(*steps)))
    before = arrays(model.trainable_variables)
    after = step_of_sgd(model, X)
    plain = network(keras.optimizers.SGD(0.01), compiled=False)
    gradients = [(b - a) / 0.01 for b, a in zip(before, step_of_sgd(plain, X), strict=True)]
    expected = transformed(gradients, steps, model.trainable_variables)
    for b, a, g in zip(before, after, expected, strict=True):
        np.testing.assert_allclose(b - a, 0.01 * g, 1e-4, 1e-6)
    assert distance(after, step_of_sgd(model, X * np.float32(np.nan))) == 0
    assert model.optimizer.skipped_steps == 1


def named(step):
    return getattr(step, "name", "function")


def step_of_sgd(model, inputs):
    model.train_on_batch(inputs, Y)
    return arrays(model.trainable_variables)


def transformed(gradients, steps, variables):
    for step in steps:
        norm = np.sqrt(sum((g * g).sum() for g in gradients))
        gradients = [
            double(g, v) if step is double else one(step, g, norm)
            for g, v in zip(gradients, variables, strict=True)
        ]
    return gradients


def one(step, g, norm):
    if step.name == "clip_by_norm":
        norm = np.sqrt((g * g).sum())
    return {
        "centralize": lambda: g - g.mean(0, keepdims=True) if g.ndim > 1 else g,
        "clip_by_norm": lambda: g * min(1, step.operand / norm),
        "clip_by_global_norm": lambda: g * min(1, step.operand / norm),
        "scale": lambda: g * step.operand,
        "zero": lambda: 0 * g,
        "sanitize": lambda: g,
    }[step.name]()


def test_a_global_norm_spans_all_variables_though_a_function_follows_at_some():
    given = [("head", transforms.centralize())]
    model = network(optimizers.SGD(0.01, global_clipnorm=0.1, gradient_transforms=given))
    plain = network(keras.optimizers.SGD(0.01, global_clipnorm=0.1), compiled=False)
    before = arrays(model.trainable_variables)
    ours, theirs = step_of_sgd(model, X), step_of_sgd(plain, X)
    moved = [after - b for after, b in zip(theirs, before, strict=True)]
    moved[2] -= moved[2].mean()
    assert distance([after - b for after, b in zip(ours, before, strict=True)], moved) < 1e-7


def test_a_frozen_variable_counts_nowhere_though_a_function_comes_first():
    given = transforms.chain(double, transforms.sanitize(), transforms.clip_by_global_norm(0.1))
    later = transforms.chain(transforms.clip_by_global_norm(0.1), double)
    for steps in (given, later):
        settings = {"learning_rate_multipliers": [0, 1], "gradient_transforms": steps}
        variables = [keras.Variable([1.0, 2.0], name="frozen"), keras.Variable([1.0], name="free")]
        optimizer = optimizers.SGD(1.0, **settings)
        optimizer.build(variables)
        gradients = [np.array([np.nan, 1e9], "float32"), np.array([3.0], "float32")]
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients], variables)
        np.testing.assert_array_equal(arrays(variables)[0], [1, 2])
        np.testing.assert_allclose(arrays(variables)[1], [0.9], 1e-6)


def test_noise_is_drawn_anew_each_step_and_saved(tmp_path):
    given = [("body", transforms.add_noise(0.1))]
    model = network(optimizers.SGD(1.0, gradient_transforms=given))
    zero = np.zeros_like(X), np.zeros_like(Y)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    states = [arrays(model.trainable_variables)]
    for _ in range(2):
        model.train_on_batch(*zero)
        states.append(arrays(model.trainable_variables))
    moved = [after[0] - before[0] for before, after in pairwise(states)]
    assert (moved[0] != moved[1]).all()
    assert 0.05 < np.std(moved) < 0.2
    assert distance(states[0][2:], states[2][2:]) == 0
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, again):
        each.train_on_batch(*zero)
    assert distance(arrays(model.trainable_variables), arrays(again.trainable_variables)) == 0


@pytest.mark.parametrize("name", ["Adam", "Nadam", "Adafactor", "SGD"])
def test_accumulated_gradients_are_those_of_the_big_batch(name):
    def trained(batch_size, **options):
        given = transforms.chain(transforms.centralize(), transforms.sanitize())
        options |= {"clipnorm": 0.5, "weight_decay": 0.1, "gradient_transforms": given}
        return train(network(getattr(optimizers, name)(0.01, **options)), batch_size=batch_size)

    big, small = trained(32), trained(8, gradient_accumulation_steps=4)
    assert distance(big, small) < 1e-5
    assert distance(big, arrays(network().trainable_variables)) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_continues_with_the_same_bits(name, tmp_path):
    path = tmp_path / "model.keras"
    optimizer = getattr(optimizers, name)(
        keras.optimizers.schedules.CosineDecay(0.01, 20),
        learning_rate_multipliers=[("body/kernel", 0.3)],
        gradient_transforms=[("head", transforms.chain(transforms.clip_by_global_norm(0.1)))],
        weight_decay_overrides=[("bias", 0.0), ("kernel", 0.05)],
        **MOMENTUM.get(name, {}),
    )
    model = network(optimizer, compiled=False)
    first = train(model)
    model.save(path)
    again = keras.models.load_model(path)
    assert type(again.optimizer) is type(optimizer)
    assert again.optimizer.learning_rate_multipliers == [0.3, 1, 1, 1]
    saved, continued = train(model), train(again)
    assert distance(saved, continued) == 0
    assert distance(first, continued) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_states_load_from_keras_and_into_keras(name):
    settings = MOMENTUM.get(name, {})
    theirs = network(getattr(keras.optimizers, name)(0.01, **settings), compiled=False)
    ours = network(getattr(optimizers, name)(0.01, **settings), compiled=False)
    train(theirs), train(ours, 1)
    for source, target in ((theirs, ours), (ours, theirs)):
        store = {}
        source.optimizer.save_own_variables(store)
        target.optimizer.load_own_variables(store)
        target.set_weights(source.get_weights())
        saved = source.optimizer.variables[: len(store)]
        loaded = target.optimizer.variables[: len(store)]
        assert all(map(np.array_equal, arrays(saved), arrays(loaded)))
        assert distance(train(source), train(target)) < 1e-5


@pytest.mark.parametrize("bias_correction", [False, True])
def test_the_average_moves_once_an_update(bias_correction):
    variable = keras.Variable([0.0])
    settings = {"use_ema": True, "ema_momentum": 0.5, "ema_bias_correction": bias_correction}
    optimizer = optimizers.SGD(1.0, gradient_accumulation_steps=2, **settings)
    optimizer.build([variable])
    averages = []
    for _ in range(6):
        optimizer.apply([ops.convert_to_tensor([-1.0])], [variable])
        averages.append(float(arrays(optimizer._model_variables_moving_average)[0][0]))
    # The variable is 0 1 1 2 2 3 after the six calls, and 1 2 3 after the updates.
    if bias_correction:
        expected = [1, (0.25 + 1) / 0.75, (0.125 + 0.5 + 1.5) / 0.875]
    else:
        expected = [1, 1.5, 2.25]
    np.testing.assert_allclose(averages[1::2], expected, 1e-6)
    np.testing.assert_array_equal(averages[2::2], averages[1:-1:2])


@pytest.mark.parametrize("name", ["Adam", "Nadam", "Lamb", "Adafactor"])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_who_begins_later_begins_like_a_fresh_optimizer(name, is_frozen):
    first, later, alone = (keras.Variable(np.ones((2, 3)), name=n) for n in ("a", "b", "c"))
    optimizer, fresh = (getattr(optimizers, name)(0.01) for _ in range(2))
    optimizer.build([first, later]), fresh.build([alone])
    gradients = [ops.convert_to_tensor(X[2 * i : 2 * i + 2, :3]) for i in range(20)]
    set_learning_rate_multiplier(later, 0.0 if is_frozen else None)
    for gradient in gradients:
        if is_frozen:
            optimizer.apply([gradient] * 2, [first, later])
        else:
            optimizer.apply([gradient], [first])
    set_learning_rate_multiplier(later, None)
    for gradient in gradients[:3]:
        optimizer.apply([gradient] * 2, [first, later])
        fresh.apply([gradient], [alone])
    assert distance(arrays([later]), arrays([alone])) < 2e-6
    assert distance(arrays([later]), [np.ones((2, 3))]) > 1e-3


@pytest.mark.parametrize("frequency", [None, 2])
def test_averages_under_accumulation_are_those_of_the_big_batch(frequency):
    settings = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": frequency}
    big = train(network(optimizers.SGD(0.05, **settings)), batch_size=32)
    small = network(optimizers.SGD(0.05, gradient_accumulation_steps=4, **settings))
    assert distance(train(small, batch_size=8), big) < 1e-5
    averages = arrays(small.optimizer._model_variables_moving_average)
    assert distance(arrays(small.trainable_variables), averages) == 0


@pytest.mark.parametrize("settings", [
    {"lookahead_period": 2, "slow_step_size": 0.25},
    {"lookahead_period": 2, "gradient_accumulation_steps": 2},
    {"layer_adaptation": True},
    {"lazy": ["kernel"]},
    {"gradient_transforms": transforms.sanitize()},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["AdamW", "Nadam"])
def test_a_compiled_step_does_what_an_eager_one_does(name, settings):
    compiled, eager = (
        train(network(getattr(optimizers, name)(0.01, **settings), compiled=is_compiled))
        for is_compiled in (True, False)
    )
    assert distance(compiled, eager) < 1e-5
    plain = train(network(getattr(optimizers, name)(0.01), compiled=False))
    changes_nothing = "lazy" in settings or "gradient_transforms" in settings
    assert (distance(compiled, plain) < 1e-5) == changes_nothing  # every row has a gradient


def test_lookahead_is_that_of_the_paper():
    optimizer = optimizers.SGD(1.0, lookahead_period=2, slow_step_size=0.25)
    variable, seen = keras.Variable(np.zeros(1, "float32")), []
    optimizer.build([variable])
    for _ in range(4):
        optimizer.apply([ops.convert_to_tensor([-1.0])], [variable])
        seen += arrays([variable])[0].tolist()
    assert seen == [1.0, 0.5, 1.5, 1.0]


def test_rows_without_a_gradient_stay():
    variable = keras.Variable(np.ones((3, 2), "float32"), name="embeddings")
    optimizer = optimizers.AdamW(0.1, lazy=True)
    optimizer.build([variable])
    for gradient in ([[1, 1], [2, 2], [0, 0]], [[1, 1], [0, 0], [0, 0]]):
        optimizer.apply([ops.convert_to_tensor(np.array(gradient, "float32"))], [variable])
    rows = arrays([variable])[0][:, 0]
    np.testing.assert_allclose(rows, [0.8, 0.9, 1.0], atol=2e-3)
    assert rows[2] == 1 and slots(optimizer, 0)[0][1, 0] == np.float32(0.2)


@pytest.mark.parametrize("settings", [{"master_weights": True}, {"stochastic_rounding": True}])
def test_small_steps_of_bfloat16_add_up(settings):
    def moved(**more):
        variable = keras.Variable(np.ones(20000, "float32"), dtype="bfloat16")
        optimizer = optimizers.SGD(1e-3, **more)
        optimizer.build([variable])
        for _ in range(20):
            optimizer.apply([ops.ones(20000, "bfloat16")], [variable])
        return 1 - float(ops.convert_to_numpy(ops.mean(ops.cast(variable.value, "float32"))))

    assert moved() == 0
    assert abs(moved(**settings) - 0.02) < (2.0**-8 if "master_weights" in settings else 4e-4)


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_bfloat16_is_saved_and_copied(shape):
    """NumPy makes no array of one without axes on TensorFlow, and of none at all on torch."""
    settings = {"gradient_accumulation_steps": 2, "use_ema": True}
    variable = keras.Variable(np.full(shape, 2.0), dtype="bfloat16")
    ours, loaded = (optimizers.Nadam(0.5, **settings) for _ in range(2))
    for optimizer in (ours, loaded):
        optimizer.build([variable])
    ours.apply([ops.full(shape, 3.0, "bfloat16")])
    store = {}
    ours.save_own_variables(store)
    loaded.load_own_variables(store)
    for mine, theirs in zip(ours.variables, loaded.variables, strict=True):
        assert ops.all(ops.convert_to_tensor(mine) == ops.convert_to_tensor(theirs))
    np.testing.assert_array_equal(model_state.copied([variable])[0], np.full(shape, 2.0))
