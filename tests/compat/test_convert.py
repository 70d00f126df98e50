"""Checkpoints of other CRFs, written here by hand, give the same results after conversion."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from importlib.util import find_spec

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import fastkeras.compat.addons as tfa
from enumeration import enumerate_paths, probabilities
from fastkeras.cli import main
from fastkeras.compat.checkpoints import read_checkpoint
from fastkeras.compat.convert import convert_crf, crf_weights
from fastkeras.layers import CRF

# NumPy 2 complains about how Keras copies variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS, CHANNELS, TAGS = 2, 3, 4, 3


@pytest.fixture
def weights(rng):
    """Weights by their names in CRFs for Keras."""
    shapes = {
        "chain_kernel": (TAGS, TAGS),
        "left_boundary": (TAGS,),
        "right_boundary": (TAGS,),
        "kernel": (CHANNELS, TAGS),
        "bias": (TAGS,),
    }
    return {name: rng.normal(size=s).astype("float32") for name, s in shapes.items()}


def write_keras2(path, weights, of, config=None):
    """Write a file as Keras 2 did: a group for each layer, with its weights by name."""
    with h5py.File(path, "w") as file:
        group = file if config is None else file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense_1", b"crf_1"]
        group["dense_1/dense_1/kernel:0"] = np.ones((TAGS, TAGS), "float32")
        group["dense_1/dense_1/bias:0"] = np.ones(TAGS, "float32")
        for name, value in weights.items():
            if of == "keras-contrib":
                group[f"crf_1/crf_1/{name}:0"] = value
            elif name in ("kernel", "bias"):
                group[f"crf_1/model/crf_1/dense_2/{name}:0"] = value
            else:
                group[f"crf_1/{name}:0"] = value
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            file["optimizer_weights/Adam/m/crf_1/chain_kernel:0"] = np.ones((TAGS, TAGS))
    return path


def model_config(class_name, **options):
    layers = [{"class_name": "Dense", "config": {"name": "dense_1", "activation": "tanh"}}]
    layers.append({"class_name": class_name, "config": {"name": "crf_1", **options}})
    return {"class_name": "Sequential", "config": {"layers": layers}}


def loaded(path, channels, **options):
    layer = CRF(TAGS, **options)
    layer.build((None, None, channels))
    keras.saving.load_weights(layer, path)
    return layer


def assert_same_distribution(layer, inputs, weights, sign=1):
    """Assert p(y) ∝ exp(sign · energy), with the weights of the old library."""
    emissions = inputs.astype(float)
    if "kernel" in weights:
        emissions = emissions @ weights["kernel"].astype(float) + weights.get("bias", 0)
    chain = {
        "emissions": sign * emissions,
        "transitions": sign * weights["chain_kernel"].astype(float),
        "start_transitions": sign * weights.get("left_boundary", np.zeros(TAGS)).astype(float),
        "end_transitions": sign * weights.get("right_boundary", np.zeros(TAGS)).astype(float),
        "lengths": None,
        "mask": None,
    }
    outputs = layer(inputs)
    for b, (_, paths, scores) in enumerate(enumerate_paths(chain)):
        _, expected = probabilities(scores)
        for path, probability in zip(paths, expected, strict=True):
            own = layer.log_likelihood(outputs[b : b + 1], path[None])
            np.testing.assert_allclose(np.exp(own[0]), float(probability), rtol=2e-5)


@pytest.fixture
def inputs(rng):
    return rng.normal(size=(BATCH, STEPS, CHANNELS)).astype("float32")


@pytest.mark.parametrize("whole_model", (False, True))
def test_tensorflow_addons(whole_model, weights, inputs, tmp_path):
    config = model_config("Addons>CRF", units=TAGS) if whole_model else None
    old = write_keras2(tmp_path / "old.h5", weights, "tfa", config)
    new = tmp_path / "new.weights.h5"
    assert convert_crf(old, new).source == "tfa"
    layer = loaded(new, CHANNELS, use_kernel=True)
    assert_same_distribution(layer, inputs, weights)


def test_tensorflow_addons_without_kernel_and_boundaries(weights, inputs, tmp_path):
    weights = {"chain_kernel": weights["chain_kernel"]}
    old, new = write_keras2(tmp_path / "old.h5", weights, "tfa"), tmp_path / "new.weights.h5"
    assert convert_crf(old, new).kernel is None
    assert_same_distribution(loaded(new, TAGS, use_boundaries=False), inputs[..., :TAGS], weights)


@pytest.mark.parametrize("whole_model", (False, True))
@pytest.mark.parametrize("with_bias", (False, True))
def test_keras_contrib_minimises_energies(with_bias, whole_model, weights, inputs, tmp_path):
    if not with_bias:
        del weights["bias"]
    config = model_config("CRF", learn_mode="join", activation="linear") if whole_model else None
    old = write_keras2(tmp_path / "old.h5", weights, "keras-contrib", config)
    new = tmp_path / "new.weights.h5"
    assert convert_crf(old, new).source == "keras-contrib"
    layer = loaded(new, CHANNELS, use_kernel=True)
    assert_same_distribution(layer, inputs, weights, sign=-1)


def test_the_right_boundary_of_keras_contrib_can_be_left_out(weights, inputs, tmp_path):
    old = write_keras2(tmp_path / "old.h5", weights, "keras-contrib")
    new = tmp_path / "new.weights.h5"
    convert_crf(old, new, right_boundary=False)
    without = {**weights, "right_boundary": np.zeros(TAGS)}
    layer = loaded(new, CHANNELS, use_kernel=True)
    assert_same_distribution(layer, inputs, without, sign=-1)


def test_an_activation_of_keras_contrib_is_refused(weights, tmp_path):
    config = model_config("CRF", learn_mode="join", activation="tanh")
    old = write_keras2(tmp_path / "old.h5", weights, "keras-contrib", config)
    with pytest.raises(ValueError, match="activation='tanh' after its kernel"):
        crf_weights(old)


@pytest.mark.parametrize("name", ("trans", "crf_trans"))
@pytest.mark.parametrize("told_by", ("nobody", "the caller", "the file"))
def test_bert4keras_and_the_article(told_by, name, weights, inputs, tmp_path):
    multiplier = 1 if told_by == "nobody" else 100
    with h5py.File(tmp_path / "old.h5", "w") as file:
        stored = weights["chain_kernel"] / np.float32(multiplier)
        file[f"conditional_random_field/conditional_random_field/{name}:0"] = stored
        if told_by == "the file":
            config = model_config("ConditionalRandomField", lr_multiplier=multiplier)
            file.attrs["model_config"] = json.dumps(config)
    new = tmp_path / "new.weights.h5"
    given = {"lr_multiplier": multiplier} if told_by == "the caller" else {}
    assert convert_crf(tmp_path / "old.h5", new, **given).source == "bert4keras"
    layer = loaded(new, TAGS, use_boundaries=False)
    scores = {"chain_kernel": weights["chain_kernel"]}
    assert_same_distribution(layer, inputs[..., :TAGS], scores)


def test_pytorch_crf_in_an_npz_file(weights, inputs, tmp_path):
    names = {
        "chain_kernel": "transitions",
        "left_boundary": "start_transitions",
        "right_boundary": "end_transitions",
    }
    del weights["kernel"], weights["bias"]
    state = {f"tagger.crf.{names[name]}": value for name, value in weights.items()}
    np.savez(tmp_path / "old.npz", **{name.replace(".", "/"): a for name, a in state.items()})
    new = tmp_path / "new.weights.h5"
    assert convert_crf(tmp_path / "old.npz", new).source == "pytorch-crf"
    assert_same_distribution(loaded(new, TAGS), inputs[..., :TAGS], weights)


@pytest.mark.parametrize("file", ("model.keras", "model.weights.h5", "model.h5", "checkpoint"))
def test_models_with_the_layer_of_compat(file, inputs, tmp_path, rng):
    x = keras.Input((None, CHANNELS))
    layer = tfa.layers.CRF(TAGS)
    model = keras.Model(x, layer(keras.layers.Dense(CHANNELS)(x)))
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    old, new = tmp_path / file, tmp_path / "new.weights.h5"
    if file == "checkpoint":  # as Keras 2 wrote it, named by attributes
        tree = tf.train.Checkpoint(
            chain_kernel=tf.Variable(layer.chain_kernel),
            left_boundary=tf.Variable(layer.left_boundary),
            right_boundary=tf.Variable(layer.right_boundary),
            _dense_layer=tf.train.Checkpoint(
                kernel=tf.Variable(layer._dense_layer.kernel),
                bias=tf.Variable(layer._dense_layer.bias),
            ),
        )
        tf.train.Checkpoint(crf=tree).write(str(old))
    else:
        (model.save_weights if "weights" in file else model.save)(old)
    assert convert_crf(old, new).source == "tfa"
    own = loaded(new, CHANNELS, use_kernel=True)
    names = ("chain_kernel", "left_boundary", "right_boundary", "kernel", "bias")
    weights = dict(zip(names, layer.get_weights(), strict=True))
    assert_same_distribution(own, inputs, weights)


def test_one_of_several_layers(weights, tmp_path):
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for i, layer in enumerate(("crf_1", "crf_2")):
            file[f"{layer}/chain_kernel:0"] = weights["chain_kernel"] + i
    with pytest.raises(ValueError, match="several CRFs, of which --layer names one: crf_1/chain_k"):
        crf_weights(tmp_path / "old.h5")
    found = crf_weights(tmp_path / "old.h5", layer="crf_2")
    np.testing.assert_array_equal(found.transitions, weights["chain_kernel"] + 1)
    with pytest.raises(ValueError, match="under a layer 'crf_3'; it has crf_1/chain_kernel"):
        crf_weights(tmp_path / "old.h5", layer="crf_3")


def test_arrays_without_layers_need_the_source(weights, tmp_path):
    np.savez(tmp_path / "old.npz", **weights)
    with pytest.raises(ValueError, match="give --from tfa or --from keras-contrib"):
        crf_weights(tmp_path / "old.npz")
    ours = crf_weights(tmp_path / "old.npz", "tfa")
    other = crf_weights(tmp_path / "old.npz", "keras-contrib")
    for name in ("transitions", "start_transitions", "end_transitions", "kernel", "bias"):
        np.testing.assert_array_equal(getattr(ours, name), -getattr(other, name))
    np.testing.assert_array_equal(ours.kernel, weights["kernel"])


SQUARE, ROW, KERNEL = (TAGS, TAGS), (TAGS,), (CHANNELS, TAGS)
WRONG = {  # arrays, source, a part of the message
    "no CRF": (
        {"kernel": KERNEL},
        None,
        r"has no array named chain_kernel or trans or .*; it has kernel \(4, 3\)$",
    ),
    "nothing": ({}, None, r"it has no arrays$"),
    "another source": (
        {"crf/chain_kernel": SQUARE},
        "bert4keras",
        r"no array named trans or crf_trans; it has crf/chain_kernel \(3, 3\)",
    ),
    "not square": (
        {"crf/chain_kernel": (3, 4)},
        None,
        r"the transitions of crf/chain_kernel must have shape \(3, 3\), got \(3, 4\)",
    ),
    "one boundary": (
        {"crf/chain_kernel": SQUARE, "crf/left_boundary": ROW},
        None,
        r"there must be left_boundary and right_boundary",
    ),
    "transitions alone": (
        {"transitions": SQUARE},
        None,
        r"there must be start_transitions and end_transitions",
    ),
    "two kernels": (
        {"crf/chain_kernel": SQUARE, "crf/a/kernel": KERNEL, "crf/b/kernel": KERNEL},
        None,
        r"each of these may be the kernel of the CRF: crf/a/kernel, crf/b/kernel",
    ),
    "no kernel": (
        {"crf/chain_kernel": SQUARE},
        "keras-contrib",
        r"no array named crf/kernel, which a CRF of keras-contrib always has",
    ),
    "bias": (
        {"crf/chain_kernel": SQUARE, "crf/kernel": KERNEL, "crf/bias": (4,)},
        None,
        r"the bias of crf/chain_kernel must have shape \(3,\), got \(4,\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_named(wrong, tmp_path):
    arrays, source, message = WRONG[wrong]
    np.savez(tmp_path / "old.npz", **{name: np.ones(shape) for name, shape in arrays.items()})
    with pytest.raises(ValueError, match=message):
        crf_weights(tmp_path / "old.npz", source)


def test_an_unknown_source_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="source='theano' must be one of tfa, keras-contrib, bert4"
    ):
        crf_weights(tmp_path / "old.npz", "theano")


CONTENTS = {
    "empty": b"",
    "text": b"nothing",
    "cut HDF5": b"\x89HDF\r\n\x1a\n cut off",
    "cut zip": b"PK\x03\x04 cut off",
}


@pytest.mark.parametrize("content", CONTENTS)
def test_files_of_another_kind_are_named(content, tmp_path):
    (tmp_path / "old.h5").write_bytes(CONTENTS[content])
    with pytest.raises(ValueError, match=r"old.h5 is no HDF5, .keras, .npz or torch file"):
        crf_weights(tmp_path / "old.h5")


@pytest.mark.parametrize("form", ("zip", "pickle"))
def test_a_file_of_torch_is_recognised(form, tmp_path):
    if find_spec("torch"):
        pytest.skip("torch is installed: tests/backends reads such a file")
    (tmp_path / "old.pt").write_bytes(b"\x80\x02")
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "old.pt", "w") as archive:
            archive.writestr("old/data.pkl", b"")
    with pytest.raises(ImportError, match=r"pip install torch, or write it elsewhere by numpy"):
        crf_weights(tmp_path / "old.pt")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An undamaged file of each kind, by name."""
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "plain.npz", trans=np.eye(3))
    np.savez_compressed(folder / "small.npz", trans=np.eye(3))
    layer = keras.layers.Dense(3)
    layer.build((None, 3))
    model = keras.Sequential([keras.Input((3,)), layer])
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that HDF5 is a legacy format
            (model.save_weights if "weights" in name else model.save)(folder / name)
    tf.train.Checkpoint(trans=tf.Variable(np.eye(3))).write(str(folder / "tf"))
    return folder


