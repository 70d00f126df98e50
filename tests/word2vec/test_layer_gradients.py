"""`SkipGram` and `CBOW` on TensorFlow: gradients by rows, float64, XLA."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from engine_parameters import engines_of  # noqa: E402
from fastkeras.layers import CBOW, SkipGram  # noqa: E402
from fastkeras.optimizers import Adam  # noqa: E402
from fastkeras.word2vec.layers._engines.keras import IMPOSSIBLE  # noqa: E402
from word2vec.plain_loss import gradient_by_differences  # noqa: E402
from word2vec.test_layers import (  # noqa: E402
    CASES,
    NEGATIVE,
    SIZE,
    VARIANTS,
    VOCABULARY,
    as_array,
    batch_of,
    fix_drawn,
    model_of,
    offsets_of,
    plain,
    randomize,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def formula(layer, inputs, drawn, extra):
    """Return the loss composed of TensorFlow's own functions, for it to differentiate."""
    targets, hidden = inputs[::-1] if isinstance(layer, SkipGram) else inputs
    v, u = (tf.convert_to_tensor(x.value) for x in (layer.embeddings, layer.output_embeddings))
    if isinstance(layer, SkipGram):
        h = tf.gather(v, hidden)
    else:
        rows = tf.ragged.boolean_mask(hidden, hidden >= 0)
        reduce = tf.reduce_mean if layer.combiner == "mean" else tf.reduce_sum
        h = reduce(tf.gather(v, rows), axis=1)
    h += extra
    drawn = np.broadcast_to(drawn, (len(targets), NEGATIVE))
    candidates = np.concatenate([targets[:, None], drawn], axis=1)
    x = tf.einsum("bd,bjd->bj", h, tf.gather(u, candidates))
    if layer.use_bias:
        x += tf.gather(tf.convert_to_tensor(layer.bias.value), candidates)
    hits = np.pad(drawn == targets[:, None], ((0, 0), (1, 0)))
    if layer.sampling_correction:
        x += np.pad(offsets_of(layer)[drawn], ((0, 0), (1, 0)))
    x = tf.where(hits, tf.constant(IMPOSSIBLE, x.dtype), x)
    if layer.loss == "sampled_softmax":
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits([0] * len(targets), x)
    else:
        labels = np.eye(1, NEGATIVE + 1).repeat(len(targets), 0)
        losses = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels, x), axis=1)
    return tf.reduce_mean(losses)


@pytest.mark.parametrize("engine", engines_of("word2vec.layers"))
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_gradients_are_those_of_differentiation_to_the_last_digits(
    kind, variant, graph, engine, rng
):
    layer = kind(VOCABULARY, SIZE, NEGATIVE, dtype="float64", engine=engine, **variant)
    layer.build()
    weights, inputs, drawn = randomize(layer, rng), batch_of(kind, rng), fix_drawn(layer, rng)
    extra = tf.Variable(rng.standard_normal((6, SIZE)))
    variables = [*(v.value for v in layer.trainable_variables), extra]

    def gradients():
        with tf.GradientTape() as tape:
            layer([*inputs, tf.identity(extra)])
            return tape.gradient(layer.losses[0], variables)

    found = tf.function(gradients)() if graph else gradients()
    with tf.GradientTape() as tape:
        loss = formula(layer, inputs, drawn, extra)
    expected = tape.gradient(loss, variables)
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, tf.IndexedSlices) == (ours is not found[-1])
        np.testing.assert_allclose(*map(tf.convert_to_tensor, (ours, theirs)), 1e-12, 1e-14)
    extra = extra.numpy()
    by_text = plain(layer, weights, inputs, drawn, extra)
    np.testing.assert_allclose(loss, by_text(), 1e-13)
    for name, array in [*weights.items(), ("extra", extra)]:
        ours = found[[*weights, "extra"].index(name)]
        differences = gradient_by_differences(by_text, array)
        np.testing.assert_allclose(tf.convert_to_tensor(ours), differences, 1e-9, 1e-10)


@pytest.mark.parametrize("optimizer", ["fused", "of Keras"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_rows_that_were_not_looked_up_stay(kind, variant, optimizer, rng):
    layer = kind(50, SIZE, 3, **{**variant, "ns_exponent": 0})
    model = model_of(layer)
    randomize(layer, rng)
    is_lazy = optimizer == "fused"
    model.compile(Adam(0.1, lazy=True) if is_lazy else keras.optimizers.SGD(0.1))
    # Word 0 occurs only at first: later steps find moments and paddings of it, but no gradient.
    model.train_on_batch(
        [np.int32([0, 1]), np.int32([0, 2] if kind is SkipGram else [[0, 2, 0, 0], [2] * 4])]
    )
    before = [as_array(v) for v in layer.trainable_variables]
    drawn = rng.integers(40, 45, 3 if layer.shared_negatives else (2, 3)).astype("int32")
    layer._draw = lambda targets: tf.constant(drawn)
    model.compile(model.optimizer)  # traces again, with the new draws
    contexts = [11, 12] if kind is SkipGram else [[11, -1, 12, -1], [13, -1, -1, -1]]
    model.train_on_batch([np.int32([30, 31]), np.int32(contexts)])
    contexts = {w for w in np.ravel(contexts) if w >= 0}
    hidden, targets = ({30, 31}, contexts) if kind is SkipGram else (contexts, {30, 31})
    outputs = targets | set(drawn.ravel().tolist())
    touched = [hidden, outputs, outputs][: len(before)]
    if layer.tied:
        touched[0] = hidden | outputs
    for variable, old, rows in zip(layer.trainable_variables, before, touched, strict=True):
        changed = (as_array(variable) != old).reshape(50, -1).any(axis=1)
        assert set(np.flatnonzero(changed).tolist()) == set(map(int, rows)), variable.path


@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_compiled_by_xla_it_takes_the_same_step(kind, rng):
    inputs, steps = batch_of(kind, rng), []
    for jit_compile in (False, True):
        layer = kind(VOCABULARY, SIZE, NEGATIVE, use_bias=True, seed=1)
        model = model_of(layer)
        randomize(layer, np.random.default_rng(0))
        fix_drawn(layer, np.random.default_rng(0))
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        model.train_on_batch(inputs)
        steps.append([as_array(v) for v in layer.trainable_variables])
    for usual, compiled in zip(*steps, strict=True):
        np.testing.assert_allclose(compiled, usual, 1e-5, 1e-6)
