"""The adapters on the backend of the environment, and weights of pytorch-crf in a layer."""

import keras
import numpy as np
import pytest

from backends.test_torchcrf import MASK, NUM_TAGS, STEPS, arguments, model_of
from fastkeras.compat import bert4keras, crf_keras

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
    return pytest.importorskip("torch", reason="the module is of torch")


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
