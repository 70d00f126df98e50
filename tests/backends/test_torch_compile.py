"""torch.compile and torch.export of the public functions, which work on tensors without Keras."""

import shutil
import subprocess
import sys
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="the tensors are torch's")
if __import__("keras").backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

from torch._dynamo.testing import CompileCounter  # noqa: E402

from fastkeras import crf  # noqa: E402
from fastkeras.crf import semi_markov  # noqa: E402

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, NUM_TAGS = 6, 4
CHAIN = ("transitions", "lengths", "start_transitions", "end_transitions")


def arguments_of(batch=3, steps=STEPS, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def scores(*shape):
        return torch.randn(shape, generator=generator, requires_grad=True)

    return {
        "emissions": scores(batch, steps, NUM_TAGS),
        "tags": torch.randint(0, NUM_TAGS, (batch, steps), generator=generator),
        "transitions": scores(NUM_TAGS, NUM_TAGS),
        "durations": scores(3, NUM_TAGS),
        "lengths": torch.arange(batch) % (steps + 1),
        "mask": torch.rand(batch, steps, generator=generator) < 0.8,
        "start_transitions": scores(NUM_TAGS),
        "end_transitions": scores(NUM_TAGS),
        "weights": torch.rand(batch, generator=generator),
    }


FUNCTIONS = {  # with the names of their arguments
    "log_likelihood": (crf.log_likelihood, ("emissions", "tags", *CHAIN)),
    "of a mask": (crf.log_likelihood, ("emissions", "tags", *CHAIN, "mask")),
    "with gradients": (crf.log_likelihood_and_gradients, ("emissions", "tags", *CHAIN, "weights")),
    "sequence_score": (crf.sequence_score, ("emissions", "tags", *CHAIN)),
    "log_partition": (crf.log_partition, ("emissions", *CHAIN)),
    "viterbi": (crf.viterbi, ("emissions", *CHAIN)),
    "k_best": (lambda **given: crf.k_best(**given, k=2), ("emissions", *CHAIN)),
    "marginals": (crf.marginals, ("emissions", *CHAIN)),
    "posterior_decode": (crf.posterior_decode, ("emissions", *CHAIN)),
    "semi_markov": (semi_markov.log_partition, ("emissions", "durations", *CHAIN)),
    "segments": (semi_markov.viterbi, ("emissions", "durations", *CHAIN)),
    "segment marginals": (semi_markov.marginals, ("emissions", "durations", *CHAIN)),
}
DIFFERENTIABLE = ("log_likelihood", "of a mask", "sequence_score", "log_partition", "semi_markov")


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """Give inductor a C++ compiler of one word, whatever CXX says."""
    import torch._inductor.config as config

    torch._dynamo.reset()
    with config.patch({"cpp.cxx": (None, shutil.which("g++") or shutil.which("clang++"))}):
        yield


def gradients(value, given):
    leaves = [x for x in given.values() if x.requires_grad]
    return torch.autograd.grad(value.sum(), leaves, allow_unused=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_of_the_same_bits(name):
    function, names = FUNCTIONS[name]
    given = {key: value for key, value in arguments_of().items() if key in names}
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, expected = compiled(**given), function(**given)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    if name in DIFFERENTIABLE:
        found, expected = gradients(found, given), gradients(expected, given)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised by inductor itself
def test_inductor():
    given = arguments_of()
    del given["durations"], given["weights"], given["mask"]

    def loss(emissions, **others):
        return -crf.log_likelihood(emissions.tanh(), **others).mean()

    found, expected = torch.compile(loss, fullgraph=True)(**given), loss(**given)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, given), gradients(expected, given))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # by dynamo, in code of Keras
