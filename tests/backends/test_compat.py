"""The adapters on the backend of the environment, and pytorch-crf's CRF beside the original."""

import keras
import numpy as np
import pytest

from enumeration import enumerate_paths, probabilities
from fastkeras.compat import bert4keras, crf_keras

# Keras on torch makes arrays with np.array(tensor), of which NumPy 2 complains
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:where received a uint8:UserWarning"),  # of pytorch-crf
]

BATCH, STEPS, NUM_TAGS = 4, 5, 3
LENGTHS = np.array([5, 3, 1, 4])
MASK = np.arange(STEPS) < LENGTHS[:, None]
REDUCTIONS = ("none", "sum", "mean", "token_mean")


@pytest.mark.parametrize("kind", ("article", "bert4keras"))
def test_models_learn(kind, rng):
    keras.utils.set_random_seed(1)
    words = np.where(MASK, rng.integers(1, 9, size=MASK.shape), 0)
    tags = np.where(MASK, words % NUM_TAGS, NUM_TAGS)
    x = keras.Input((STEPS,), dtype="int32")
    embedded = keras.layers.Embedding(9, 8, mask_zero=True)(x)
    if kind == "article":
        layer, classes = crf_keras.CRF(ignore_last_label=True), NUM_TAGS + 1
        loss, metric, labels = layer.loss, layer.accuracy, np.eye(classes)[tags]
    else:
        layer, classes = bert4keras.ConditionalRandomField(lr_multiplier=10), NUM_TAGS
        loss, metric, labels = layer.sparse_loss, layer.sparse_accuracy, tags
    model = keras.Model(x, layer(keras.layers.Dense(classes)(embedded)))
    jit_compile = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=[metric], jit_compile=jit_compile)
    history = model.fit(words, labels, epochs=40, verbose=0).history
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    evaluated = model.evaluate(words, labels, verbose=0, return_dict=True)
    logits = model.predict(words, verbose=0)[..., :NUM_TAGS]
    right = (logits.argmax(-1) == tags)[MASK].mean()
    np.testing.assert_allclose(evaluated[metric.__name__], right, rtol=1e-6)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="pytorch-crf's CRF is for torch")


def arguments(torch, rng, dtype="float32", batch_first=True):
    """Emissions, tags and mask as tensors."""
    arrays = (
        rng.normal(size=(BATCH, STEPS, NUM_TAGS)),
        rng.integers(NUM_TAGS, size=(BATCH, STEPS)),
        MASK,
    )
    emissions, tags, mask = (
        torch.from_numpy(a if batch_first else a.swapaxes(0, 1)) for a in arrays
    )
    return emissions.to(getattr(torch, dtype)).requires_grad_(), tags, mask


def model_of(batch_first=True):
    from fastkeras.compat.torchcrf import CRF

    return CRF(NUM_TAGS, batch_first)


def exact(model, emissions, tags, mask):
    """Log-likelihoods and best paths by enumeration."""
    chain = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    chain |= {"emissions": emissions.detach().double().numpy(), "lengths": None}
    chain["mask"] = mask.numpy()
    values, best = [], []
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        given = (paths == tags.numpy()[b, steps]).all(axis=1)
        values.append(float(scores[given][0] - probabilities(scores)[0]))
        best.append(paths[scores.argmax()].tolist())
    return np.array(values), best


@pytest.mark.parametrize("with_a_hole", (False, True))
@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
def test_values_of_the_torch_module_are_those_of_enumeration(dtype, with_a_hole, torch, rng):
    emissions, tags, mask = arguments(torch, rng, dtype)
    if with_a_hole:
        mask = mask.clone()
        mask[0, 2] = False
        tags[0, 2] = -100
    model = model_of()
    values, best = exact(model, emissions, tags, mask)
    result = model(emissions, tags, mask, reduction="none")
    assert result.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    np.testing.assert_allclose(result.detach().numpy(), values, rtol=2e-6)
    assert model.decode(emissions, mask.byte()) == best
    means = {"sum": values.sum(), "mean": values.mean(), "token_mean": values.sum() / mask.sum()}
    for reduction, expected in means.items():
        value = model(emissions, tags, mask, reduction).item()
        np.testing.assert_allclose(value, expected, rtol=2e-6)


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_torch_module_is_pytorch_crf(reduction, batch_first, masked, torch, rng):
    torchcrf = pytest.importorskip("torchcrf", reason="pytorch-crf is not installed")
    peer, own = torchcrf.CRF(NUM_TAGS, batch_first), model_of(batch_first)
    own.load_state_dict(peer.state_dict())
    assert repr(own) == repr(peer)
    emissions, tags, mask = arguments(torch, rng, "float64", batch_first)
    mask = mask if masked else None
    values, gradients = [], []
    for module in (own.double(), peer.double()):
        value = module(emissions, tags, mask, reduction)
        scores = (emissions, *(dict(module.named_parameters())[n] for n in peer.state_dict()))
        weights = torch.arange(1.0, BATCH + 1).double() if value.ndim else None
        values.append(value)
        gradients.append(torch.autograd.grad(value, scores, weights))
    torch.testing.assert_close(*values)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert own.decode(emissions, mask) == peer.decode(emissions, mask)


