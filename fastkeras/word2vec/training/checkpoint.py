"""A model in one file: both matrices, the vocabulary, the arguments, the place in the schedule."""

import json
import math
import struct
import zipfile

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import file_path
from fastkeras.word2vec.training.loop import SCHEDULE
from fastkeras.word2vec.vectors import array_files

FORMAT = 1


def save(path, about, words, counts, embeddings, **members):
    """Write a model; who reads `path` meanwhile finds either the old file or the new one, whole.

    Args:
        path: of the file.
        about: dict that can be written as JSON: `config`, `state`, and more.
        words, counts: of the vocabulary.
        embeddings: the input matrix and the output matrix, float32.
        **members: further arrays.

    Raises:
        FloatingPointError: a matrix has nan or inf, which `load` would refuse.
        OSError: the file cannot be written.
    """
    arrays = dict(zip(("input_embeddings", "output_embeddings"), embeddings, strict=True)) | members
    for name, matrix in arrays.items():
        row = _row_not_finite(matrix) if matrix.ndim == 2 else None
        if row is not None:
            raise FloatingPointError(
                f"{path} was not written: row {row} of {name} has nan or inf, as a learning rate "
                "that is too large leaves them"
            )
    with replacing(path) as file:
        np.savez(
            file,
            about=as_bytes({"format": FORMAT, **about}),
            words=as_bytes(list(words)),
            counts=np.asarray(counts, np.int64),
            **arrays,
        )


def load(path, members):
    """Read a model; `members` has dtype and dimensions of its further arrays by name.

    Returns:
        (about, words, counts, (input matrix, output matrix), arrays). The state and the types of
        the arrays have been checked. The caller checks that words, counts and matrices fit the
        arguments.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a model, is damaged, or is of a newer version. However
            wrong its headers, memory use stays in proportion to the size of the file.
    """
    with open(file_path("path", path), "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                types = {**_TYPES, **members}
                arrays = {name: _member(archive, name, types[name], path) for name in types}
        # Which error a damaged archive raises depends on where the damage is.
        except (
            zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, OverflowError,
            RuntimeError, UnicodeDecodeError, struct.error,
        ) as error:  # fmt: skip
            kind = "Doc2Vec" if members else "Word2Vec"
            raise ValueError(f"path={str(path)!r} is not a {kind} model: {error}") from error
    about, words = (from_json(arrays[name], f"{path}: {name}") for name in ("about", "words"))
    of_about = {"format", "config", "state"}
    if not isinstance(about, dict) or not of_about <= about.keys():
        raise ValueError(f"path={str(path)!r} is not a Word2Vec model: it lacks {sorted(of_about)}")
    if about["format"] != FORMAT:
        raise ValueError(
            f"path={str(path)!r} has format {about['format']!r}, this version reads {FORMAT}"
        )
    if not isinstance(about["config"], dict):
        raise ValueError(f"{path}: config is {about['config']!r}; it must be a dict of arguments")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{path}: words must be a list of strings")
    _check_state(about["state"], path)
    matrices = [arrays["input_embeddings"], arrays["output_embeddings"]]
    for name, (dtype, _) in types.items():
        row = _row_not_finite(arrays[name]) if dtype == np.float32 else None
        if row is not None:
            raise ValueError(f"{path}: row {row} of {name} has nan or inf")
    return about, words, arrays["counts"], matrices, {name: arrays[name] for name in members}


_ROWS = 1 << 14  # checked at a time
_TYPES = {  # of an archive's members: dtype and dimensions
    "about": (np.uint8, 1),
    "words": (np.uint8, 1),
    "counts": (np.int64, 1),
    "input_embeddings": (np.float32, 2),
    "output_embeddings": (np.float32, 2),
}


def _member(archive, name, type_, path):
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{path}: {name} is compressed, which `Word2Vec.save` does not do")
    dtype, dimensions = type_
    with archive.open(info) as file:
        array = array_files.read_array(file, info.file_size, f"{path}: {name}")
    if array.dtype != dtype or array.ndim != dimensions:
        raise ValueError(
            f"{path}: {name} is an array of {array.dtype} with {array.ndim} dimensions; it must "
            f"be of {np.dtype(dtype)} with {dimensions}"
        )
    return array


def _row_not_finite(matrix):
    for begin in range(0, len(matrix), _ROWS):
        finite = np.isfinite(matrix[begin : begin + _ROWS]).all(1)
        if not finite.all():
            return begin + int(finite.argmin())
    return None


def from_json(array, place):
    """Return what `as_bytes` has written; ValueError names the place."""
    try:
        return json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}") from None


def _check_state(state, path):
    """Raise ValueError if this is no place in a schedule."""
    whole = ("epoch", "epochs", "first_epoch", "position", "predictions", "corpus_size")
    allowed = {*whole, "loss", "seconds", "history", "schedule"}
    if not isinstance(state, dict) or state.keys() != allowed:
        raise ValueError(f"{path}: state must be a dict of {', '.join(sorted(allowed))}")
    for name in whole:
        if not _is_whole(state[name]):
            raise ValueError(f"{path}: state: {name}={state[name]!r} must be an int, at least 0")
    for name in ("loss", "seconds"):
        if not _is_amount(state[name]):
            raise ValueError(f"{path}: state: {name}={state[name]!r} must be a finite number")
    for name, highest in {"epoch": state["epochs"], "position": state["corpus_size"]}.items():
        if state[name] > highest:
            raise ValueError(f"{path}: state: {name}={state[name]} must be at most {highest}")
    schedule = state["schedule"]
    if not isinstance(schedule, dict) or schedule.keys() != {*SCHEDULE}:
        raise ValueError(f"{path}: state: schedule must be a dict of {', '.join(SCHEDULE)}")
    if not all(map(_is_amount, schedule.values())) or not _is_whole(schedule["begin"]):
        raise ValueError(
            f"{path}: state: schedule={schedule!r} must have finite rates and an int as begin"
        )
    history = state["history"]
    if not isinstance(history, dict) or history.keys() != {"loss", "words_per_second"}:
        raise ValueError(f"{path}: state: history must be a dict of loss and words_per_second")
    for name, values in history.items():
        if not isinstance(values, list) or not all(map(_is_amount, values)):
            raise ValueError(f"{path}: state: history of {name} must be a list of finite numbers")


def _is_whole(value):
    return type(value) is int and 0 <= value < 2**63


def _is_amount(value):
    return type(value) in (int, float) and 0 <= value < math.inf


def as_bytes(value):
    """Return JSON as an array of bytes."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
