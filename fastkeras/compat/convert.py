"""Convert the weights of other CRFs for `fastkeras.layers.CRF`."""

from __future__ import annotations

import io
import numbers
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastkeras._files import replacing
from fastkeras.compat.checkpoints import read_checkpoint
from fastkeras.training.arguments import flag, number

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import FilePath

TRANSITIONS = {  # source: the names of its transitions
    "tfa": ("chain_kernel",),
    "keras-contrib": ("chain_kernel",),
    "bert4keras": ("trans", "crf_trans"),  # the second in the article's CRF
    "pytorch-crf": ("transitions",),
}
BOUNDARIES = {
    "chain_kernel": ("left_boundary", "right_boundary"),
    "transitions": ("start_transitions", "end_transitions"),
}
SUFFIX = ".weights.h5"


class CRFWeights(NamedTuple):
    """The weights of a linear-chain CRF, float64; None for those that it lacks.

    Attributes:
        source: what the file is from, as in `crf_weights`.
        transitions: shape (num_tags, num_tags).
        start_transitions, end_transitions: shape (num_tags,).
        kernel: shape (channels, num_tags).
        bias: shape (num_tags,).
    """

    source: str  # a key of `TRANSITIONS`
    transitions: np.ndarray
    start_transitions: np.ndarray | None = None
    end_transitions: np.ndarray | None = None
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None


def crf_weights(
    path: FilePath,
    source: str | None = None,
    layer: str | None = None,
    lr_multiplier: float | None = None,
    right_boundary: bool = True,
) -> CRFWeights:
    """Read the CRF in a checkpoint.

    Args:
        path: the file, of any kind that `fastkeras.compat.checkpoints.read_checkpoint` reads.
        source: "tfa" (TensorFlow Addons), "keras-contrib", "bert4keras" (also for the CRF of Su's
            article) or "pytorch-crf"; None to detect it by the names of the arrays.
        layer: if the file has several CRFs, a part of these names that only one of them has.
        lr_multiplier: of bert4keras, by which its transitions are multiplied; None takes that of
            the file, or else 1.
        right_boundary: False leaves out the right boundary of keras-contrib, as its layer did
            whenever there was a mask.

    Returns:
        `CRFWeights`. Those of keras-contrib, which minimises energies, have opposite signs.

    Raises:
        ValueError: the file has no CRF, or several, or one of another source; the message names
            what was found. Or `right_boundary` or `lr_multiplier` is out of range.

    Example:
        >>> import tempfile
        >>> np.savez(path := f"{tempfile.mkdtemp()}/weights.npz", trans=np.eye(2))
        >>> crf_weights(path, lr_multiplier=10).transitions
        array([[10.,  0.],
               [ 0., 10.]])
    """
    if source not in (None, *TRANSITIONS):
        raise ValueError(f"source={source!r} must be one of {', '.join(TRANSITIONS)}")
    flag("right_boundary", right_boundary)
    if lr_multiplier is not None:
        number("lr_multiplier", lr_multiplier, "a number above 0", lambda x: 0 < x < np.inf)
    arrays, config = read_checkpoint(path)
    name = _transitions_of(path, arrays, source, layer)
    folder, _, leaf = name.rpartition("/")
    prefix = f"{folder}/" if folder else ""
    source = source or _source(path, arrays, prefix, leaf)
    scores: dict[str, Any] = {"transitions": arrays[name]}
    for ours, theirs in zip(
        ("start_transitions", "end_transitions"), BOUNDARIES.get(leaf, ()), strict=False
    ):
        scores[ours] = arrays.get(prefix + theirs)
    if leaf == "chain_kernel":
        kernel = _kernel_of(path, arrays, prefix, source, scores["transitions"].shape[1])
        if kernel is not None:
            bias = arrays.get(kernel.removesuffix("kernel") + "bias")
            zeros = np.zeros(arrays[kernel].shape[-1])
            scores |= {"kernel": arrays[kernel], "bias": zeros if bias is None else bias}
    _check_shapes(path, name, scores)
    if source == "keras-contrib":
        activation = _config_of(config, "learn_mode").get("activation", "linear")
        if activation != "linear":
            raise ValueError(
                f"{path}: the CRF of keras-contrib has activation={activation!r} after its kernel, "
                "which fastkeras.layers.CRF cannot have; give it a Dense layer of its own"
            )
        if scores.get("end_transitions") is not None and not right_boundary:
            scores["end_transitions"] = np.zeros_like(scores["end_transitions"])
    if lr_multiplier is None:
        lr_multiplier = _config_of(config, "lr_multiplier").get("lr_multiplier", 1)
    if not isinstance(lr_multiplier, numbers.Real) or not 0 < float(lr_multiplier) < np.inf:
        raise ValueError(f"{path}: lr_multiplier={lr_multiplier!r} must be a number above 0")
    factor = {"keras-contrib": -1, "bert4keras": lr_multiplier}.get(source, 1)
    scores = {n: None if s is None else s.astype(float) * factor for n, s in scores.items()}
    return CRFWeights(source, **scores)