KINDS = ("plain.npz", "small.npz", "model.keras", "model.h5", "model.weights.h5", "tf.index")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_a_value_error(kind, files, tmp_path, rng):
    for other in files.glob("tf*"):
        (tmp_path / other.name).write_bytes(other.read_bytes())
    whole = (files / kind).read_bytes()
    path = tmp_path / kind
    for case in range(60):
        content = bytearray(whole)
        if case % 3 == 0:
            content = content[: rng.integers(len(whole))]
        else:
            for position in rng.integers(len(whole), size=case % 3 * 2):
                content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_checkpoint(tmp_path / kind.removesuffix(".index"))
        except ValueError as error:
            assert "is no HDF5, .keras, .npz or torch file of plain arrays: " in str(error)


def test_a_model_with_a_scalar_can_be_read(tmp_path):
    from fastkeras.compat.addons.layers import CRF
    from fastkeras.layers import LossLayer

    x = keras.Input((4, 3))
    model = keras.Model(x, CRF(2)(LossLayer(lambda x: x * 0)(x)))
    model.save_weights(tmp_path / "old.weights.h5")
    assert crf_weights(tmp_path / "old.weights.h5").transitions.shape == (2, 2)


@pytest.mark.parametrize("multiplier", [0, -1.0, float("nan"), float("inf"), "2"])
def test_a_multiplier_that_makes_nothing_of_the_transitions_is_refused(multiplier, tmp_path):
    np.savez(tmp_path / "old.npz", trans=np.eye(2))
    with pytest.raises(ValueError, match=r"lr_multiplier=.* must be a number above 0"):
        crf_weights(tmp_path / "old.npz", lr_multiplier=multiplier)


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    np.savez(tmp_path / "old.npz", trans=np.array([[0, np.nan], [-np.inf, 1]]))
    with pytest.raises(ValueError, match="transitions of trans must be numbers, got NaN"):
        crf_weights(tmp_path / "old.npz")


