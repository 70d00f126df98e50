"""`tfa.layers.CRF` and `tfa.text.CRFModelWrapper` of `fastkeras.compat.addons`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import fastkeras.compat.addons as tfa
from fastkeras import crf as functions
from fastkeras.layers import CRF as Native

# NumPy 2 complains about how Keras copies variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS, CHANNELS, UNITS, WORDS = 4, 5, 6, 3, 9
LENGTHS = np.array([5, 3, 1, 4])
MASK = np.arange(STEPS) < LENGTHS[:, None]


@pytest.fixture
def inputs(rng):
    return rng.normal(size=(BATCH, STEPS, CHANNELS)).astype("float32")


def filled(layer, rng):
    """Give the layer random weights, boundaries included."""
    layer.build((None, None, CHANNELS))
    layer.set_weights([rng.normal(size=w.shape).astype(w.dtype) for w in layer.weights])
    return layer


def likelihood(layer, inputs, tags, mask=None):
    _, potentials, lengths, transitions = layer(inputs, mask=mask)
    return tfa.text.crf_log_likelihood(potentials, tags, lengths, transitions)[0]


@pytest.mark.parametrize("use_boundary", (False, True))
@pytest.mark.parametrize("use_kernel", (False, True))
def test_weights_have_the_order_names_and_shapes_of_addons(use_boundary, use_kernel):
    layer = tfa.layers.CRF(UNITS, use_boundary=use_boundary, use_kernel=use_kernel)
    boundaries = [("left_boundary", (UNITS,)), ("right_boundary", (UNITS,))] if use_boundary else []
    scores = [("chain_kernel", (UNITS, UNITS)), *boundaries]
    assert [(w.name, w.shape) for w in layer.weights] == scores  # before it is called
    layer(np.zeros((1, 2, CHANNELS if use_kernel else UNITS)))
    kernel = [("kernel", (CHANNELS, UNITS)), ("bias", (UNITS,))] if use_kernel else []
    assert [(w.name, w.shape) for w in layer.weights] == [*scores, *kernel]
    transitions = layer.chain_kernel.numpy()
    np.testing.assert_allclose(transitions @ transitions.T, np.eye(UNITS), atol=1e-5)  # orthogonal


@pytest.mark.parametrize("masked", (False, True))
def test_results_are_those_of_the_formula(masked, inputs, rng):
    layer = filled(tfa.layers.CRF(UNITS), rng)
    mask = MASK if masked else None
    transitions, start, end, kernel, bias = layer.get_weights()
    result = layer(inputs, mask=mask)
    assert isinstance(result, list)
    tags, potentials, lengths, chain_kernel = result
    assert [t.dtype for t in result] == [tf.int32, tf.float32, tf.int64, tf.float32]
    emissions = inputs @ kernel + bias
    valid = LENGTHS if masked else np.full(BATCH, STEPS)
    expected = emissions.copy()
    expected[:, 0] += start
    expected[np.arange(BATCH), valid - 1] += end
    np.testing.assert_allclose(potentials, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(lengths, valid)
    np.testing.assert_array_equal(chain_kernel, transitions)
    boundaries = {"start_transitions": start, "end_transitions": end}
    best, _ = functions.viterbi(emissions, transitions, valid, **boundaries)
    np.testing.assert_array_equal(tags, best)
    own = likelihood(layer, inputs, best, mask)
    exact = functions.log_likelihood(
        emissions.astype(float), best, transitions.astype(float), valid, **boundaries
    )
    np.testing.assert_allclose(own, exact, rtol=1e-5, atol=1e-5)
    again, score = layer.get_viterbi_decoding(potentials, lengths)
    np.testing.assert_array_equal(again, tags)
    np.testing.assert_allclose(
        score, functions.viterbi(emissions, transitions, valid, **boundaries)[1], rtol=1e-5
    )


def test_without_kernel_and_boundary_the_inputs_are_cast(rng):
    layer = tfa.layers.CRF(UNITS, use_boundary=False, use_kernel=False)
    inputs = rng.normal(size=(BATCH, STEPS, UNITS))
    _, potentials, _, _ = layer(inputs)
    np.testing.assert_array_equal(potentials, inputs.astype("float32"))


def test_boundaries_are_added_at_each_edge_of_the_mask():
    layer = tfa.layers.CRF(1)
    mask = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1]])
    zeros = np.zeros((2, 6, 1), "float32")
    added = layer.add_boundary_energy(zeros, mask, np.float32([1]), np.float32([10]))
    np.testing.assert_array_equal(added[..., 0], [[0, 1, 10, 0, 11, 0], [1, 0, 0, 0, 0, 10]])
    np.testing.assert_array_equal(layer.mask_to_sequence_length(mask), [3, 6])
    np.testing.assert_array_equal(layer._compute_mask_left_boundary(mask)[0], [0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(layer._compute_mask_right_boundary(mask)[0], [0, 0, 1, 0, 1, 0])
    unmasked = layer.add_boundary_energy(zeros, None, np.float32([1]), np.float32([10]))
    np.testing.assert_array_equal(unmasked[0, :, 0], [1, 0, 0, 0, 0, 10])


def test_left_padding_is_refused_eagerly_only(inputs):
    layer = tfa.layers.CRF(UNITS)
    mask = MASK[:, ::-1]
    with pytest.raises(NotImplementedError, match="does not support left padding"):
        layer(inputs, mask=mask)
    _, _, lengths, _ = tf.function(layer)(inputs, mask=tf.constant(mask))
    np.testing.assert_array_equal(lengths, LENGTHS)


def test_wrong_arguments_are_named(inputs):
    with pytest.raises(TypeError, match="units must be an int, got '3'"):
        tfa.layers.CRF("3")
    with pytest.raises(ValueError, match=r"mask must have shape \(batch, steps\), got \(4, 5, 1\)"):
        tfa.layers.CRF(UNITS)(inputs, mask=MASK[..., None])


def test_the_mask_and_the_shapes_go_through_a_functional_model(rng):
    words = keras.Input((None,), dtype="int32")
    layer = tfa.layers.CRF(UNITS)
    outputs = layer(keras.layers.Embedding(WORDS, CHANNELS, mask_zero=True)(words))
    assert [(t.shape, t.dtype) for t in outputs] == [
        ((None, None), "int32"),
        ((None, None, UNITS), "float32"),
        ((None,), "int64"),
        ((UNITS, UNITS), "float32"),
    ]
    assert layer.compute_output_shape((None, 7, CHANNELS)) == (None, 7)
    assert layer.compute_mask(None, MASK) is MASK
    model = keras.Model(words, outputs)
    given = np.where(MASK, rng.integers(1, WORDS, size=MASK.shape), 0)
    tags, _, lengths, _ = model.predict(given, verbose=0)
    np.testing.assert_array_equal(lengths, LENGTHS)
    np.testing.assert_array_equal(tags[~MASK], 0)


def test_half_precision_computes_in_the_dtype_of_the_weights(inputs):
    layer = tfa.layers.CRF(UNITS, dtype="mixed_float16")
    tags, potentials, _, transitions = layer(inputs.astype("float16"))
    assert (tags.dtype, potentials.dtype, transitions.dtype) == (tf.int32, tf.float32, tf.float32)
    assert layer(inputs, mask=MASK)[1].dtype == tf.float32
    words = keras.Input((STEPS, CHANNELS))
    assert layer(words)[1].dtype == "float32"


@pytest.mark.parametrize("file", ("model.keras", "model.weights.h5", "model.h5"))
def test_saved_models_predict_the_same(file, inputs, tmp_path, rng):
    def model_of(layer):
        x = keras.Input((None, CHANNELS))
        return keras.Model(x, layer(x))

    layer = filled(tfa.layers.CRF(UNITS, chain_initializer="zeros", name="tags"), rng)
    model, path = model_of(layer), tmp_path / file
    if file.endswith(".weights.h5"):
        model.save_weights(path)
        loaded = model_of(tfa.layers.CRF(UNITS, name="tags"))
        loaded.load_weights(path)
    else:
        model.save(path)
        loaded = keras.models.load_model(path)
    for result, expected in zip(
        loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0), strict=True
    ):
        np.testing.assert_array_equal(result, expected)
    config = layer.get_config()
    for key, value in {"units": UNITS, "use_boundary": True, "use_kernel": True}.items():
        assert config[key] == value
    again = tfa.layers.CRF.from_config(config)
    assert isinstance(again.chain_initializer, keras.initializers.Zeros)


def test_exported_models_decode_without_our_ops(inputs, tmp_path, rng):
    x = keras.Input((None, CHANNELS))
    model = keras.Model(x, filled(tfa.layers.CRF(UNITS), rng)(x)[0])
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.serve(inputs), model.predict(inputs, verbose=0))
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    ops = {
        node.op
        for nodes in (graph.node, *(f.node_def for f in graph.library.function))
        for node in nodes
    }
    assert not [op for op in ops if "astkeras" in op]


def wrapper(**options):
    words = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(WORDS, CHANNELS, mask_zero=True)(words)
    return tfa.text.CRFModelWrapper(keras.Model(words, embedded), UNITS, **options)


@pytest.fixture
def data(rng):
    words = np.where(MASK, rng.integers(1, WORDS, size=MASK.shape), 0)
    return words, words % UNITS


def test_the_wrapper_learns_and_reports(data):
    keras.utils.set_random_seed(1)
    words, tags = data
    model = wrapper()
    model.compile(keras.optimizers.Adam(0.1), metrics=[keras.metrics.Accuracy()])
    history = model.fit(words, tags, epochs=40, verbose=0).history
    assert set(history) == {"accuracy", "loss", "crf_loss"}
    assert history["loss"][-1] < 0.1 < history["loss"][0]
    np.testing.assert_array_equal(model.predict(words, verbose=0), np.where(MASK, tags, 0))
    evaluated = model.evaluate(words, tags, verbose=0, return_dict=True)
    assert evaluated["crf_loss"] < 0.1


def test_the_losses_are_those_of_the_last_batch_divided_by_its_size(data):
    words, tags = data
    model = wrapper()
    weights = np.array([0.5, 2, 0, 1], "float32")
    model.compile("adam")
    reported = model.test_on_batch(words, tags, sample_weight=weights, return_dict=True)
    layer = Native(UNITS, use_kernel=True)
    transitions, start, end, kernel, bias = model.crf_layer.get_weights()
    layer.build((None, None, CHANNELS))
    layer.set_weights([kernel, bias, transitions, start, end])
    emissions = layer(model.base_model(words))
    expected = -(weights * layer.log_likelihood(emissions, tags, MASK).numpy()).mean()
    np.testing.assert_allclose(float(reported["crf_loss"]), expected, rtol=1e-5)
    all_of_them = model.evaluate(
        words, tags, sample_weight=weights, batch_size=3, verbose=0, return_dict=True
    )
    last = model.test_on_batch(words[3:], tags[3:], sample_weight=weights[3:], return_dict=True)
    np.testing.assert_allclose(all_of_them["loss"], last["loss"], rtol=1e-5)


def test_regularisation_is_in_the_loss_but_not_in_the_crf_loss(data):
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(WORDS, CHANNELS, embeddings_regularizer="l2")(inputs)
    model = tfa.text.CRFModelWrapper(keras.Model(inputs, embedded), UNITS)
    model.compile("adam")
    reported = model.train_on_batch(*data, return_dict=True)
    assert reported["loss"] > reported["crf_loss"]


def test_what_subclasses_override_is_called(data):
    class Doubled(tfa.text.CRFModelWrapper):
        def unpack_training_data(self, data):
            x, y = data
            return x["words"], y, None

        def compute_crf_loss(self, potentials, sequence_length, kernel, y, sample_weight=None):
            assert sample_weight is None
            loss = super().compute_crf_loss(potentials, sequence_length, kernel, y)
            return 2 * loss

    words, tags = data
    model = wrapper()
    model.compile("adam")
    single = model.test_on_batch(words, tags, return_dict=True)["loss"]
    doubled = Doubled(model.base_model, UNITS)
    doubled(words)
    doubled.crf_layer.set_weights(model.crf_layer.get_weights())
    doubled.compile("adam")
    given = tf.data.Dataset.from_tensors(({"words": words}, tags))
    assert abs(doubled.evaluate(given, verbose=0, return_dict=True)["loss"] - 2 * single) < 1e-5


def test_the_wrapper_gives_its_inner_tensors_on_request(data):
    model = wrapper()
    (potentials, lengths, transitions), tags = model(data[0], return_crf_internal=True)
    assert (potentials.shape, transitions.shape) == ((BATCH, STEPS, UNITS), (UNITS, UNITS))
    np.testing.assert_array_equal(lengths, LENGTHS)
    np.testing.assert_array_equal(model(data[0]), tags)


def test_a_saved_wrapper_predicts_the_same(data, tmp_path):
    model = wrapper(name="tags")
    model.compile("adam", metrics=[keras.metrics.Accuracy()])
    model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.crf_layer.name == "tags"
    np.testing.assert_array_equal(
        loaded.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
    )
    for own, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(own, other)
    loaded.fit(*data, verbose=0)


def test_the_wrapper_under_mixed_precision(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = wrapper()
        model.compile("adam")
        model.fit(*data, verbose=0)
        (potentials, _, transitions), _ = model(data[0], return_crf_internal=True)
        assert (potentials.dtype, transitions.dtype) == (tf.float32, tf.float32)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("whole_model", (False, True))
def test_files_of_keras_2_are_loaded_as_they_are(whole_model, tmp_path, rng):
    names = (
        "chain_kernel",
        "left_boundary",
        "right_boundary",
        "crf/dense/kernel",
        "crf/dense/bias",
    )
    shapes = ((UNITS, UNITS), (UNITS,), (UNITS,), (CHANNELS, UNITS), (UNITS,))
    weights = [rng.normal(size=shape).astype("float32") for shape in shapes]
    config = {"name": "input_1", "batch_input_shape": [None, None, CHANNELS], "dtype": "float32"}
    layers = [{"class_name": "InputLayer", "config": config}]
    config = {"name": "crf", "units": UNITS, "use_boundary": True, "use_kernel": True}
    config |= {"chain_initializer": {"class_name": "Zeros", "config": {}}, "dtype": "float32"}
    layers.append({"class_name": "Addons>CRF", "config": config})
    config = {"name": "sequential", "layers": layers}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        if whole_model:
            model_config = {"class_name": "Sequential", "config": config}
            file.attrs["model_config"] = json.dumps(model_config)
        group = file.create_group("model_weights") if whole_model else file
        group.attrs["layer_names"] = [b"crf"]
        group.attrs["keras_version"], group.attrs["backend"] = "2.15.0", "tensorflow"
        crf = group.create_group("crf")
        crf.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
        for name, value in zip(names, weights, strict=True):
            crf[f"{name}:0"] = value
    if whole_model:
        model = keras.models.load_model(tmp_path / "old.h5")
    else:
        model = keras.Sequential([keras.Input((None, CHANNELS)), tfa.layers.CRF(UNITS, name="crf")])
        model.load_weights(tmp_path / "old.h5")
    for own, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_loop_of_ones_own_trains_the_transitions(inputs, rng):
    layer = tfa.layers.CRF(UNITS)
    tags = rng.integers(UNITS, size=(BATCH, STEPS))
    with tf.GradientTape() as tape:
        _, potentials, lengths, _ = layer(inputs, mask=MASK)
        value, _ = tfa.text.crf_log_likelihood(potentials, tags, lengths, layer.chain_kernel)
    gradients = tape.gradient(value, [weight.value for weight in layer.weights])
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    with tf.GradientTape() as tape:
        value, made = tfa.text.crf_log_likelihood(inputs, tags, LENGTHS)
    assert np.abs(tape.gradient(value, made)).max() > 0


def test_a_step_under_mixed_precision_is_as_long_as_in_float32(data):
    steps = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            keras.utils.set_random_seed(1)
            model = wrapper()
            model(data[0])
            before = model.get_weights()
            model.compile(keras.optimizers.SGD(0.5))  # scales the loss under mixed_float16
            model.train_on_batch(*data)
        finally:
            keras.config.set_dtype_policy("float32")
        steps.append([new - old for new, old in zip(model.get_weights(), before, strict=True)])
    for narrow, wide in zip(*reversed(steps), strict=True):
        np.testing.assert_allclose(narrow, wide, 0, 0.01 * np.abs(wide).max())
        assert wide.any()


def test_a_weight_of_zero_hides_an_impossible_sequence(data):
    model = wrapper()
    (potentials, lengths, transitions), _ = model(data[0], return_crf_internal=True)
    impossible = tf.where(tf.range(BATCH)[:, None, None] == 1, -np.inf, potentials)
    weights = np.array([1.0, 0, 2, 1])
    arguments = lengths, transitions, data[1], weights
    expected = model.compute_crf_loss(potentials, *arguments)
    np.testing.assert_array_equal(model.compute_crf_loss(impossible, *arguments), expected)


def test_two_devices_make_the_step_of_one(tmp_path):
    path = tmp_path / "weights.npz"
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_devices.py"), path],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    weights = np.load(path)
    assert len(weights) >= 10
    for name in weights:
        if name.startswith("one "):
            ours = weights["both" + name.removeprefix("one")]
            np.testing.assert_allclose(ours, weights[name], 1e-5, 1e-6, err_msg=name)
