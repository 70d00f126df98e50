"""Malformed input at each door of the compiled step: refused with the argument's name.

The doors are the function of the extension module, the TensorFlow op, and the call of its kernel in
an XLA program. The Python function checks before them, but a saved graph calls the op alone.
"""

import numpy as np
import pytest

import fastkeras

BATCH, BEAMS, VOCABULARY, STEPS = 2, 3, 5, 4
LOGITS = np.random.default_rng(0).standard_normal((BATCH, BEAMS, VOCABULARY)).astype("f4")
GOOD = {
    "logits": LOGITS,
    "scores": np.zeros((BATCH, BEAMS), "f4"),
    "history": np.zeros((BATCH, BEAMS, STEPS), "i4"),
    "allowed": np.ones((BATCH, BEAMS, VOCABULARY), bool),
    "repetition_penalty": 1.5,
    "no_repeat_ngram": 2,
    "num_candidates": 4,
}
BAD = (
    ("logits", LOGITS[0]),
    ("logits", LOGITS[:, :0].copy()),
    ("logits", LOGITS[:, :, :0].copy()),
    ("logits", LOGITS[:1]),
    ("scores", GOOD["scores"][:1]),
    ("scores", GOOD["scores"].T.copy()),
    ("history", GOOD["history"][0]),
    ("history", GOOD["history"][:, :1].copy()),
    ("history", np.full((BATCH, BEAMS, STEPS), VOCABULARY, "i4")),
    ("history", np.full((BATCH, BEAMS, STEPS), 2**31 - 1, "i4")),
    ("allowed", GOOD["allowed"][0]),
    ("allowed", np.ones((BATCH + 1, BEAMS, VOCABULARY), bool)),
    ("allowed", np.ones((BATCH, BEAMS - 1, VOCABULARY), bool)),
    ("allowed", np.ones((1, 1, VOCABULARY - 1), bool)),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", -1.0),
    ("repetition_penalty", np.inf),
    ("repetition_penalty", np.nan),
    ("no_repeat_ngram", -1),
    ("num_candidates", 0),
    ("num_candidates", -5),
)


def is_ready(engine):
    state = fastkeras.engines("seq2seq")[engine]
    return pytest.mark.skipif(state != "ready", reason=state)


def of_extension(arguments):
    return fastkeras._core.seq2seq_select(**arguments)


def of_tensorflow(arguments):
    from fastkeras._ops.tensorflow import library

    return library.fastkeras_seq2seq_select(**arguments)


def of_xla(arguments):
    import tensorflow as tf

    constants = {name: v for name, v in arguments.items() if name in ATTRIBUTES}
    tensors = {name: v for name, v in arguments.items() if name not in ATTRIBUTES}
    tensors = {
        name: tf.constant(v, "float64" if name == "repetition_penalty" else None)
        for name, v in tensors.items()
    }
    compiled = tf.function(lambda **given: of_tensorflow(given | constants), jit_compile=True)
    return compiled(**tensors)


ATTRIBUTES = ("no_repeat_ngram", "num_candidates")
DOORS = [
    pytest.param(of_extension, marks=is_ready("native")),
    pytest.param(of_tensorflow, marks=is_ready("tensorflow_native")),
    pytest.param(of_xla, marks=is_ready("tensorflow_native")),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("name", "value"), BAD)
def test_each_door_refuses_what_does_not_fit(door, name, value):
    good = [np.asarray(result) for result in door(GOOD)]
    errors = (ValueError,)
    if door is not of_extension:
        import tensorflow as tf

        errors = (tf.errors.InvalidArgumentError, ValueError)
    with pytest.raises(errors, match=r"must|Shape must be rank"):
        door({**GOOD, name: value})
    for result, before in zip(door(GOOD), good, strict=True):
        np.testing.assert_array_equal(result, before)


@pytest.mark.parametrize("door", [DOORS[0]])
@pytest.mark.parametrize("name", ("logits", "scores", "history", "allowed"))
def test_the_extension_converts_nothing(door, name):
    value = GOOD[name]
    strided = np.repeat(value, 2, axis=0)[::2]
    shifted = np.zeros(value.nbytes + 1, "u1")[1:].view(value.dtype).reshape(value.shape)
    wrong = [strided, value.astype(">f4"), value.astype("f2"), value.tolist()]
    for other in wrong + [shifted] * (value.itemsize > 1):
        with pytest.raises((TypeError, ValueError)):
            door({**GOOD, name: other})


def test_the_scores_have_no_gradient_by_the_op():
    tf = pytest.importorskip("tensorflow")
    if fastkeras.engines("seq2seq")["tensorflow_native"] != "ready":
        pytest.skip("needs the engine tensorflow_native")
    from fastkeras.seq2seq import select

    logits = tf.constant(LOGITS)
    for engine in ("tensorflow_native", "keras"):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            scores = select(logits, tf.constant(GOOD["scores"]), engine=engine)[0]
        if engine == "keras":
            assert np.isfinite(tape.gradient(scores, logits)).all()
        else:
            with pytest.raises(NotImplementedError, match="cannot differentiate the scores"):
                tape.gradient(scores, logits)
