"""The engine `torch_native`: ops of torch that autograd, torch.compile and torch.func take."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the ops are torch's")
if __import__("keras").backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

from fastkeras import _engines, crf  # noqa: E402
from fastkeras._ops.torch import op  # noqa: E402
from fastkeras.crf import semi_markov  # noqa: E402
from fastkeras.crf._engines import torch_native, torch_ops  # noqa: E402
from fastkeras.crf.arguments import chain_of  # noqa: E402
from fastkeras.crf.semi_markov._engines import torch_native as _semi_markov_torch_native  # noqa: E402

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS, NUM_TAGS = 3, 6, 4
OPS = torch.ops.fastkeras


@pytest.fixture
def chain(rng):
    shapes = ((BATCH, STEPS, NUM_TAGS), (NUM_TAGS, NUM_TAGS), (NUM_TAGS,), (NUM_TAGS,))
    x, a, start, end = (
        torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in shapes
    )
    return chain_of(x, a, torch.tensor([6, 3, 0]), None, start, end)


@pytest.fixture
def tags(rng):
    return torch.tensor(rng.integers(0, NUM_TAGS, (BATCH, STEPS)), dtype=torch.int32)


def log_likelihood(chain, tags, engine=None):
    return crf.log_likelihood(
        chain.emissions,
        tags,
        chain.transitions,
        chain.lengths,
        start_transitions=chain.start_transitions,
        end_transitions=chain.end_transitions,
        engine=engine,
    )


def with_gradients(chain):
    return chain.with_scores(lambda scores: scores.clone().requires_grad_())


def test_the_kernels_answer_tensors_on_the_cpu_and_no_others():
    def answering(tensor):
        return _engines.engine_for("crf", tensor).__name__.rpartition(".")[2]

    assert answering(torch.zeros(1)) == "torch_native"
    assert answering(torch.zeros(1, device="meta")) == "keras"


def test_value_and_gradient_are_those_of_the_keras_engine(chain, tags):
    results = []
    for engine in (None, "keras"):
        leaves = with_gradients(chain)
        value = log_likelihood(leaves, tags, engine)
        results.append((value, *torch.autograd.grad(value.sum(), leaves.scores)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_weights_of_steps_and_their_gradients_are_those_of_the_keras_engine(chain, tags, rng):
    weights = torch.tensor(rng.random((BATCH, STEPS)), dtype=torch.float32, requires_grad=True)
    leaves = with_gradients(chain)
    scores = dict(zip(("emissions", "transitions", "lengths", "mask"), leaves[:4], strict=True))
    scores |= {"start_transitions": leaves[4], "end_transitions": leaves[5], "tags": tags}

    def total(engine):
        return crf.weighted_log_likelihood(**scores, weights=weights, engine=engine).sum()

    results = [
        (total(engine), *torch.autograd.grad(total(engine), (*leaves.scores, weights)))
        for engine in (None, "keras")
    ]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    inputs = (*leaves, tags, weights)
    torch.library.opcheck(OPS.crf_weighted_value.default, (*inputs, False))
    with torch.no_grad():
        value, _, workspace = OPS.crf_weighted_value(*inputs, True)
    plain = (*chain, tags, weights.detach(), value)
    for kept in (workspace, workspace[:0]):
        arguments = (*plain, kept, torch.ones(BATCH))
        torch.library.opcheck(OPS.crf_weighted_gradient.default, arguments)
    gradient = torch.func.grad(
        lambda weights: crf.weighted_log_likelihood(
            **{name: x.detach() if name in ("emissions", "transitions") else x
               for name, x in scores.items()}, weights=weights
        ).sum()
    )  # fmt: skip
    torch.testing.assert_close(gradient(weights.detach()).detach(), results[0][-1])


def test_the_gradient_of_the_entropy_is_that_of_the_keras_engine(chain):
    leaves = with_gradients(chain)
    x, a, lengths, _, start, end = leaves
    ends = {"start_transitions": start, "end_transitions": end}
    weights = torch.tensor([1.0, -2.0, 0.5])
    results = []
    for engine in (None, "keras"):
        value = crf.entropy(x, a, lengths, **ends, engine=engine)
        results.append((value, *torch.autograd.grad(value @ weights, leaves.scores)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    value, gradients = crf.entropy_and_gradients(
        *chain[:3], start_transitions=chain[4], end_transitions=chain[5], weights=weights
    )
    for one, other in zip((value, *gradients), results[0], strict=True):
        torch.testing.assert_close(one, other)
    torch.library.opcheck(OPS.crf_entropy.default, (*leaves, False))
    with torch.no_grad():
        value, workspace = OPS.crf_entropy(*chain, True)
    for kept in (workspace, workspace[:0]):
        torch.library.opcheck(OPS.crf_entropy_gradient.default, (*chain, value, kept, weights))
    compiled = torch.compile(
        lambda x: crf.entropy(x, chain.transitions).sum(), fullgraph=True, backend="aot_eager"
    )
    of_compiled, of_eager = (
        torch.autograd.grad(f(x), x)[0]
        for f in (compiled, lambda x: crf.entropy(x, chain.transitions).sum())
    )
    torch.testing.assert_close(of_compiled, of_eager)


def test_opcheck(chain, tags):
    quantity = torch_ops.LOG_LIKELIHOOD
    inputs = (*with_gradients(chain), tags, quantity)
    torch.library.opcheck(OPS.crf_value.default, (*inputs, False))
    # not the test that compares results: a workspace is written only in part, so two may differ
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(OPS.crf_value.default, (*inputs, True), test_utils=tests)
    value, workspace = OPS.crf_value(*chain, tags, quantity, True)
    ones = torch.ones(BATCH)
    for kept in (workspace, workspace[:0]):
        inputs = (*chain, tags, value, kept, ones, quantity)
        torch.library.opcheck(OPS.crf_gradient.default, inputs)
    torch.library.opcheck(OPS.crf_value_and_gradient.default, (*chain, tags, ones, quantity))
    for of_chain in (OPS.crf_viterbi, OPS.crf_marginals):
        torch.library.opcheck(of_chain.default, tuple(chain))
    torch.library.opcheck(OPS.crf_k_best.default, (*chain, 3))
    uniforms = torch.rand(2, BATCH, STEPS)
    torch.library.opcheck(OPS.crf_sample.default, (*chain, uniforms))


def test_compiled_without_a_break(chain, tags):
    compiled = torch.compile(
        lambda *chain: torch_ops._value(*chain, tags, torch_ops.LOG_LIKELIHOOD).sum(),
        fullgraph=True,
        backend="aot_eager",
    )
    leaves = with_gradients(chain)
    gradients = torch.autograd.grad(compiled(*leaves), leaves.scores)
    expected = torch.autograd.grad(log_likelihood(leaves, tags).sum(), leaves.scores)
    for ours, exact in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0)


def test_transforms_of_torch_func(chain, tags):
    def value(x):
        return log_likelihood(chain._replace(emissions=x), tags)

    x = chain.emissions
    gradient = torch.func.grad(lambda x: value(x).sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(value(leaf).sum(), leaf)[0])
    jacobian = torch.func.jacrev(value)(x)
    torch.testing.assert_close(jacobian.sum(0), gradient)
    stacked = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(value)(stacked), torch.stack([value(x), value(2 * x)])
    )


def one_by_one(function, in_dims, arguments, size=2):
    """Return what `torch.func.vmap` should, by a loop."""
    pairs = list(zip(arguments, in_dims, strict=True))
    results = [
        function(*(x if dim is None else x.select(dim, i) for x, dim in pairs)) for i in range(size)
    ]
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *results)


@pytest.mark.parametrize("in_dims", [(0, None, None), (2, 0, None), (None, 1, None), (1, None, 0)])
def test_vmap_takes_what_a_loop_takes(chain, tags, in_dims):
    """With shared transitions the axis joins the batch, else there is a call for each element."""
    arguments = [
        x if dim is None else torch.stack([x, x.flip(0)], dim)
        for x, dim in zip((chain.emissions, tags, chain.transitions), in_dims, strict=True)
    ]

    def value(x, tags, a):
        return log_likelihood(chain._replace(emissions=x, transitions=a), tags)

    def gradients(x, tags, a):
        return torch.func.grad(lambda x, a: value(x, tags, a).sum(), (0, 1))(x, a)

    def decoded(x, tags, a):
        k_best = crf.k_best(x, a, 2, chain.lengths)
        return *crf.viterbi(x, a, chain.lengths), *k_best, *crf.marginals(x, a, chain.lengths)

    for function in (value, gradients, decoded):
        found = torch.func.vmap(function, in_dims)(*arguments)
        torch.testing.assert_close(found, one_by_one(function, in_dims, arguments))
    summed = torch.func.grad(lambda x: torch.func.vmap(value, in_dims)(x, *arguments[1:]).sum())
    x = arguments[0].clone().requires_grad_()
    one_by_one(value, in_dims, [x, *arguments[1:]]).sum().backward()
    torch.testing.assert_close(summed(arguments[0]), x.grad)


def test_vmap_of_samples(chain):
    uniforms = torch.rand(2, 5, BATCH, STEPS)

    def sample(x, uniforms):
        return torch_native.sample(chain._replace(emissions=x), uniforms)

    arguments = torch.stack([chain.emissions, 2 * chain.emissions]), uniforms
    found = torch.func.vmap(sample)(*arguments)
    torch.testing.assert_close(found, one_by_one(sample, (0, 0), arguments))


def test_a_gradient_that_was_not_foreseen(chain, tags):
    """If the value has kept no workspace, the gradient computes it again."""
    inputs = (*with_gradients(chain), tags, torch_ops.LOG_LIKELIHOOD)
    results = []
    for keep in (True, False):
        value, _ = OPS.crf_value(*inputs, keep)
        scores = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        results.append(torch.autograd.grad(value.sum(), scores))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_as_many_threads_as_torch_has(chain, tags, monkeypatch):
    asked, core = [], torch_native._core

    def viterbi(*inputs, num_threads):
        asked.append(num_threads)
        return core.crf_viterbi(*inputs, num_threads=num_threads)

    doubled = op(
        f"crf_test_of_threads({torch_ops.CHAIN}) -> (Tensor, Tensor)",
        like=None,
        batch_axes=torch_ops.CHAIN_AXES,
        result_axes=(0, 0),
    )(viterbi)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            doubled(*chain)
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 3]


def test_strides_do_not_matter(chain, tags):
    x = chain.emissions
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    flipped = x.flip(1).flip(1)
    for given in (strided, flipped, x.expand(x.shape)):
        torch.testing.assert_close(
            log_likelihood(chain._replace(emissions=given), tags), log_likelihood(chain, tags)
        )


def test_what_has_no_derivative_says_what_has_one(chain, tags):
    leaves = with_gradients(chain)
    value = log_likelihood(leaves, tags)
    (first,) = torch.autograd.grad(value.sum(), leaves.emissions, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot differentiate the gradient of a CRF"):
        torch.autograd.grad(first.sum(), leaves.emissions)
    _, score = crf.viterbi(leaves.emissions, leaves.transitions)
    with pytest.raises(NotImplementedError, match="take the sequence_score of its tags"):
        score.sum().backward()


def test_workers_that_are_forked_can_decode(chain):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            tags, _ = crf.viterbi(chain.emissions, chain.transitions)
            return tags

    expected, _ = crf.viterbi(chain.emissions, chain.transitions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # by Python, of forks beside threads
        loaded = list(torch.utils.data.DataLoader(Rows(), num_workers=2, batch_size=None))
    for tags in loaded:
        np.testing.assert_array_equal(tags.numpy(), expected.numpy())


def gradients_into(queue, chain, tags):
    leaves = with_gradients(chain)
    gradients = torch.autograd.grad(log_likelihood(leaves, tags).sum(), leaves.scores)
    queue.put([gradient.numpy() for gradient in gradients])


def test_a_forked_process_of_torch_can_train(chain, tags):
    """It has none of the threads that a large batch has started before."""
    large = torch.randn(64, 256, 32, requires_grad=True)
    crf.log_partition(large, torch.zeros(32, 32)).sum().backward()
    leaves = with_gradients(chain)
    expected = torch.autograd.grad(log_likelihood(leaves, tags).sum(), leaves.scores)
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # by Python, of forks beside threads
        process = context.Process(target=gradients_into, args=(queue, chain, tags))
        process.start()
    found = queue.get()
    process.join()
    for ours, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours.numpy(), other)


def test_a_tag_out_of_range_is_an_error(chain, tags):
    tags[0, 2] = NUM_TAGS
    with pytest.raises(ValueError, match=r"tags must be in 0\.\.3"):
        log_likelihood(chain, tags)


@pytest.fixture
def durations(rng):
    return torch.tensor(rng.normal(size=(3, NUM_TAGS)), dtype=torch.float32)


def segments_log_partition(chain, durations, engine=None):
    return semi_markov.log_partition(
        chain.emissions,
        chain.transitions,
        durations,
        chain.lengths,
        start_transitions=chain.start_transitions,
        end_transitions=chain.end_transitions,
        engine=engine,
    )


def test_semi_markov_value_and_gradient_are_those_of_the_keras_engine(chain, durations):
    weights, results = torch.tensor([2.0, -1.0, 3.0]), []
    for engine in (None, "keras"):
        leaves, of_lengths = with_gradients(chain), durations.clone().requires_grad_()
        value = segments_log_partition(leaves, of_lengths, engine)
        scores = (*leaves.scores, of_lengths)
        results.append((value, *torch.autograd.grad(value, scores, weights)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_semi_markov_weight_of_zero_is_no_contribution(chain, durations):
    chain.emissions[0, 1, 0] = float("nan")
    leaves = with_gradients(chain)
    value = segments_log_partition(leaves, durations.requires_grad_())
    assert value.isnan().tolist() == [True, False, False]
    scores = (*leaves.scores, durations)
    keep = {"retain_graph": True}
    for gradient in torch.autograd.grad(value, scores, torch.tensor([0.0, 1.0, 1.0]), **keep):
        assert gradient.isfinite().all() and gradient.any()
    for gradient in torch.autograd.grad(value.sum(), scores):
        assert gradient.isnan().any()


def test_semi_markov_ops(chain, durations):
    scores = (*with_gradients(chain), durations.clone().requires_grad_())
    torch.library.opcheck(OPS.semi_markov_log_partition.default, scores)
    for of_chain in (OPS.semi_markov_marginals, OPS.semi_markov_viterbi):
        torch.library.opcheck(of_chain.default, (*chain, durations))
    compiled = torch.compile(
        _semi_markov_torch_native._log_partition, fullgraph=True, backend="aot_eager"
    )
    differentiable = [x for x in scores if x is not None and x.requires_grad]
    gradients = torch.autograd.grad(compiled(*scores).sum(), differentiable)
    value = _semi_markov_torch_native._log_partition(*scores)
    expected = torch.autograd.grad(value.sum(), differentiable)
    for ours, exact in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0)


def test_semi_markov_transforms_of_torch_func(chain, durations):
    def value(x):
        return segments_log_partition(chain._replace(emissions=x), durations)

    x = chain.emissions
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(value(leaf).sum(), leaf)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: value(x).sum())(x), expected)
    torch.testing.assert_close(torch.func.jacrev(value)(x).sum(0), expected)
    stacked = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(value)(stacked), torch.stack([value(x), value(2 * x)])
    )


def test_semi_markov_second_derivatives_say_which_engine_has_them(chain, durations):
    leaves = with_gradients(chain)
    value = segments_log_partition(leaves, durations).sum()
    (first,) = torch.autograd.grad(value, leaves.emissions, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot differentiate marginals: engine='keras'"):
        torch.autograd.grad(first.square().sum(), leaves.emissions)
