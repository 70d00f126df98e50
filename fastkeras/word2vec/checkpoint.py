"""A model in one file: both matrices, the vocabulary, the arguments, the place in the schedule."""

import json

import numpy as np

from fastkeras._files import replacing

FORMAT = 1


def save(path, config, state, words, counts, embeddings):
    """Write a model; whoever reads `path` meanwhile finds the old file or the new one, whole.

    Args:
        path: of the file.
        config, state: dicts that JSON can tell.
        words, counts: of the vocabulary.
        embeddings: the input matrix and the output matrix, float32.
    """
    with replacing(path) as file:
        np.savez(
            file,
            about=_bytes({"format": FORMAT, "config": config, "state": state}),
            words=_bytes(list(words)),
            counts=np.asarray(counts, np.int64),
            input_embeddings=embeddings[0],
            output_embeddings=embeddings[1],
        )


def load(path):
    """Read a model.

    Returns:
        (config, state, words, counts, (input matrix, output matrix)).

    Raises:
        ValueError: the file is not such a model, or of a newer version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about, words = (json.loads(bytes(file[name])) for name in ("about", "words"))
            arrays = [file[f"{name}_embeddings"] for name in ("input", "output")]
            counts = file["counts"]
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"path={str(path)!r} is not a Word2Vec model: {error}") from error
    if about["format"] != FORMAT:
        raise ValueError(
            f"path={str(path)!r} has format {about['format']}, this version reads {FORMAT}"
        )
    return about["config"], about["state"], words, counts, arrays


def _bytes(value):
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
