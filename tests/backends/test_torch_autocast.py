"""Under `torch.autocast` scores of half precision are computed in float32 and rounded once."""

import pytest

torch = pytest.importorskip("torch", reason="autocast is torch's")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

from fastkeras import crf  # noqa: E402
from fastkeras.compat import torchcrf  # noqa: E402
from fastkeras.crf import semi_markov  # noqa: E402
from fastkeras.layers import CRF  # noqa: E402

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NUM_TAGS, RANK = 16, 2
CALLS = {
    "log_likelihood": lambda x, tags, a, d, **more: crf.log_likelihood(x, tags, a, **more),
    "low rank": lambda x, tags, a, d, **more: crf.log_likelihood(
        x, tags, crf.LowRank(a[:, :RANK], d.T), **more
    ),
    "memm": lambda x, tags, a, d, engine: crf.memm.log_likelihood(x, tags, a),
    "marginals": lambda x, tags, a, d, **more: crf.marginals(x, a, **more)[0],
    "viterbi": lambda x, tags, a, d, **more: crf.viterbi(x, a, **more)[1],
    "semi_markov": lambda x, tags, a, d, **more: semi_markov.log_partition(x, a, d, **more),
}


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.fixture
def given():
    torch.manual_seed(0)
    shapes = (3, 20, NUM_TAGS), (NUM_TAGS, NUM_TAGS), (RANK, NUM_TAGS)
    x, a, d = (torch.randn(shape, requires_grad=True) for shape in shapes)
    return x, torch.randint(NUM_TAGS, x.shape[:2]), a, d


@pytest.mark.parametrize("engine", ["torch_native", "keras"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_values_are_rounded_once(call, engine, given):
    x, *others = given
    expected = call(x, *others, engine=engine)
    with autocast():
        half = torch.nn.functional.linear(x, torch.eye(NUM_TAGS))
        assert half.dtype == torch.bfloat16
        rounded = call(half, *others, engine=engine)
        assert torch.equal(call(x, *others, engine=engine), expected)
    exact = call(half.float(), *others, engine=engine)
    assert torch.equal(rounded, exact.to(torch.bfloat16))


@pytest.mark.parametrize("call", [CALLS["log_likelihood"], CALLS["semi_markov"]])
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_are_those_of_float32(call, inside, given):
    x, _, a, d = given
    leaves = (x, a, d) if call is CALLS["semi_markov"] else (x, a)
    expected = torch.autograd.grad(call(*given).sum(), leaves)
    with autocast():
        value = call(*given).sum()
        if inside:
            found = torch.autograd.grad(value, leaves)
    if not inside:
        found = torch.autograd.grad(value, leaves)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_one_compiled_graph(given):
    call = CALLS["low rank"]
    compiled = torch.compile(
        lambda *given: call(*given).sum(), fullgraph=True, backend="aot_eager", dynamic=False
    )
    expected = call(*given).sum()
    assert torch.equal(compiled(*given), expected)
    with autocast():
        assert torch.equal(compiled(*given), expected)


@pytest.mark.parametrize("make", [lambda: torchcrf.CRF(NUM_TAGS, batch_first=True), None])
def test_layers(make, given):
    x, tags, _, _ = given
    if make is None:
        layer = CRF(NUM_TAGS)
        layer.build(x.shape)
        loss = lambda x: layer.log_likelihood(x, tags).sum()  # noqa: E731
        weights = [w.value for w in layer.trainable_weights]
    else:
        layer = make()
        loss, weights = lambda x: layer(x, tags), list(layer.parameters())
    with autocast():
        half = torch.nn.functional.linear(x, torch.eye(NUM_TAGS)).detach()
        value = loss(half)
    exact = loss(half.float())
    torch.testing.assert_close(value.float(), exact, rtol=2**-8, atol=0)
    for found, expected in zip(
        torch.autograd.grad(value, weights), torch.autograd.grad(exact, weights), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)
