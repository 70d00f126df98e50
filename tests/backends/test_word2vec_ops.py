"""The C++ kernels of Word2Vec's layers as ops of torch and calls of XLA, with their gradients."""

import shutil

import keras
import numpy as np
import pytest

import fastkeras

BACKEND = keras.backend.backend()
if BACKEND not in ("jax", "torch"):
    pytest.skip(
        "these are the calls of JAX and torch, and Keras is on TensorFlow", allow_module_level=True
    )
state = fastkeras.engines("word2vec.layers")[f"{BACKEND}_native"]
if state != "ready":
    pytest.skip(state, allow_module_level=True)

WORDS, SIZE, BATCH, DRAWN = 11, 5, 4, 3


@pytest.fixture
def arrays(rng):
    """Hidden vectors, a matrix, biases, corrections; words; contexts and their weights."""
    floats = [
        rng.standard_normal(shape).astype("float32")
        for shape in ((BATCH, SIZE), (WORDS, SIZE), (WORDS,), (WORDS,))
    ]
    words = rng.integers(0, WORDS, (BATCH, 1 + DRAWN)).astype("int32")
    return floats, words, rng.standard_normal(words.shape).astype("float32")


@pytest.mark.skipif(BACKEND != "torch", reason="an op of torch, and Keras is not on torch")
def test_torch_takes_them_for_ops(arrays):
    import torch

    from fastkeras.word2vec.layers._engines import torch_native  # noqa: F401

    floats, words, weights = arrays
    h, u, b, c = (torch.tensor(array, requires_grad=True) for array in floats)
    words, weights = torch.tensor(words), torch.tensor(weights)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    tests += ("test_aot_dispatch_dynamic",)
    ops = torch.ops.fastkeras
    for op, inputs in (
        (ops.word2vec_pool, (u, words, weights)),
        (ops.word2vec_pool, (u, words, None)),
        (ops.word2vec_loss, (h, u, b, c.detach(), words, 0)),
        (ops.word2vec_loss, (h, u, None, None, words, 1)),
        (ops.word2vec_scatter, (h.detach(), weights, words, WORDS)),
    ):
        torch.library.opcheck(op.default, inputs, test_utils=tests)


@pytest.mark.skipif(BACKEND != "torch", reason="an op of torch, and Keras is not on torch")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised by inductor itself
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_torch_compiles_and_transforms_them(compiler, arrays):
    import torch
    import torch._inductor.config as config

    from fastkeras.word2vec.layers._engines.torch_native import pooled, sampled_loss

    floats, words, weights = (arrays[0], *map(torch.tensor, arrays[1:]))
    h, u, b, _ = map(torch.tensor, floats)

    def loss(h, u, b, words, weights):
        hidden = h + pooled(u, words, weights)
        return sampled_loss("sampled_softmax", hidden, u, b, words[:, 0], words[:, 1:])[0].sum()

    eager = torch.func.grad(loss, (0, 1, 2))(h, u, b, words, weights)
    inputs = [x.clone().requires_grad_() for x in (h, u, b)]
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    with config.patch({"cpp.cxx": (None, shutil.which("g++") or shutil.which("clang++"))}):
        compiled(*inputs, words, weights).backward()
    mapped = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)), (0, None, None, 0, 0))(
        h[:, None], u, b, words[:, None], weights[:, None]
    )
    for one, other, parts in zip(eager, inputs, mapped, strict=True):
        tolerance = {} if compiler == "inductor" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(one, other.grad, **tolerance)
        total = parts[:, 0] if parts.shape[1:] == (1, SIZE) else parts.sum(0)
        torch.testing.assert_close(total, one)


@pytest.mark.skipif(BACKEND != "torch", reason="an op of torch, and Keras is not on torch")
def test_tensors_elsewhere_do_not_reach_the_kernels(arrays):
    import torch

    from fastkeras._engines import engine_for, name_of

    words = torch.tensor(arrays[1])
    assert name_of(engine_for("word2vec.layers", words)) == "torch_native"
    assert name_of(engine_for("word2vec.layers", words.to("meta"))) == "keras"
    with pytest.raises(ValueError, match="engine='torch_native'"):
        engine_for("word2vec.layers", words.to("meta"), "torch_native")


@pytest.mark.skipif(BACKEND != "jax", reason="a call of JAX, and Keras is not on JAX")
def test_jax_compiles_and_transforms_them(arrays):
    import jax

    from fastkeras.word2vec.layers._engines.jax_native import pooled, sampled_loss

    floats, words, weights = (arrays[0], *map(jax.numpy.asarray, arrays[1:]))
    h, u, b, _ = map(jax.numpy.asarray, floats)

    def loss(h, u, b, words, weights):
        hidden = h + pooled(u, words, weights)
        return sampled_loss("sampled_softmax", hidden, u, b, words[:, 0], words[:, 1:])[0].sum()

    gradients = jax.grad(loss, (0, 1, 2))
    eager = gradients(h, u, b, words, weights)
    compiled = jax.jit(gradients)(h, u, b, words, weights)
    mapped = jax.vmap(gradients, (0, None, None, 0, 0))(
        h[:, None], u, b, words[:, None], weights[:, None]
    )
    for one, other, parts in zip(eager, compiled, mapped, strict=True):
        np.testing.assert_allclose(one, other, 1e-6, 1e-6)
        total = parts[:, 0] if parts.shape[1:] == (1, SIZE) else parts.sum(0)
        np.testing.assert_allclose(total, one, 1e-5, 1e-5)
    with pytest.raises(NotImplementedError, match="engine='keras'"):
        jax.grad(lambda u: gradients(h, u, b, words, weights)[1].sum())(u)


@pytest.mark.skipif(BACKEND != "jax", reason="a call of JAX, and Keras is not on JAX")
@pytest.mark.parametrize("name", ["pool", "scatter", "loss"])
def test_jax_calls_answer_or_raise(arrays, name):
    """On any arrays: the kernels check every number that they use as a position."""
    import jax

    (h, u, b, c), words, weights = arrays
    inputs, attributes, shapes = {
        "pool": ((u, words, weights), {}, [h.shape]),
        "scatter": ((h, weights, words), {"num_words": WORDS}, [u.shape, (WORDS,)]),
        "loss": ((h, u, b, c, words), {"loss": 0}, [(BATCH,), (BATCH,), words.shape, h.shape]),
    }[name]
    results = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]

    def call(results=results, **changed):
        target = f"fastkeras_word2vec_{name}_float32"
        numbers = {"num_threads": 1, **attributes, **changed.pop("attributes", {})}
        given = [changed.get(f"at_{i}", array) for i, array in enumerate(inputs)]
        numbers = {key: np.int32(number) for key, number in numbers.items()}
        return jax.block_until_ready(jax.ffi.ffi_call(target, results)(*given, **numbers))

    call()
    bad = [
        {f"at_{i}": wrong}
        for i, array in enumerate(inputs)
        for wrong in (array[None], array[0], array[1:], array[..., 1:], array.astype("float16"))
    ]
    at_words = f"at_{next(i for i, array in enumerate(inputs) if array is words)}"
    bad += [{at_words: np.full_like(words, n)} for n in (WORDS, 2**31 - 1)]
    bad += [{"attributes": {key: n}} for key in attributes for n in (-1, 2**31 - 1)]
    bad += [{"results": results[:-1]}, {"results": [jax.ShapeDtypeStruct((1,), "float32")] * 9}]
    refused = 0
    for changed in bad:
        try:
            call(**changed)
        except (jax.errors.JaxRuntimeError, ValueError):
            refused += 1
    assert refused >= len(bad) - 1  # a matrix may have a row less
