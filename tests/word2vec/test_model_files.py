"""Models from files: as saved, or an error that says what is wrong, and never a crash later."""

import copy
import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.word2vec import Windows, Word2Vec
from fastkeras.word2vec.vectors import Vectors

CORPUS = ["the cat sat on the mat", "the dog sat on the cat", "a dog a cat"] * 4
OPTIONS = {"vector_size": 6, "min_count": 1, "sample": 0, "epochs": 2, "num_threads": 1}
FORMS = {
    "plain": {},
    "subwords": {"subwords": True, "buckets": 50},
    "tree": {"loss": "hierarchical_softmax", "objective": "cbow"},
}


@pytest.fixture(scope="module", params=FORMS)
def saved(request, tmp_path_factory):
    """A model that has trained one epoch of two, and the members of its file."""
    path = tmp_path_factory.mktemp("models") / "model"
    model = Word2Vec(**OPTIONS, **FORMS[request.param])
    model.fit(CORPUS, callbacks=[lambda status: True], progress=False).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return model, path.read_bytes(), members


def write(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def array(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def text(value):
    return array(np.frombuffer(json.dumps(value).encode(), np.uint8))


def array_in(content):
    return np.load(io.BytesIO(content))


def about_of(members):
    return json.loads(array_in(members["about.npy"]).tobytes())


def refuses(path):
    with pytest.raises(ValueError) as raised:
        Word2Vec.load(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed_or_does_not_matter(saved, tmp_path_factory, at, bit):
    model, good, _ = saved
    changed = bytearray(good)
    changed[int(at * len(good))] ^= 1 << bit
    path = tmp_path_factory.mktemp("changed") / "model"
    path.write_bytes(changed)
    try:
        loaded = Word2Vec.load(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    np.testing.assert_array_equal(loaded.input_embeddings, model.input_embeddings)
    np.testing.assert_array_equal(loaded.output_embeddings, model.output_embeddings)
    assert loaded.config == model.config and loaded._state == model._state


def test_a_file_that_ends_too_early(saved, tmp_path):
    _, good, _ = saved
    path = tmp_path / "model"
    for end in range(0, len(good), 37):
        path.write_bytes(good[:end])
        refuses(path)


@pytest.mark.parametrize("name", ["about", "words", "counts", "input_embeddings"])
def test_members_of_another_kind(saved, tmp_path, name):
    members, path = saved[2], tmp_path / "model"
    good = array_in(members[f"{name}.npy"])
    for bad in (
        good.astype("f8"),
        good[None],
        good[:0],
        np.zeros(0),
        np.array(["text"]),
        np.array([None, {}], object),
    ):
        write(path, {**members, f"{name}.npy": array(bad)})
        assert name.partition("_")[0] in refuses(path) or "matrices of shapes" in refuses(path)
    lacking = {other: content for other, content in members.items() if other != f"{name}.npy"}
    write(path, lacking)
    assert name in refuses(path)
    write(path, {**members, f"{name}.npy": members[f"{name}.npy"][:-3]})
    refuses(path)
    write(path, {**members, f"{name}.npy": b"no array"})
    refuses(path)


def test_matrices_of_other_shapes_and_numbers(saved, tmp_path):
    _, _, members = saved
    path = tmp_path / "model"
    for name in ("input_embeddings", "output_embeddings"):
        good = array_in(members[f"{name}.npy"])
        for bad in (good[:2], good[:, :-1], np.pad(good, ((0, 1), (0, 0)))):
            write(path, {**members, f"{name}.npy": array(bad)})
            message = refuses(path)
            assert "matrices of shapes" in message and str(bad.shape) in message
        for number in (np.nan, np.inf):
            bad = good.copy()
            bad[2, 1] = number
            write(path, {**members, f"{name}.npy": array(bad)})
            assert f"row 2 of {name} has nan or inf" in refuses(path)


STATES = [
    {"epoch": -1},
    {"epoch": 3},
    {"epoch": 1.5},
    {"epoch": True},
    {"epoch": None},
    {"epochs": -2},
    {"first_epoch": "0"},
    {"position": 10**6},
    {"position": -1},
    {"predictions": 2**63},
    {"corpus_size": -5},
    {"loss": float("nan")},
    {"loss": "3"},
    {"seconds": float("inf")},
    {"schedule": []},
    {"schedule": {"learning_rate": 0.1, "end_learning_rate": 0.1}},
    {"schedule": {"learning_rate": float("nan"), "end_learning_rate": 0.1, "begin": 0}},
    {"schedule": {"learning_rate": 0.1, "end_learning_rate": "0.1", "begin": 0}},
    {"schedule": {"learning_rate": 0.1, "end_learning_rate": 0.1, "begin": 0.5}},
    {"history": []},
    {"history": {"loss": [1.0]}},
    {"history": {"loss": ["x"], "words_per_second": []}},
    {"more": 3},
]
CONFIGS = [
    {"vector_size": 7},
    {"vector_size": 0},
    {"vector_size": "6"},
    {"window": 2.5},
    {"window": 2**31},
    {"negative": 2**31},
    {"loss": "nce"},
    {"learning_rate": float("nan")},
    {"sample": "x"},
    {"deterministic": "no"},
    {"early_stopping": "soon"},
    {"engine": "native"},
    {"more": 1},
]


@pytest.mark.parametrize("changes", STATES)
def test_states_that_cannot_be(saved, tmp_path, changes):
    about, path = about_of(saved[2]), tmp_path / "model"
    about["state"].update(changes)
    write(path, {**saved[2], "about.npy": text(about)})
    assert "state" in refuses(path)
    for bad in (None, [], "state"):
        write(path, {**saved[2], "about.npy": text({**about, "state": bad})})
        assert "state must be a dict" in refuses(path)


@pytest.mark.parametrize("changes", CONFIGS)
def test_arguments_that_cannot_be(saved, tmp_path, changes):
    about, path = about_of(saved[2]), tmp_path / "model"
    about["config"].update(changes)
    write(path, {**saved[2], "about.npy": text(about)})
    message = refuses(path)
    assert next(iter(changes)) in message or "matrices of shapes" in message


def test_words_and_counts_that_cannot_be(saved, tmp_path):
    members, path = saved[2], tmp_path / "model"
    words = json.loads(array_in(members["words.npy"]).tobytes())
    counts = array_in(members["counts.npy"])
    for bad in (
        [*words[:-1], words[0]],
        words[:-1],
        [*words[:-1], 3],
        {},
        "text",
        [[]] * len(words),
    ):
        write(path, {**members, "words.npy": text(bad)})
        refuses(path)
    for bad in (counts[:-1], counts[::-1].copy(), counts - 2 * counts.max(), counts.astype("f4")):
        write(path, {**members, "counts.npy": array(bad)})
        assert "counts" in refuses(path)
    about = about_of(members)
    for bad in ({**about, "format": 2}, {**about, "format": None}, {}, [], 3):
        write(path, {**members, "about.npy": text(bad)})
        refuses(path)
    for bad in (b"", b"{", b"[" * 10**5, b"\xff"):
        write(path, {**members, "about.npy": array(np.frombuffer(bad, np.uint8))})
        assert "about" in refuses(path)


def test_archives_of_others(saved, tmp_path):
    members, path = saved[2], tmp_path / "model"
    bomb = array(np.zeros((10**6, 6), np.float32))
    write(path, {**members, "input_embeddings.npy": bomb}, zipfile.ZIP_DEFLATED)
    assert "is compressed" in refuses(path)
    huge = members["input_embeddings.npy"].replace(b"'shape': (", b"'shape': (9999999999999, ", 1)
    write(path, {**members, "input_embeddings.npy": huge})
    assert "input_embeddings" in refuses(path)
    np.savez(path.with_suffix(".npz"), a=1)
    assert "about" in refuses(path.with_suffix(".npz"))
    with zipfile.ZipFile(path, "w"):
        pass
    refuses(path)


def test_models_and_vectors_are_pickled_and_copied(saved):
    model = saved[0]
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert again.vectors.words == model.vectors.words
        np.testing.assert_array_equal(again.input_embeddings, model.input_embeddings)
        assert not np.shares_memory(again.input_embeddings, model.input_embeddings)
        assert again._matrices[0].ctypes.data % 64 == 0
        state = copy.deepcopy(model._state)
        again.resume(CORPUS, progress=False)
        assert again._engine is model._engine and len(again.history["loss"]) == 2
        assert model._state == state
    untrained = pickle.loads(pickle.dumps(Word2Vec(window=3)))
    assert untrained.config["window"] == 3 and untrained.vocabulary is None


def test_vectors_and_windows_are_pickled_and_copied(saved, tmp_path):
    vectors = saved[0].vectors
    vectors.save(tmp_path / "v.npy")
    for one in (vectors, Vectors.load(tmp_path / "v.npy")):
        for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
            assert again.words == one.words
            np.testing.assert_array_equal(again.matrix, one.matrix)
            assert again.most_similar("cat") == one.most_similar("cat")
    windows = Windows(np.int32([0, 1, 2, -1]), saved[0].vocabulary, sample=0, batch_size=2)
    for again in (pickle.loads(pickle.dumps(windows)), copy.deepcopy(windows)):
        for one, other in zip(windows[0][0], again[0][0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_message_names_what_is_wrong(saved, tmp_path):
    (tmp_path / "text").write_text("not a model")
    pattern = re.escape(f"path={str(tmp_path / 'text')!r} is not a Word2Vec model: ")
    assert re.match(pattern, refuses(tmp_path / "text"))


def test_a_model_with_nan_is_not_written_over_a_good_one(saved, tmp_path):
    model, path = copy.deepcopy(saved[0]), tmp_path / "model"
    model.save(path)
    good = path.read_bytes()
    model.output_embeddings[2, 3] = np.nan
    with pytest.raises(FloatingPointError, match="was not written: row 2 of output_embeddings"):
        model.save(path)
    assert path.read_bytes() == good


def test_a_lack_of_memory_leaves_the_model_as_it_was(saved, monkeypatch):
    from fastkeras.word2vec.training import growth, matrices

    def fail(*_):
        raise MemoryError

    model = copy.deepcopy(saved[0])
    monkeypatch.setattr(matrices, "new", fail)
    monkeypatch.setattr(growth, "grown", fail)
    with pytest.raises(MemoryError):
        model.fit(["other words come here"], progress=False)
    if model.config["loss"] != "hierarchical_softmax":
        with pytest.raises(MemoryError):
            model.partial_fit(["other words come here"], progress=False)
    monkeypatch.undo()
    assert model.vectors.words == saved[0].vectors.words
    model.resume(CORPUS, progress=False)
