"""Arguments of `Word2Vec` and of its methods that are not allowed, each named in the message."""

import numpy as np
import pytest

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.vocabulary import Vocabulary
from word2vec.topics import QUIET, planted, small


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"window": 0}, "window=0 must be at least 1"),
        ({"vector_size": -3}, "vector_size=-3 must be at least 1"),
        ({"negative": 0}, "negative=0 must be at least 1 with loss='negative_sampling'"),
        ({"objective": "skip"}, "objective='skip' must be one of 'skipgram', 'cbow'"),
        ({"loss": "nce"}, "loss='nce' must be one of 'negative_sampling'"),
        ({"shared_negatives": "batch"}, "shared_negatives='batch' must be one of 'window', None"),
        ({"cbow_gradient": "half"}, "cbow_gradient='half' must be one of 'exact', 'word2vec'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be a finite number, at least 0"),
        ({"sample": float("nan")}, "sample=nan must be a finite number"),
        ({"dtype": "float16"}, "dtype='float16' must be one of 'float32'"),
        ({"max_vocab": 0}, "max_vocab=0 must be None or at least 1"),
        ({"engine": "keras"}, "engine='keras' is none of word2vec"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Word2Vec(**arguments)


def test_wrong_calls_are_named(rng, tmp_path):
    ids, vocabulary, _ = planted(rng, sentences=20)
    model = small()
    with pytest.raises(TypeError, match=r"window=2.5 must be an int"):
        small(window=2.5)
    for call in (lambda: model.vectors, lambda: model.save("x"), lambda: model.resume(ids)):
        with pytest.raises(ValueError, match="no vectors yet: call fit first"):
            call()
    with pytest.raises(ValueError, match="comes min_count=5 times"):
        model.fit(["some words", "come once"], **QUIET)
    with pytest.raises(ValueError, match="vocabulary has no words"):
        model.fit(ids, vocabulary=Vocabulary([], []))
    with pytest.raises(TypeError, match="an encoded corpus has no words: pass vocabulary="):
        model.fit(ids)
    with pytest.raises(ValueError, match=r"array of int64 .* an encoded corpus is int32"):
        model.fit(ids.astype(np.int64), vocabulary=vocabulary)
    with pytest.raises(ValueError, match=r"ids from -1 to [0-9]+; allowed are -1 to 1"):
        model.fit(ids, vocabulary=Vocabulary(["a", "b"], [2, 1]))
    with pytest.raises(TypeError, match="verbose=1 is unknown; allowed are progress"):
        small().fit(ids, vocabulary=vocabulary, **QUIET).resume(ids, verbose=1)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        model.fit(ids, vocabulary=vocabulary, checkpoint=str(tmp_path / "no" / "model"))
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    with pytest.raises(ValueError, match="corpus has 259 positions, that of the training had 260"):
        model.resume(ids[:-1])
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(ValueError, match="is not a Word2Vec model"):
        Word2Vec.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        Word2Vec.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_vocab": 2.5}, "max_vocab=2.5 must be None or at least 1, an int"),
        ({"deterministic": "no"}, "deterministic='no' must be True or False"),
        ({"shrink_windows": None}, "shrink_windows=None must be True or False"),
        ({"learning_rate": "high"}, "learning_rate='high' must be a number"),
        ({"early_stopping": "soon"}, "early_stopping='soon' must be a number"),
        ({"sample": "none"}, "sample='none' must be a number"),
        ({"ns_exponent": True}, "ns_exponent=True must be a number"),
        ({"window": 2**31}, "window=2147483648 must be at most 2147483647"),
        ({"negative": 2**31 - 1}, "negative=2147483647 must be at most 2147483646"),
        ({"window": True}, "window=True must be an int"),
    ],
)
def test_messages_are_ours(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Word2Vec(**arguments)


def test_options_of_fit_are_checked_before_anything_is_read(tmp_path):
    def read(*_):
        raise AssertionError("the corpus was read")

    class Unread(list):
        __iter__ = read

    (tmp_path / "file").touch()
    for options, message in (
        ({"callbacks": print}, r"callbacks=<built-in function print> must be a list of functions"),
        ({"callbacks": [3]}, r"callbacks=\[3\] must be a list of functions"),
        ({"progress": "yes"}, "progress='yes' must be True or False"),
        ({"checkpoint": 3}, "checkpoint=3 must be a path"),
        ({"checkpoint": tmp_path}, "checkpoint: it is a folder"),
        ({"checkpoint": tmp_path / "file" / "model"}, "checkpoint: its folder is a file"),
        ({"checkpoint_minutes": "1"}, "checkpoint_minutes='1' must be a number"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes=-1 must be a finite number, at least 0"),
    ):
        with pytest.raises((TypeError, ValueError, OSError), match=message):
            Word2Vec().fit(Unread(["a b"]), **options)
    model = Word2Vec(4, min_count=1, sample=0, epochs=1).fit(["a b"] * 3, **QUIET)
    with pytest.raises(TypeError, match=r"epochs=1.5 must be an int"):
        model.partial_fit(["a b"], epochs=1.5)
    with pytest.raises(TypeError, match=r"new_words='no' must be True or False"):
        model.partial_fit(["a b"], new_words="no")
    with pytest.raises(TypeError, match=r"vocabulary=\['a'\] must be a .*Vocabulary"):
        model.fit(["a b"], vocabulary=["a"])