def convert_crf(
    old: FilePath,
    new: FilePath,
    source: str | None = None,
    layer: str | None = None,
    lr_multiplier: float | None = None,
    right_boundary: bool = True,
) -> CRFWeights:
    """Write the CRF of another library as the weights of a `fastkeras.layers.CRF`.

    Args:
        old: the checkpoint.
        new: the file to write, `*.weights.h5`; one that exists is replaced.
        source, layer, lr_multiplier, right_boundary: as in `crf_weights`.

    Returns:
        The `CRFWeights`. `keras.saving.load_weights(crf, new)` loads the file into a built layer
        that has a kernel and boundaries if these weights have, and a learning_rate_multiplier of 1.

    Raises:
        ValueError: as `crf_weights`, and for another suffix.
        ImportError: h5py, which comes with Keras, is missing.

    Example:
        >>> import tempfile
        >>> import keras
        >>> from fastkeras.layers import CRF
        >>> folder = tempfile.mkdtemp()
        >>> np.savez(f"{folder}/old.npz", trans=np.eye(2))
        >>> convert_crf(f"{folder}/old.npz", f"{folder}/new.weights.h5").source
        'bert4keras'
        >>> crf = CRF(2, use_boundaries=False)
        >>> crf.build((None, None, 2))
        >>> keras.saving.load_weights(crf, f"{folder}/new.weights.h5")
        >>> keras.ops.convert_to_numpy(crf.transitions)
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    if not str(new).endswith(SUFFIX):
        raise ValueError(f"the new file must be named *{SUFFIX}, got {new}")
    weights = crf_weights(old, source, layer, lr_multiplier, right_boundary)
    try:
        import h5py
    except ImportError as error:
        raise ImportError("writing the weights takes h5py: pip install h5py") from error
    in_order = (weights.kernel, weights.bias, *weights[1:4])  # the layer's order
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("vars")
        for i, array in enumerate(array for array in in_order if array is not None):
            group[str(i)] = array.astype(np.float32)
    with replacing(new) as file:
        file.write(content.getvalue())
    return weights


def _transitions_of(path, arrays, source, layer):
    names = TRANSITIONS[source] if source else sum(TRANSITIONS.values(), ())
    found = [
        name
        for name, array in arrays.items()
        if name.rpartition("/")[2] in names and (layer is None or layer in name.split("/"))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} has several CRFs, of which --layer names one: {_list(found)}")
    where = f" under a layer {layer!r}" if layer else ""
    raise ValueError(
        f"{path} has no array named {' or '.join(dict.fromkeys(names))}{where}; it has "
        + _list([f"{name} {array.shape}" for name, array in arrays.items()])
    )


def _source(path, arrays, prefix, leaf):
    if leaf != "chain_kernel":
        return next(source for source, names in TRANSITIONS.items() if leaf in names)
    if not prefix:
        raise ValueError(
            f"{path} has an array named chain_kernel and no names of layers, so it does not tell "
            "whether it is of TensorFlow Addons or of keras-contrib, which has the other sign: "
            "give --from tfa or --from keras-contrib"
        )
    # in keras-contrib the kernel is a weight of the CRF, in TensorFlow Addons a layer inside it
    return "keras-contrib" if f"{prefix}kernel" in arrays else "tfa"


def _kernel_of(path, arrays, prefix, source, num_tags):
    if f"{prefix}kernel" in arrays:
        return f"{prefix}kernel"
    if source == "keras-contrib":
        raise ValueError(
            f"{path} has no array named {prefix}kernel, which a CRF of keras-contrib always has; "
            f"it has {_list(arrays)}"
        )
    found = [
        name
        for name, array in arrays.items()
        if name.startswith(prefix) and name.endswith("/kernel") and array.shape[1:] == (num_tags,)
    ]
    if len(found) > 1:
        raise ValueError(f"{path}: each of these may be the kernel of the CRF: {_list(found)}")
    return found[0] if found else None


def _check_shapes(path, name, scores):
    tags = len(scores["transitions"]) if scores["transitions"].ndim else 0
    boundaries = [scores.get(f"{which}_transitions") is not None for which in ("start", "end")]
    leaf = name.rpartition("/")[2]
    if any(boundaries) != all(boundaries) or (leaf == "transitions" and not all(boundaries)):
        raise ValueError(
            f"{path}: beside {name} there must be {' and '.join(BOUNDARIES[leaf])}, which a CRF of "
            "this library has"
        )
    channels = len(scores["kernel"]) if "kernel" in scores else 0
    expected = {"transitions": (tags, tags), "kernel": (channels, tags)}
    for ours, scores_of_name in scores.items():
        shape = expected.get(ours, (tags,))
        if scores_of_name is not None and scores_of_name.shape != shape:
            raise ValueError(
                f"{path}: the {ours} of {name} must have shape {shape}, got {scores_of_name.shape}"
            )
        if scores_of_name is not None and np.isnan(scores_of_name).any():
            raise ValueError(f"{path}: the {ours} of {name} must be numbers, got NaN")


def _config_of(config, key):
    """The configuration of the layer that has this key; {} if none has."""
    if isinstance(config, dict) and key in config:
        return config
    parts = config.values() if isinstance(config, dict) else config  # a list
    inner = (_config_of(part, key) for part in parts if isinstance(part, (dict, list)))
    return next((found for found in inner if found), {})


def _list(names, limit=12):
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "no arrays") + more