def test_parameters_begin_as_those_of_pytorch_crf(torch):
    model = model_of()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "start_transitions": (NUM_TAGS,),
        "end_transitions": (NUM_TAGS,),
        "transitions": (NUM_TAGS, NUM_TAGS),
    }
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0 < parameters.abs().max() <= 0.1


def test_second_derivatives_of_the_torch_module(torch, rng):
    emissions, tags, mask = arguments(torch, rng, "float64")
    model = model_of().double()

    def value(emissions, transitions):
        parameters = {**dict(model.named_parameters()), "transitions": transitions}
        return torch.func.functional_call(
            model, parameters, (emissions, tags, mask), {"reduction": "none"}
        )

    scores = (emissions, model.transitions)
    if keras.backend.backend() != "torch":
        with pytest.raises(NotImplementedError, match="KERAS_BACKEND=torch"):
            torch.autograd.grad(value(*scores).sum(), scores, create_graph=True)
        return
    inputs = [s.detach().requires_grad_() for s in scores]
    assert torch.autograd.gradgradcheck(value, inputs)
    assert torch.autograd.gradcheck(value, inputs)


EXPECTED = {
    "emissions of two dimensions": "emissions must have 3 dimensions, the last 3, got",
    "emissions of more tags": "emissions must have 3 dimensions, the last 3, got",
    "tags of fewer steps": "tags must have the first two dimensions of emissions",
    "mask of fewer steps": "mask must have the first two dimensions of emissions",
    "mask that begins late": "mask must be on at the first step of every sequence",
    "reduction": "reduction must be none, sum, mean or token_mean, got 'product'",
}


@pytest.mark.parametrize("wrong", EXPECTED)
def test_wrong_arguments_of_the_torch_module_are_named(wrong, torch, rng):
    emissions, tags, mask = arguments(torch, rng)
    change = {
        "emissions of two dimensions": {"emissions": emissions[0]},
        "emissions of more tags": {"emissions": torch.cat([emissions, emissions], dim=2)},
        "tags of fewer steps": {"tags": tags[:, 1:]},
        "mask of fewer steps": {"mask": mask[:, 1:]},
        "mask that begins late": {"mask": mask.flip(1)},
        "reduction": {"reduction": "product"},
    }[wrong]
    with pytest.raises(ValueError, match=EXPECTED[wrong]):
        model_of()(**{"emissions": emissions, "tags": tags, "mask": mask, **change})


def test_there_is_at_least_one_tag(torch):
    from fastkeras.compat.torchcrf import CRF

    with pytest.raises(ValueError, match="num_tags must be at least 1, got 0"):
        CRF(0)


@pytest.mark.parametrize("wrapped", (False, True))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("legacy", (False, True))
def test_a_state_dict_becomes_a_layer(legacy, dtype, wrapped, torch, tmp_path, rng):
    from fastkeras.compat.convert import convert_crf
    from fastkeras.layers import CRF

    model = torch.nn.ModuleDict({"linear": torch.nn.Linear(4, NUM_TAGS), "crf": model_of()})
    state = model.to(getattr(torch, dtype)).state_dict()
    state = {"epoch": 3, "state_dict": state} if wrapped else state
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=not legacy)
    assert convert_crf(tmp_path / "old.pt", tmp_path / "new.weights.h5").source == "pytorch-crf"
    layer = CRF(NUM_TAGS)
    layer.build((None, None, NUM_TAGS))
    keras.saving.load_weights(layer, tmp_path / "new.weights.h5")
    emissions, tags, mask = arguments(torch, rng)
    expected = model["crf"].float()(emissions, tags, mask, "none").detach().numpy()
    arrays = (a.detach().numpy() for a in (emissions, tags, mask))
    own = keras.ops.convert_to_numpy(layer.log_likelihood(*arrays))
    np.testing.assert_allclose(own, expected, rtol=1e-5)


def test_a_pickled_module_is_refused(torch, tmp_path):
    from fastkeras.compat.convert import crf_weights

    torch.save(model_of(), tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"is no HDF5, .keras, .npz or torch file of plain"):
        crf_weights(tmp_path / "old.pt")
