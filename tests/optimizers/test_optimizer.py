"""The optimizers inside Keras: training, callbacks, saving, sparse gradients, mixed precision."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastkeras import optimizers
from fastkeras.optimizers import set_learning_rate_multiplier, transforms
from fastkeras.optimizers.fused.classes import newer, stock
from fastkeras.optimizers.fused.engine import why_keras

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]]).astype("float32")
NAMES = [ours.__name__ for ours in stock.OPTIMIZERS]
ALL_NAMES = NAMES + [ours.__name__ for ours in newer.NEWER] + ["Muon", "AdamMini", "SOAP", "APOLLO"]


def network(**options):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(8, "tanh", name="body"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(loss="mse", **options)
    return model


def train(model, epochs=2, **options):
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)
    return [np.array(v) for v in model.trainable_variables]


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


SETTINGS = (
    {},
    {"clipnorm": 0.1},
    {"weight_decay": 0.1},
    {"global_clipnorm": 0.1, "use_ema": True},
)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_training_is_that_of_keras(name, settings):
    theirs = train(network(optimizer=getattr(keras.optimizers, name)(0.01, **settings)))
    ours = train(network(optimizer=getattr(optimizers, name)(0.01, **settings)))
    assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    "name, argument",
    [(name, beta) for name in ("Adam", "AdamW", "Nadam", "Lamb") for beta in ("beta_1", "beta_2")]
    + [("Lion", "beta_2"), ("RMSprop", "rho"), ("Adafactor", "beta_2_decay"), ("SGD", "momentum")],
)
def test_moments_that_keep_nothing_are_those_of_keras(name, argument):
    def train(optimizers):
        variable = keras.Variable(np.ones((3, 2), "float32"))
        optimizer = getattr(optimizers, name)(0.01, **{argument: 0.0})
        optimizer.build([variable])
        for scale in (1, -2, 3):
            optimizer.apply([scale * np.arange(1, 7, dtype="float32").reshape(3, 2)], [variable])
        return variable.numpy()

    np.testing.assert_allclose(train(optimizers), train(keras.optimizers), atol=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "ScheduleFreeAdamW"])
def test_states_load_from_keras_and_into_keras(name):
    settings = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    theirs = network(optimizer=getattr(keras.optimizers, name)(0.01, **settings))
    ours = network(optimizer=getattr(optimizers, name)(0.01, **settings))
    train(theirs), train(ours)
    for source, target in ((theirs, ours), (ours, theirs)):
        store = {}
        source.optimizer.save_own_variables(store)
        target.optimizer.load_own_variables(store)
        for a, b in zip(source.optimizer.variables, target.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, b)
        train(source)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_saved_model_continues_with_the_same_bits(name, tmp_path):
    path = tmp_path / "model.keras"
    optimizer = getattr(optimizers, name)(
        keras.optimizers.schedules.CosineDecay(0.01, 20),
        learning_rate_multipliers=[("body/kernel", 0.3)],
        gradient_transforms=[("head", transforms.chain(transforms.clip_by_global_norm(0.1)))],
        weight_decay_overrides=[("bias", 0.0), ("kernel", 0.05)],
    )
    model = network(optimizer=optimizer)
    train(model)
    model.save(path)
    again = keras.models.load_model(path)
    assert type(again.optimizer) is type(optimizer)
    assert again.optimizer.learning_rate_multipliers == [0.3, 1, 1, 1]
    assert distance(train(model), train(again)) == 0


def test_variables_without_elements_are_averaged_and_looked_ahead():
    """`ops.add` of Keras would take them for a bias on TensorFlow, and fail."""
    empty, other = keras.Variable(np.zeros((0, 3))), keras.Variable(np.ones((2, 3)))
    optimizer = optimizers.SGD(0.5, use_ema=True, lookahead_period=1)
    optimizer.apply([tf.zeros((0, 3)), tf.ones((2, 3))], [empty, other])
    np.testing.assert_array_equal(other, np.full((2, 3), 0.75))


def test_a_schedule_and_a_callback_keep_the_ratios():
    halve = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    model = network(optimizer=optimizers.SGD(9.0, learning_rate_multipliers=[("head", 0.1)]))
    plain = network(optimizer=keras.optimizers.SGD(9.0))
    for epochs in (1, 2):
        before = [np.array(v) for v in model.trainable_variables]
        plain.set_weights(before)
        after, theirs = train_step(model, halve, epochs), train_step(plain, halve, epochs)
        for i, factor in enumerate((1, 1, 0.1, 0.1)):
            np.testing.assert_allclose(
                after[i] - before[i], factor * (theirs[i] - before[i]), 1e-4, 1e-6
            )


def train_step(model, callback, epochs):
    options = {"batch_size": 64, "callbacks": [callback], "verbose": 0}
    model.fit(X, Y, epochs=epochs, initial_epoch=epochs - 1, **options)
    return [np.array(v) for v in model.trainable_variables]


def test_a_multiplier_changes_between_epochs_and_goes_back():
    model = network(optimizer=optimizers.Adam(0.01))
    body, head = model.layers
    train(model, 1)
    for multiplier in (0.0, 0.5, None):
        set_learning_rate_multiplier(body, multiplier)
        expected = 1.0 if multiplier is None else multiplier
        assert model.optimizer.learning_rate_multipliers == [expected] * 2 + [1.0] * 2
        state = [np.array(v) for v in (*body.variables, *model.optimizer._momentums[:2])]
        moved = train(model, 1)
        now = [np.array(v) for v in (*body.variables, *model.optimizer._momentums[:2])]
        assert (distance(state, now) == 0) == (multiplier == 0), multiplier
        assert distance(moved[2:], [np.array(v) for v in head.variables]) == 0


def test_multipliers_reach_layers_variables_functions_and_lists():
    model = network()
    body, head = model.layers
    for given, expected in (
        ([(body, 0.1), ("bias", 0.2)], [0.1, 0.1, 1, 0.2]),
        ({"bias": 0.2, "body": 0.1}, [0.1, 0.2, 1, 0.2]),
        ([([body.kernel, head.kernel], 3)], [3, 1, 3, 1]),
        (lambda variable: 0.5 if variable.name == "bias" else 2, [2, 0.5, 2, 0.5]),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        (optimizers.layerwise_decay(model, 0.9), [0.9, 0.9, 1, 1]),
    ):
        optimizer = optimizers.SGD(learning_rate_multipliers=given)
        optimizer.build(model.trainable_variables)
        assert optimizer.learning_rate_multipliers == expected


def test_rates_fall_by_layer_where_only_adapters_of_frozen_layers_train():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    block = keras.Sequential([keras.Input((3,)), inner], name="block")
    model = keras.Sequential([keras.Input((3,)), block, keras.layers.Dense(1)])
    block.trainable = False  # as `enable_lora` of keras-hub does: outer layers, then parts of them
    inner.layers[0].trainable = True
    inner.layers[0].enable_lora(1)
    assert not block.trainable_variables
    rates = optimizers.layerwise_decay(model, 0.5)
    optimizer = optimizers.AdamW(learning_rate_multipliers=rates)
    optimizer.build(model.trainable_variables)
    assert sorted(optimizer.learning_rate_multipliers) == [0.5, 0.5, 0.5, 1, 1]


def test_a_target_that_matches_nothing_is_an_error_with_the_nearest_paths():
    model = network(optimizer=optimizers.SGD(learning_rate_multipliers=[("bodi/kernel", 0.1)]))
    with pytest.raises(ValueError, match=r"'bodi/kernel' matches no variable.*body/kernel"):
        train(model)


@pytest.mark.parametrize("bad, message", [
    ({"learning_rate_multipliers": [("body", -1)]}, "at least 0, got -1"),
    ({"learning_rate_multipliers": [("(", 1)]}, "no regular expression"),
    ({"learning_rate_multipliers": [1.0]}, "1 numbers for 4 variables"),
    ({"gradient_transforms": [("body", 3)]}, "transforms must be those of"),
    ({"weight_decay_overrides": [("nothing", 0.1)]}, "weight_decay_overrides: 'nothing' matches"),
    # what Keras takes whatever it is: a NaN, or a number below 0, would not clip at all
    ({"clipnorm": float("nan")}, "clipnorm must be None or a number of at least 0, got nan"),
    ({"global_clipnorm": -1.0}, "global_clipnorm must be None or a number of at least 0, got -1.0"),
    ({"clipvalue": "1"}, "clipvalue must be None or a number of at least 0, got '1'"),
    ({"weight_decay": float("nan")}, "weight_decay must be None or a finite number, got nan"),
    ({"weight_decay": "0.1"}, "weight_decay must be None or a finite number, got '0.1'"),
    ({"loss_scale_factor": 0.0}, "loss_scale_factor must be None or a finite number above 0"),
    ({"use_ema": "no"}, "use_ema must be True or False, got 'no'"),
    ({"use_ema": True, "ema_momentum": float("nan")}, "ema_momentum must be a number from 0 to 1"),
    ({"gradient_accumulation_steps": 2.5}, "gradient_accumulation_steps must be an integer of at"),
])  # fmt: skip
def test_bad_settings_are_named(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        optimizers.AdamW(**bad).build(network().trainable_variables)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
@pytest.mark.parametrize("name", ALL_NAMES)
def test_variables_that_are_no_floats_are_named(name, dtype):
    variables = [keras.Variable([1.0]), keras.Variable([1], dtype=dtype, name="count")]
    message = rf"variables: .*count is {dtype}, and what is trained must be float16, .*: make"
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)().build(variables)


def test_numbers_may_be_arrays_of_one_and_flags_what_keras_takes():
    given = {"weight_decay": np.array(0.5), "clipnorm": np.float32(2), "ema_momentum": np.array(1)}
    given |= {"loss_scale_factor": keras.ops.convert_to_tensor(4.0), "use_ema": 1}
    optimizer = optimizers.AdamW(**given)
    expected = {"weight_decay": 0.5, "clipnorm": 2.0, "ema_momentum": 1.0}
    expected |= {"loss_scale_factor": 4.0, "use_ema": True}
    assert {name: optimizer.get_config()[name] for name in expected} == expected
    assert optimizers.SGD(use_ema=None).use_ema is False
    assert optimizers.Muon(rms_rate=np.array(0.25)).rms_rate == 0.25


def test_accumulated_gradients_are_those_of_the_big_batch():
    def sgd(**settings):
        return optimizers.Adam(
            0.01, clipnorm=0.5, gradient_transforms=transforms.scale(2), **settings
        )

    big = network(optimizer=sgd())
    big.fit(X, Y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    small = network(optimizer=sgd(gradient_accumulation_steps=4))
    small.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert distance([np.array(v) for v in big.weights], [np.array(v) for v in small.weights]) < 1e-6


@pytest.mark.parametrize("bias_correction", [False, True])
def test_the_average_moves_once_an_update(bias_correction):
    variable = keras.Variable([0.0])
    settings = {"use_ema": True, "ema_momentum": 0.5, "ema_bias_correction": bias_correction}
    optimizer = optimizers.SGD(1.0, gradient_accumulation_steps=2, **settings)
    optimizer.build([variable])
    averages = []
    for _ in range(6):
        optimizer.apply([np.array([-1.0], "float32")], [variable])
        averages.append(float(optimizer._model_variables_moving_average[0][0]))
    # The variable is 0 1 1 2 2 3 after the six calls, and 1 2 3 after the updates.
    if bias_correction:
        expected = [1, (0.25 + 1) / 0.75, (0.125 + 0.5 + 1.5) / 0.875]
    else:
        expected = [1, 1.5, 2.25]
    np.testing.assert_allclose(averages[1::2], expected, 1e-6)
    np.testing.assert_array_equal(averages[2::2], averages[1:-1:2])


@pytest.mark.parametrize("name", ALL_NAMES)
def test_narrow_variables_move_as_wide_ones_of_the_same_values(name):
    settings = {"rank": 2} if name == "APOLLO" else {}
    moved = []
    for dtype in ("float32", "bfloat16", "float16"):
        variables = [
            keras.Variable(np.ones(shape, "float32"), dtype=dtype, name=f"v{len(shape)}")
            for shape in ((), (3,), (4, 6), (2, 3, 4))
        ]
        optimizer = getattr(optimizers, name)(0.25, **settings)
        for scale in (0.5, -0.25, 1.0):
            gradients = [np.full(v.shape, scale, "float32") for v in variables]
            optimizer.apply([tf.cast(g, dtype) for g in gradients], variables)
        moved.append([np.array(tf.cast(v.value, "float32")) for v in variables])
        assert all(np.isfinite(value).all() for value in moved[-1])
    for narrow, digits in zip(moved[1:], (7, 10), strict=True):
        assert distance(narrow, moved[0]) <= 4 * 2.0**-digits


@pytest.mark.parametrize("name", NAMES)
def test_repeated_ids_of_a_sparse_gradient_are_summed_first(name):
    results = []
    for sparse in (True, False):
        variable = keras.Variable(np.arange(12.0).reshape(4, 3) + 1)
        gradient = tf.IndexedSlices(tf.ones((3, 3)), tf.constant([2, 0, 2]), tf.constant([4, 3]))
        gradient = gradient if sparse else tf.convert_to_tensor(gradient)
        optimizer = getattr(optimizers, name)(0.1)
        optimizer.build([variable])
        for _ in range(3):
            optimizer.apply([gradient], [variable])
        results.append([np.array(variable)])
    assert distance(*results) == 0


def test_a_missing_gradient_leaves_its_variable_alone():
    variables = [keras.Variable([1.0, 2.0], name=name) for name in "abc"]
    optimizer = optimizers.Adam(0.1, learning_rate_multipliers=[0.1, 1, 10])
    optimizer.build(variables)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([tf.ones(2), None, tf.ones(2)], variables)
    moved = [float(1 - v[0]) for v in variables]
    np.testing.assert_allclose(moved, [0.01, 0, 1], 1e-4, 1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_variables_move_as_far_as_their_type_can_show(dtype):
    variable = keras.Variable(np.ones(5), dtype=dtype)
    optimizer = optimizers.AdamW(0.02, weight_decay=0.0)
    optimizer.build([variable])
    for _ in range(20):
        optimizer.apply([tf.ones(5, dtype)], [variable])
    assert all(slot.dtype == "float32" for slot in optimizer._momentums)
    np.testing.assert_allclose(tf.cast(variable.value, "float32"), 0.6, atol=0.05)


def test_mixed_float16_with_its_loss_scale():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(optimizer=optimizers.Adam(0.01))
        first = model.evaluate(X, Y, verbose=0)
        train(model, 5)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert model.evaluate(X, Y, verbose=0) < 0.9 * first
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", NAMES)
def test_xla_trains_the_same(name):
    settings = {
        "learning_rate_multipliers": [("body", 0.1)],
        "gradient_transforms": transforms.chain(
            transforms.clip_by_norm(0.1), transforms.sanitize()
        ),
    }
    ours = getattr(optimizers, name)
    plain = train(network(optimizer=ours(0.01, **settings)))
    compiled = train(network(optimizer=ours(0.01, **settings), jit_compile=True))
    assert distance(plain, compiled) < 1e-5


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    model = network(optimizer=optimizers.Adam(gradient_transforms=transforms.sanitize()))
    before = train(model, 1)
    model.train_on_batch(X * np.float32(np.nan), Y)
    assert distance(before, [np.array(v) for v in model.trainable_variables]) == 0
    assert model.optimizer.skipped_steps == 1


def test_python_functions_get_the_variable_and_run_before_the_kernel():
    seen = []

    def double(gradient, variable):
        seen.append(variable.path.rpartition("/")[2])
        return 2 * gradient

    given = [("kernel", transforms.chain(transforms.scale(3), double, transforms.scale(0.5)))]
    model = network(optimizer=optimizers.SGD(0.01, gradient_transforms=given))
    plain = network(optimizer=optimizers.SGD(0.01, learning_rate_multipliers=[("kernel", 3)]))
    assert distance(train(model), train(plain)) < 1e-6
    assert seen[:2] == ["kernel", "kernel"]


def test_noise_is_drawn_anew_each_step_and_saved(tmp_path):
    keras.utils.set_random_seed(5)
    given = [("body", transforms.add_noise(0.1))]
    model = network(optimizer=optimizers.SGD(1.0, gradient_transforms=given))
    zero = np.zeros_like(X), np.zeros_like(Y)
    for layer in model.layers:
        layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    steps = []
    for _ in range(2):
        before = np.array(model.layers[0].kernel)
        model.train_on_batch(*zero)
        steps.append(np.array(model.layers[0].kernel) - before)
    assert (steps[0] != steps[1]).all()
    assert 0.05 < np.std(steps) < 0.2
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, again):
        each.train_on_batch(*zero)
    np.testing.assert_array_equal(model.layers[0].kernel, again.layers[0].kernel)


def test_no_buffer_is_copied():
    model = network(optimizer=optimizers.AdamW(0.01))
    train(model)
    variables = [*model.trainable_variables, *model.optimizer._momentums]
    before = [address(v) for v in variables]
    train(model)
    assert [address(v) for v in variables] == before


def address(variable):
    return np.asarray(memoryview(variable.value.read_value())).__array_interface__["data"][0]


def test_who_holds_an_older_value_keeps_it():
    variable = keras.Variable([1.0, 2.0])
    optimizer = optimizers.SGD(1.0)
    optimizer.build([variable])
    held = variable.value.read_value()
    optimizer.apply([tf.ones(2)], [variable])
    np.testing.assert_array_equal(held, [1, 2])
    np.testing.assert_array_equal(variable, [0, 1])


def test_two_optimizers_share_a_variable():
    variable = keras.Variable([1.0])
    first, second = optimizers.SGD(1.0), optimizers.SGD(0.5, learning_rate_multipliers=[2.0])
    for optimizer in (first, second):
        optimizer.build([variable])
        optimizer.apply([tf.ones(1)], [variable])
    np.testing.assert_array_equal(variable, [-1.0])


def test_the_report_tells_what_happens_to_each_variable():
    optimizer = optimizers.AdamW(
        weight_decay=0.01,
        moment_bits=8,
        learning_rate_multipliers=[("body", 0.1), ("head/bias", 0)],
        gradient_transforms=[("kernel", transforms.clip_by_norm(0.5))],
        weight_decay_overrides=[("bias", 0.0)],
    )
    with pytest.raises(ValueError, match="not built"):
        optimizer.report()
    model = keras.Sequential(
        [
            keras.Input((100,)),
            keras.layers.Dense(64, name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    optimizer.build(model.trainable_variables)
    texts = []
    total = optimizer.report(model, print_fn=texts.append)
    lines = {line.split()[1]: line for line in texts[0].splitlines() if "/" in line}
    kernel, bias = (
        next(v for k, v in lines.items() if k.endswith(e)) for e in ("y/kernel", "d/bias")
    )
    assert all(
        word in kernel for word in ("100 × 64", "0.1", "clip_by_norm(0.5)", "0.01", "12.7 KiB")
    )
    assert "frozen" in bias and "clip" not in bias
    assert total == 2 * (6400 + 25 * 4) + 2 * 4 * (64 + 64 + 1)
    assert re.search("the engine is (tensorflow_native|keras)$", texts[0].strip())
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.report(network())


def test_a_schedule_of_straight_lines_trains_and_is_saved(tmp_path):
    points = {0: 0.0, 2: 0.2, 6: 0.0}
    model = network(optimizer=optimizers.SGD(optimizers.PiecewiseLinear(points)))
    before = [np.array(v) for v in model.trainable_variables]
    model.train_on_batch(X, Y)  # at rate 0
    assert distance(before, [np.array(v) for v in model.trainable_variables]) == 0
    model.train_on_batch(X, Y)
    assert distance(before, [np.array(v) for v in model.trainable_variables]) > 0
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    rates = [float(again.optimizer._learning_rate(step)) for step in (0, 1, 2, 4, 6, 9)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.1, 0, 0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("points", [[], [(3, 0.1), (3, 0.2)], [(3, 0.1), (1, 0.2)]])
def test_points_of_a_schedule_must_ascend(points):
    with pytest.raises(ValueError, match="points must be at least one, in ascending order"):
        optimizers.PiecewiseLinear(points)


@pytest.mark.parametrize("points, message", [
    ([(0.5, 0.1)], "points: a step must be an integer of at least 0, got 0.5"),
    ([(-1, 0.1)], "points: a step must be an integer of at least 0, got -1"),
    ({0: float("nan")}, "points: a learning rate must be a finite number, got nan"),
    ({0: "0.1"}, "points: a learning rate must be a finite number, got '0.1'"),
])  # fmt: skip
def test_points_of_a_schedule_are_whole_steps_and_finite_rates(points, message):
    with pytest.raises(ValueError, match=message):
        optimizers.PiecewiseLinear(points)


@pytest.mark.parametrize(("rule", "device", "reason"), [
    ("adam", "/device:CPU:0", None),
    ("adam", "/device:GPU:0", "a variable is on /device:GPU:0"),
    ("adafactor", "/device:CPU:0", "the kernels have no adafactor"),
    ("adam", "", None),
])  # fmt: skip
def test_variables_on_a_gpu_and_adafactor_go_to_keras(rule, device, reason):
    variable = SimpleNamespace(device=device, handle=None)
    assert why_keras(rule, [variable], [variable], by_rows=True) == reason