def test_keras_compiles_the_training_step_with_the_loss_of_the_layer(monkeypatch):
    import keras

    from fastkeras.layers import CRF

    # inductor would take a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    words = torch.randint(1, 9, (4, STEPS), generator=torch.Generator().manual_seed(0)).numpy()
    words[3:, 4:] = 0
    found = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((STEPS,), dtype="int32")
        layer = CRF(NUM_TAGS, use_kernel=True)
        outputs = layer(keras.layers.Embedding(9, 5, mask_zero=True)(inputs))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", layer.loss, jit_compile=jit_compile)
        loss = model.train_on_batch(words, words % NUM_TAGS)
        found.append([torch.as_tensor(value) for value in (loss, *model.get_weights())])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["log_likelihood", "viterbi", "semi_markov"])
def test_other_sizes_are_compiled_once(name):
    function, names = FUNCTIONS[name]
    counter = CompileCounter()
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for batch, steps in ((3, 6), (4, 7), (5, 9), (8, 3), (11, 20)):
        given = arguments_of(batch, steps)
        given = {key: value for key, value in given.items() if key in names}
        torch.testing.assert_close(compiled(**given), function(**given), rtol=0, atol=0)
    assert counter.frame_count <= 3  # for the first sizes, for all others, and one to spare


class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Linear(5, NUM_TAGS)
        self.transitions = torch.nn.Parameter(torch.randn(NUM_TAGS, NUM_TAGS))

    def forward(self, features, lengths):
        tags, _ = crf.viterbi(self.scores(features), self.transitions, lengths)
        return tags


@pytest.mark.parametrize("strict", [True, False])
def test_a_module_that_decodes_is_exported(strict, tmp_path):
    module, batch = Tagger().eval(), torch.export.Dim("batch", min=2)
    given = torch.randn(3, STEPS, 5), torch.tensor([6, 3, 0])
    shapes = {"features": {0: batch}, "lengths": {0: batch}}
    with torch.no_grad():
        program = torch.export.export(module, given, dynamic_shapes=shapes, strict=strict)
    assert "fastkeras.crf_viterbi" in str(program.graph)
    torch.export.save(program, tmp_path / "tagger.pt2")
    loaded = torch.export.load(tmp_path / "tagger.pt2").module()
    if strict:  # also in another process
        code = (
            "import fastkeras, sys, torch; fastkeras.engines('crf'); torch.export.load(sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "tagger.pt2"], check=True)
    for features, lengths in (given, (torch.randn(5, STEPS, 5), torch.arange(5))):
        torch.testing.assert_close(loaded(features, lengths), module(features, lengths))


def test_no_gradient_of_what_has_none_is_an_error_if_it_is_used():
    given = arguments_of()
    x, a = given["emissions"], given["transitions"]

    def best(x, a):
        _, score = crf.viterbi(x, a)
        return score, (x * x).sum()

    compiled = torch.compile(best, fullgraph=True, backend="aot_eager")
    _, other = compiled(x, a)
    torch.testing.assert_close(torch.autograd.grad(other, x)[0], 2 * x)
    score, _ = compiled(x, a)
    with pytest.raises(NotImplementedError, match="cannot differentiate the score of viterbi"):
        torch.autograd.grad(score.sum(), x)


def test_keras_is_not_imported():
    code = """
import sys
import torch
from fastkeras import crf
from fastkeras.crf import semi_markov
x, a, tags = torch.zeros(2, 3, 4), torch.zeros(4, 4, requires_grad=True), torch.zeros(2, 3).long()
lengths, mask = torch.tensor([3, 1]), torch.ones(2, 3, dtype=torch.bool)
crf.log_likelihood(x, tags, a, lengths, mask=mask).sum().backward()
crf.log_likelihood_and_gradients(x, tags, a)
crf.log_partition(x, crf.LowRank(a[:, :2], a[:, :2]))
for function in (crf.viterbi, crf.marginals, crf.posterior_decode, crf.sample):
    function(x.bfloat16(), a, lengths)
crf.k_best(x, a, 2)
semi_markov.viterbi(x, a, a)
sys.exit("keras" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
