"""The kernels in programs of XLA: the same bits, layouts, gradients, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastkeras import _engines, crf
from fastkeras._ops import library
from fastkeras._ops import tensorflow as tensorflow_ops
from fastkeras.crf import second_order, semi_markov
from fastkeras.crf._engines import tensorflow_native
from fastkeras.crf.chain import Chain
from fastkeras.crf.layers.objective import MODES
from fastkeras.layers import CRF, SecondOrderCRF, SemiMarkovCRF
from fastkeras.losses import CRFObjective
from fastkeras.metrics import SegmentScore

SHAPES = [(3, 7, 4), (2, 33, 19), (1, 1, 1), (0, 4, 3)]  # batch, steps, num_tags


def tensors(shape, dtype="float32", seed=5):
    batch, steps, num_tags = shape
    rng = np.random.default_rng(seed)
    return {
        "emissions": tf.constant(rng.standard_normal(shape), dtype),
        "transitions": tf.constant(rng.standard_normal((num_tags, num_tags)), dtype),
        "lengths": tf.constant(rng.integers(0, steps + 1, batch), "int32"),
        "start_transitions": tf.constant(rng.standard_normal(num_tags), dtype),
    }


def tags_for(shape):
    return tf.constant(np.random.default_rng(6).integers(0, shape[2], shape[:2]), "int32")


def sample_given_uniforms(chain):
    """XLA draws other numbers for a seed than TensorFlow does."""
    emissions, start = chain["emissions"], chain["start_transitions"]
    numbers = np.random.default_rng(4).random((5, *emissions.shape[:2]))
    zeros = tf.zeros_like(start)
    checked = Chain(emissions, chain["transitions"], chain["lengths"], None, start, zeros)
    return tensorflow_native.sample(checked, tf.constant(numbers, emissions.dtype))


FUNCTIONS = {
    "log_partition": lambda chain, tags: crf.log_partition(**chain),
    "sequence_score": lambda chain, tags: crf.sequence_score(tags=tags, **chain),
    "log_likelihood": lambda chain, tags: crf.log_likelihood(tags=tags, **chain),
    "log_likelihood_and_gradients": lambda chain, tags: crf.log_likelihood_and_gradients(
        tags=tags, **chain
    ),
    "marginals": lambda chain, tags: crf.marginals(**chain),
    "viterbi": lambda chain, tags: crf.viterbi(**chain),
    "k_best": lambda chain, tags: crf.k_best(k=3, **chain),
    "sample": lambda chain, tags: sample_given_uniforms(chain),
}
SEMI_MARKOV = ("log_partition", "marginals", "viterbi")


def same_bits(compiled, plain):
    got, want = tf.nest.flatten(compiled), tf.nest.flatten(plain)
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def program(function, *arguments):
    """The program that XLA made of a function, as text."""
    compiled = tf.function(function, jit_compile=True)
    return compiled.experimental_get_compiler_ir(*arguments)(stage="hlo")


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_bits_as_outside(name, shape, dtype):
    given = tensors(shape, dtype), tags_for(shape)
    compiled = tf.function(FUNCTIONS[name], jit_compile=True)
    same_bits(compiled(*given), tf.function(FUNCTIONS[name])(*given))


@pytest.mark.parametrize("name", SEMI_MARKOV)
def test_semi_markov_chains_give_the_same_bits(name):
    given = tensors((3, 8, 4))
    given["durations"] = tf.constant(np.random.default_rng(1).standard_normal((5, 4)), "float32")
    function = getattr(semi_markov, name)
    same_bits(tf.function(function, jit_compile=True)(**given), tf.function(function)(**given))
    assert "Fastkeras>SemiMarkov" in program(lambda chain: function(**chain), given)


def test_second_order_chains_give_the_same_bits():
    given = tensors((3, 12, 4)), tags_for((3, 12, 4))
    given[0]["triples"] = tf.constant(np.random.default_rng(1).standard_normal((4,) * 3), "float32")

    def results(chain, tags):
        scores = [chain["emissions"], chain["transitions"], chain["triples"]]
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = second_order.log_likelihood(tags=tags, **chain)
        decoded = second_order.viterbi(**chain), second_order.marginals(**chain)
        return value, tape.gradient(value, scores), decoded

    same_bits(tf.function(results, jit_compile=True)(*given), tf.function(results)(*given))
    text = program(results, *given)
    assert "Fastkeras>SecondOrderValue/float" in text
    assert "Fastkeras>SecondOrderGradient/float" in text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_program_calls_the_kernel(name):
    given = tensors(SHAPES[0]), tags_for(SHAPES[0])
    assert "Fastkeras>Crf" in program(FUNCTIONS[name], *given)


def test_a_mask_with_holes_and_a_tape(rng):
    shape = (4, 9, 5)
    chain, tags = tensors(shape), tags_for(shape)
    chain["mask"] = tf.constant(rng.random(shape[:2]) < 0.6)
    del chain["lengths"]

    def gradients(chain, tags):
        with tf.GradientTape() as tape:
            tape.watch([chain["emissions"], chain["transitions"]])
            value = crf.log_likelihood(tags=tags, **chain)
        return value, tape.gradient(value, [chain["emissions"], chain["transitions"]])

    same_bits(
        tf.function(gradients, jit_compile=True)(chain, tags),
        tf.function(gradients)(chain, tags),
    )
    text = program(gradients, chain, tags)
    assert "Fastkeras>CrfValue/float" in text
    assert "Fastkeras>CrfGradient/float" in text


def test_emissions_that_xla_holds_the_other_way_round():
    """XLA stores this array by columns, and has to copy it before it calls a kernel."""
    chain = tensors((6, 5, 4))

    def from_columns(columns, transitions):
        emissions = tf.transpose(columns, (2, 1, 0)) * 2.0
        return crf.viterbi(emissions, tf.transpose(transitions)), emissions

    columns = tf.transpose(chain["emissions"], (2, 1, 0))
    given = columns, chain["transitions"]
    compiled = tf.function(from_columns, jit_compile=True)(*given)
    same_bits(compiled, tf.function(from_columns)(*given))


def test_a_tag_out_of_range_is_an_error():
    chain, tags = tensors((2, 3, 4)), tf.fill((2, 3), 4)
    chain["lengths"] = tf.constant([3, 3])
    compiled = tf.function(FUNCTIONS["log_likelihood"], jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"tags must be in 0\.\.3 at valid"):
        compiled(chain, tags)


def test_sizes_that_xla_does_not_know_are_refused():
    """Otherwise the kernel would get a bound instead of the size, and use too many elements."""
    chain = tensors((4, 5, 3))

    @tf.function(jit_compile=True)
    def some(emissions, keep, engine):
        return crf.log_partition(
            tf.boolean_mask(emissions, keep), chain["transitions"], engine=engine
        )

    keep = tf.constant([True, False, True, False])
    with pytest.raises(tf.errors.InvalidArgumentError, match="no sizes that XLA finds out while"):
        some(chain["emissions"], keep, None)
    expected = crf.log_partition(chain["emissions"][::2], chain["transitions"])
    np.testing.assert_allclose(some(chain["emissions"], keep, "keras"), expected, rtol=1e-5)


def test_a_function_traced_outside_runs_inside():
    plain = tf.function(FUNCTIONS["viterbi"])
    given = tensors(SHAPES[0]), tags_for(SHAPES[0])
    outside = plain(*given)
    same_bits(tf.function(lambda *given: plain(*given), jit_compile=True)(*given), outside)


@pytest.mark.parametrize("kind", (CRF, SecondOrderCRF, SemiMarkovCRF))
def test_fit_with_jit_compile_takes_the_steps_of_fit_without(kind, rng):
    x = rng.standard_normal((12, 6, 5)).astype("float32")
    y = rng.integers(1, 4, (12, 6))
    of_segments = kind is SemiMarkovCRF
    if of_segments:
        y[:, 1::2] = semi_markov.labels.INSIDE

    def weights(**how):
        keras.utils.set_random_seed(3)
        layer = kind(4, *([3] if of_segments else []), use_kernel=True)
        inputs = keras.Input((None, 5))
        model = keras.Model(inputs, layer(inputs))
        metric = SegmentScore(layer) if of_segments else layer.accuracy
        model.compile("sgd", layer.loss, metrics=[metric], **how)
        model.fit(x, y, epochs=2, batch_size=5, shuffle=False, verbose=0)
        return model.get_weights()

    for ours, theirs in zip(weights(jit_compile=True), weights(jit_compile=False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", (CRF, SecondOrderCRF))
@pytest.mark.parametrize("mode", MODES)
def test_every_loss_of_the_layer_compiles(mode, kind, rng):
    x = rng.standard_normal((6, 5, 3)).astype("float32")
    tags = rng.integers(0, 3, (6, 5))

    def weights(jit_compile):
        keras.utils.set_random_seed(3)
        layer = kind(3, use_kernel=True)
        model = keras.Sequential([keras.Input((5, 3)), layer])
        model.compile("sgd", CRFObjective(layer, mode), jit_compile=jit_compile)
        model.fit(x, tags, batch_size=3, shuffle=False, verbose=0)
        return model.get_weights()

    for ours, theirs in zip(weights(True), weights(False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("why", ("a GPU", "no library"))
def test_where_xla_would_not_find_the_kernels_the_keras_engine_answers(why, monkeypatch):
    if why == "a GPU":  # XLA would need kernels for it
        devices = [tf.config.PhysicalDevice(f"/{kind}:0", kind) for kind in ("CPU", "GPU")]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda: devices)
        state = library.state_under_xla("libfastkeras_tf_xla")
    else:
        state = library.state_under_xla("libfastkeras_tf_of_another_name")
        assert "libfastkeras_tf_of_another_name_2_" in state
    monkeypatch.setattr(tensorflow_ops, "XLA", state)
    given = tensors(SHAPES[0]), tags_for(SHAPES[0])
    text = program(FUNCTIONS["log_partition"], *given)
    assert "Fastkeras>" not in text


def test_domains_with_kernels_for_xla_are_those_with_a_source(request):
    sources = (request.config.rootpath / "csrc").rglob("xla.cc")
    with_a_source = {source.parents[1].name for source in sources}
    domains = {domain.partition(".")[0] for domain in _engines.UNDER_XLA}
    assert domains == with_a_source
