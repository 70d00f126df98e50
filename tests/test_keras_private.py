"""What fastkeras uses of Keras' private modules is all in one file, and works as expected."""

from pathlib import Path

import pytest

keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras import ops  # noqa: E402

import fastkeras  # noqa: E402
from fastkeras import _keras_private as private  # noqa: E402

PACKAGE = Path(fastkeras.__file__).parent


def test_no_other_file_imports_what_keras_keeps_private():
    found = {path for path in PACKAGE.rglob("*.py") if "from keras.src" in path.read_text("utf-8")}
    assert found == {PACKAGE / "_keras_private.py"}


def test_masks_and_attributes_stay_with_a_tensor():
    tensor, mask = ops.zeros((1, 2)), ops.ones((1, 2), "bool")
    private.set_keras_mask(tensor, mask)
    private.set_tensor_attr(tensor, "mark", 3)
    assert private.get_keras_mask(tensor) is mask
    assert private.get_tensor_attr(tensor, "mark") == 3
    assert private.get_tensor_attr(ops.zeros(1), "mark") is None


def test_losses_are_reduced_as_keras_reduces_them():
    losses, weights = ops.convert_to_tensor([1.0, 3.0]), ops.convert_to_tensor([1.0, 2.0])
    reduced = private.reduce_weighted_values(losses, sample_weight=weights, reduction="sum")
    assert float(reduced) == 7


def test_a_training_call_is_found_from_inside_with_its_model():
    seen = []

    def loss(y_true, y_pred):
        seen.append((private.training_call(), private.in_symbolic_scope(), private.is_exporting()))
        return ops.mean(y_pred, axis=-1)

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", loss=loss, metrics=["mae"])
    model.fit(np.ones((2, 1)), np.zeros((2, 1), int), class_weight={0: 2.0}, verbose=0)
    (found, class_weight), *_ = seen[-1]
    assert found is model
    assert class_weight == {0: 2.0}
    assert not seen[-1][2]
    assert private.metric_names(found) == {"mae"}
    assert private.training_call() == (None, None)
    assert private.get_stateless_scope() is None
