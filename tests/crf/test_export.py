"""Decoding models exported by `model.export`, and run without fastkeras.

Each runs in a process of its own that can import neither fastkeras nor Keras.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from fastkeras.crf import constraints  # noqa: E402
from fastkeras.layers import CRF, GlobalPointer, SemiMarkovCRF  # noqa: E402

pytestmark = [
    # NumPy 2 warns about the way in which Keras on TensorFlow makes arrays of variables
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),  # of tf2onnx
]

WORDS, NAMES = 10, ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BATCH, STEPS = 3, (7, 4, 1, 300)

ALONE = """
import sys
sys.modules.update(fastkeras=None, keras=None)
import numpy as np
path, data = sys.argv[1:]
words = dict(np.load(data))
results = {}
"""
RUN = {
    "tf_saved_model": """
import tensorflow as tf
model = tf.saved_model.load(path)
for name, x in words.items():
    results[name] = [y.numpy() for y in tf.nest.flatten(model.serve(x))]
""",
    "litert": """
import warnings
warnings.simplefilter("ignore")  # tf.lite announces its successor
import tensorflow as tf
model = tf.lite.Interpreter(path)
assert not [op for op in model._get_ops_details() if op["op_name"].startswith(("Flex", "CUSTOM"))]
(inputs,) = model.get_input_details()
for name, x in words.items():
    model.resize_tensor_input(inputs["index"], x.shape)
    model.allocate_tensors()
    model.set_tensor(inputs["index"], x)
    model.invoke()
    results[name] = [model.get_tensor(y["index"]).copy() for y in model.get_output_details()]
""",
    "onnx": """
import onnxruntime
model = onnxruntime.InferenceSession(path)
for name, x in words.items():
    results[name] = model.run(None, {model.get_inputs()[0].name: x})
""",
}
SAVE = """
np.savez(data, **{f"{n} {i}": y for n, of in results.items() for i, y in enumerate(of)})
"""


def tagger(rules, confidence, rng):
    keras.utils.set_random_seed(0)
    crf = CRF(5, use_kernel=True, constraints=constraints.allowed("BIO", NAMES) if rules else None)
    words = keras.Input((None,), dtype="int32")
    model = keras.Model(words, crf(keras.layers.Embedding(WORDS, 8, mask_zero=True)(words)))
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return crf.decode(model, confidence)


@pytest.mark.parametrize(
    ("rules", "confidence"),
    [(False, False), (False, True), (True, True)],
    ids=("tags", "confidence", "constrained"),
)
@pytest.mark.parametrize("form", RUN)
def test_exported_models_decode_where_there_is_no_fastkeras(form, confidence, rules, tmp_path, rng):
    arguments = {}
    if form == "onnx":
        pytest.importorskip("tf2onnx", reason="tf2onnx, which writes ONNX, is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if form == "litert":  # its lists of tensors need a known batch size
        arguments["input_signature"] = [keras.InputSpec("int32", (BATCH, None))]
    model = tagger(rules, confidence, rng)
    words = {}
    for steps in STEPS:
        x = rng.integers(1, WORDS, (BATCH, steps)).astype("int32")
        x[0, steps // 2 + 1 :] = 0
        x[1, 0] = 0  # a masked first step
        x[2, steps // 3 : steps // 2] = 0  # a hole
        words[str(steps)] = x
    if form != "litert":
        words["another batch"] = words["7"][:2]
    expected = {name: keras.tree.flatten(model.predict(x, verbose=0)) for name, x in words.items()}

    path, data = tmp_path / {"onnx": "m.onnx", "litert": "m.tflite"}.get(form, "m"), "words.npz"
    model.export(path, format=form, verbose=False, **arguments)
    np.savez(tmp_path / data, **words)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE + RUN[form] + SAVE, str(path), data],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / data)
    for name, of in expected.items():
        for i in range(len(of)):  # TFLite has its own order of outputs
            result = found[f"{name} {i}"]
            (same,) = (y for y in of if y.dtype == result.dtype)
            if same.dtype == np.int32:
                np.testing.assert_array_equal(result, same)
            else:
                np.testing.assert_allclose(result, same, rtol=1e-4, atol=1e-6)


def test_segments_and_spans_are_exported_without_ops_of_ours(tmp_path, rng):
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(WORDS, 8, mask_zero=True)(words)
    crf = SemiMarkovCRF(2, 3, use_kernel=True)
    segments = crf.decode(keras.Model(words, crf(x)))
    for model in (segments, keras.Model(words, GlobalPointer(2, 4)(x))):
        given = rng.integers(0, WORDS, (BATCH, 6)).astype("int32")
        expected = model.predict(given, verbose=0)
        model.export(tmp_path, verbose=False)
        loaded = tf.saved_model.load(tmp_path)
        np.testing.assert_allclose(loaded.serve(given).numpy(), expected, rtol=1e-5)
        functions = loaded.signatures["serving_default"].graph.as_graph_def().library.function
        assert not [n.op for f in functions for n in f.node_def if "astkeras" in n.op]
