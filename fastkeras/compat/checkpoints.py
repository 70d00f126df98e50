"""Read the arrays of a checkpoint of any kind, by name."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from fastkeras.typing import FilePath

HDF5, PICKLE = b"\x89HDF\r\n\x1a\n", b"\x80"


class Checkpoint(NamedTuple):
    """What a file holds, without what belongs to an optimizer.

    Attributes:
        arrays: NumPy arrays of at most two dimensions, by names with "/" between their parts.
        config: of the Keras model, {} if the file has none.
    """

    arrays: dict[str, np.ndarray]
    config: dict[str, Any]


def read_checkpoint(path: FilePath) -> Checkpoint:
    """Read the arrays of at most two dimensions.

    Args:
        path: HDF5 of Keras 2 or 3 (.h5, .hdf5, .weights.h5), a .keras or .npz file, a file of
            torch.save, or the prefix of a TensorFlow checkpoint. The content decides, not the
            suffix.

    Returns:
        A `Checkpoint`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package that reads this kind of file is not installed.
        ValueError: the file is of none of these kinds, or is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, trans=np.zeros((2, 2)))
        >>> read_checkpoint(path).arrays["trans"].shape
        (2, 2)
    """
    path = Path(path)
    if path.is_dir() or path.match("variables/variables"):
        raise ValueError(
            f"{path} is no file but a folder or part of one: a SavedModel does not name all its "
            "weights; load it where it was made and write them, model.save_weights('weights.h5')"
        )
    is_of_tensorflow = Path(f"{path}.index").exists()
    start = b""
    if not is_of_tensorflow:
        with open(path, "rb") as file:
            start = file.read(len(HDF5))
    try:
        if is_of_tensorflow:
            return _checkpoint(_tensorflow_arrays(str(path)))
        if start == HDF5:
            return _keras_hdf5(path)
        if start.startswith(PICKLE):
            return _checkpoint(_torch_arrays(path))
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "model.weights.h5" in names:
                config = json.loads(archive.read("config.json"))
                return _keras_hdf5(io.BytesIO(archive.read("model.weights.h5")), config)
        if any(name.endswith("data.pkl") for name in names):
            return _checkpoint(_torch_arrays(path))
        with np.load(path) as file:
            return _checkpoint(dict(file))
    except ImportError:
        raise
    except Exception as error:  # a damaged file can raise anything in these readers
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} is no HDF5, .keras, .npz or torch file of plain arrays: {reason}"
        ) from error


def _checkpoint(arrays, config=None):
    named = {}
    for name, array in arrays.items():
        name = name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").removesuffix(":0")
        if "optimizer" not in name.lower() and np.ndim(array) <= 2:
            named[name] = np.asarray(array)
    return Checkpoint(_by_name(named), config if isinstance(config, dict) else {})


def _by_name(arrays):
    """Name the arrays of a CRF that Keras has only numbered: crf/vars/0 is crf/chain_kernel."""
    arrays = dict(arrays)
    for name in [name for name in arrays if name.endswith("vars/0")]:
        layer = name.removesuffix("vars/0")
        own = [arrays[n] for n in (f"{layer}vars/{i}" for i in range(4)) if n in arrays]
        shapes = [array.shape for array in own]
        tags = shapes[0][0] if shapes[0] else 0  # a layer may have a scalar
        if not re.search("(crf|conditional_random_field)[^/]*/$", layer) or shapes not in (
            [(tags, tags)],
            [(tags, tags), (tags,), (tags,)],
        ):
            continue
        for i, leaf in enumerate(("chain_kernel", "left_boundary", "right_boundary")[: len(own)]):
            arrays[layer + leaf] = arrays.pop(f"{layer}vars/{i}")
        for i, leaf in enumerate(("kernel", "bias")):
            dense = f"{layer}_dense_layer/"
            if f"{dense}vars/{i}" in arrays:
                arrays[dense + leaf] = arrays.pop(f"{dense}vars/{i}")
    return arrays


def _keras_hdf5(path, config=None):
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading an HDF5 file takes h5py: pip install h5py") from error
    arrays = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset) and item.ndim <= 2 and item.dtype.kind == "f":
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        config = config or json.loads(file.attrs.get("model_config", "{}"))
    return _checkpoint(arrays, config)


def _torch_arrays(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} looks like a file of torch, which is not installed: pip install torch, or "
            "write it elsewhere by numpy.savez(path, **{k: v.numpy() for k, v in state.items()})"
        ) from error
    return dict(_tensors(torch.load(path, map_location="cpu", weights_only=True), ""))


def _tensors(state, prefix):
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{name}/")
        elif hasattr(value, "detach") and value.is_floating_point() and value.ndim <= 2:
            yield f"{prefix}{name}".replace(".", "/"), value.detach().double().numpy()


def _tensorflow_arrays(prefix):
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            f"{prefix} is a checkpoint of TensorFlow, which is not installed: "
            "pip install tensorflow"
        ) from error
    reader = tf.train.load_checkpoint(prefix)
    ranks = {name: len(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    dtypes = reader.get_variable_to_dtype_map()
    return {
        name: reader.get_tensor(name)
        for name, rank in ranks.items()
        if rank <= 2 and dtypes[name].is_floating
    }