def test_a_saved_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a SavedModel does not name all its weights"):
        crf_weights(tmp_path)


def test_the_command_tells_what_it_did(weights, tmp_path, capsys):
    old, new = write_keras2(tmp_path / "old.h5", weights, "tfa"), tmp_path / "new.weights.h5"
    new.write_bytes(b"what was there")
    assert main(["convert-crf", str(old), str(new)]) == 0
    printed = capsys.readouterr().out
    assert "the CRF of tfa: 3 tags, a kernel for 4 channels, scores of first and last" in printed
    assert "CRF(3, use_boundaries=True, use_kernel=True)" in printed
    layer = loaded(new, CHANNELS, use_kernel=True)
    np.testing.assert_array_equal(layer.kernel, weights["kernel"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.weights.h5", "old.h5"]


def test_options_of_the_command(weights, tmp_path):
    new = tmp_path / "new.weights.h5"
    np.savez(tmp_path / "old.npz", **weights)
    arguments = ["convert-crf", str(tmp_path / "old.npz"), str(new)]
    assert main([*arguments, "--from", "keras-contrib", "--no-right-boundary"]) == 0
    layer = loaded(new, CHANNELS, use_kernel=True)
    np.testing.assert_array_equal(layer.transitions, -weights["chain_kernel"])
    np.testing.assert_array_equal(layer.end_transitions, np.zeros(TAGS))
    np.savez(tmp_path / "old.npz", **{"a/trans": weights["chain_kernel"], "b/trans": np.eye(5)})
    assert main([*arguments, "--layer", "a", "--lr-multiplier", "2"]) == 0
    layer = loaded(new, TAGS, use_boundaries=False)
    np.testing.assert_array_equal(layer.transitions, 2 * weights["chain_kernel"])


def test_the_command_fails_in_one_line_and_writes_nothing(tmp_path, capsys):
    new = tmp_path / "new.weights.h5"
    new.write_bytes(b"what was there")
    np.savez(tmp_path / "old.npz", kernel=np.ones((2, 2)))
    for old, to, message in (
        ("old.npz", new, "has no array named"),
        ("missing.h5", new, "No such file"),
        ("old.npz", tmp_path / "new.h5", "must be named *.weights.h5"),
    ):
        assert main(["convert-crf", str(tmp_path / old), str(to)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("fastkeras convert-crf: error: ")
        assert message in error
        assert error.count("\n") == 1
    assert new.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.weights.h5", "old.npz"]


def test_the_command_needs_neither_keras_nor_tensorflow(weights, tmp_path):
    old = write_keras2(tmp_path / "old.h5", weights, "tfa")
    code = "import sys; from fastkeras.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    arguments = ["convert-crf", str(old), str(tmp_path / "new.weights.h5")]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert not {"keras", "tensorflow"} & set(ran.stdout.split())


def test_help_helps(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["convert-crf", "--help"])
    printed = capsys.readouterr().out
    for word in ("tfa", "keras-contrib", "bert4keras", "pytorch-crf", "chain_kernel", "example:"):
        assert word in printed
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "convert-crf" in capsys.readouterr().out
