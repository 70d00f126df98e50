"""Batches of windows: the windows of the reference, each once, in random order."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.layers import SkipGram
from fastkeras.word2vec import windows as module
from fastkeras.word2vec._engines import reference
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import Settings, tables_of
from fastkeras.word2vec.vocabulary import Vocabulary, build
from fastkeras.word2vec.windows import Windows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WORDS = 30
COUNTS = np.arange(3 * WORDS, 0, -3)
VOCABULARY = Vocabulary([f"word{i}" for i in range(WORDS)], COUNTS)


def some_ids(seed, size=400):
    """Return sentences of any length, also empty ones; the last one may lack its end."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, WORDS, size).astype(np.int32)
    ids[rng.random(size) < rng.choice([0, 0.05, 0.5])] = -1
    return ids


def expected(ids, window, sample, shrink, seed, epoch):
    """Return the windows of the reference: a list of (center, contexts) in the corpus' order."""
    settings = Settings(window=window, shrink_windows=shrink, negative=1)
    tables = tables_of(COUNTS, settings, sample)
    key = sampling.key_of(seed, epoch)
    found = reference.windows(ids, 0, len(ids), tables, settings, key)
    return [(int(center), contexts.tolist()) for _, center, contexts in found if len(contexts)]


def examples_of(windows):
    """Return all examples of an epoch, without those that only fill up the last batch."""
    batches = [batch for (batch,) in (windows[i] for i in range(len(windows)))]
    assert all(len(part) == windows.batch_size for batch in batches for part in batch)
    assert all(part.dtype == np.int32 for batch in batches for part in batch)
    parts = [np.concatenate(part) for part in zip(*batches, strict=True)]
    n = windows.num_examples
    filled = len(parts[0]) - n
    assert 0 <= filled < windows.batch_size
    for part in parts:
        np.testing.assert_array_equal(part[n:], np.resize(part[:n], (filled, *part.shape[1:])))
    return [part[:n] for part in parts]


@given(
    seed=st.integers(0, 99),
    window=st.integers(1, 6),
    sample=st.sampled_from([0, 0.01]),
    shrink=st.booleans(),
    epoch=st.integers(0, 3),
    batch_size=st.sampled_from([1, 7, 64, 9999]),
    shuffle=st.booleans(),
)
def test_examples_are_those_of_the_reference(
    seed, window, sample, shrink, epoch, batch_size, shuffle
):
    ids = some_ids(seed)
    wanted = expected(ids, window, sample, shrink, seed, epoch)
    arguments = (window, sample, shrink, batch_size, shuffle, seed)
    usual, module.POSITIONS = module.POSITIONS, 64  # several blocks
    try:
        made = [Windows(ids, VOCABULARY, o, *arguments) for o in ("skipgram", "cbow")]
        for windows in made:
            windows.epoch = epoch
            windows._length = -(-windows.num_examples // batch_size)
        pairs, (centers, contexts) = (examples_of(windows) for windows in made)
    finally:
        module.POSITIONS = usual
    assert contexts.shape[1] == 2 * window
    order = (lambda x: x) if not shuffle else sorted
    found = [
        (c, [w for w in near if w >= 0])
        for c, near in zip(centers.tolist(), contexts.tolist(), strict=True)
    ]
    assert order(found) == order(wanted)
    wanted = [(center, word) for center, words in wanted for word in words]
    assert order(list(zip(*(part.tolist() for part in pairs), strict=True))) == order(wanted)


def test_contexts_stand_where_they_are_in_the_text():
    ids = np.int32([0, 1, 2, -1, 3, 4, -1])
    windows = Windows(ids, VOCABULARY, "cbow", 2, 0, False, batch_size=5, shuffle=False)
    ((centers, contexts),) = windows[0]
    assert centers.tolist() == [0, 1, 2, 3, 4]
    assert contexts.tolist() == [
        [-1, -1, 1, 2],
        [-1, 0, 2, -1],
        [0, 1, -1, -1],
        [-1, -1, 4, -1],
        [-1, 3, -1, -1],
    ]


def test_epochs_differ_and_seeds_repeat():
    def epochs(seed):
        windows = Windows(some_ids(1), VOCABULARY, sample=0.01, batch_size=128, seed=seed)
        for _ in range(2):
            yield np.stack(windows[0][0])
            windows.on_epoch_end()

    first, again, other = (list(epochs(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    assert (first[0] != other[0]).any()


def test_shuffling_moves_centers_far():
    ids = np.arange(WORDS, dtype=np.int32)
    windows = Windows(ids, VOCABULARY, "cbow", 1, 0, batch_size=WORDS)
    ((centers, _),) = windows[0]
    assert sorted(centers.tolist()) == list(range(WORDS))
    assert np.abs(np.diff(centers)).mean() > 4


def test_a_corpus_of_text_is_encoded(tmp_path):
    (tmp_path / "corpus.txt").write_text("the cat sat\n\non the mat the cat\nalone\n")
    vocabulary = build(tmp_path / "corpus.txt", min_count=1)
    windows = Windows(tmp_path / "corpus.txt", vocabulary, window=1, sample=0, batch_size=12)
    assert windows.num_examples == 12
    centers, contexts = ([vocabulary.words[i] for i in part] for part in windows[0][0])
    assert ("the", "cat") in zip(centers, contexts, strict=True)
    assert "alone" not in centers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "glove"}, "objective='glove' must be one of"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"sample": -1}, "sample=-1 must be at least 0"),
        ({"corpus": np.int32([0, -1, 1, -1])}, "no word that stays"),
        ({"corpus": np.int32([WORDS])}, f"must have ids, below {WORDS}"),
        ({"corpus": np.int32([])}, "must have ids"),
        ({"corpus": np.int32([[1]])}, r"shape \(1, 1\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Windows(**{"corpus": some_ids(1), "vocabulary": VOCABULARY, "sample": 0, **arguments})


def test_no_batch_is_beyond_the_end():
    windows = Windows(some_ids(1), VOCABULARY, sample=0)
    with pytest.raises(IndexError, match="batch 1 of 1"):
        windows[1]
    assert len(list(windows)) == 1


@pytest.mark.parametrize("form", ["dataset", "threads", "tf.data"])
def test_fit_takes_each_epoch_once(form):
    options = {"workers": 2} if form == "threads" else {}
    windows = Windows(some_ids(2), VOCABULARY, batch_size=100, sample=0, **options)
    data = windows
    if form == "tf.data":
        pytest.importorskip("tensorflow")
        data = windows.to_tf_dataset()
    inputs = [keras.Input((), dtype="int32"), keras.Input((), dtype="int32")]
    model = keras.Model(inputs, SkipGram(VOCABULARY, 4)(inputs))
    model.compile("adam")
    history = model.fit(data, epochs=3, shuffle=form != "tf.data", verbose=0)
    assert windows.epoch in (3, 4)  # Keras may use up one to build the model
    assert history.params["steps"] == len(windows) == int(model.optimizer.iterations) // 3


def test_tf_dataset_has_the_same_batches():
    pytest.importorskip("tensorflow")
    one, other = (Windows(some_ids(2), VOCABULARY, "cbow", batch_size=99, sample=0) for _ in "ab")
    for _ in range(2):
        batches = list(one.to_tf_dataset().as_numpy_iterator())
        assert len(batches) == len(other)
        for (theirs,), (ours,) in zip(batches, other, strict=True):
            np.testing.assert_array_equal(theirs[0], ours[0])
            np.testing.assert_array_equal(theirs[1], ours[1])
        other.on_epoch_end()


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_a_window_may_be_the_whole_basket(objective):
    ids = np.tile(np.int32([0, 1, 2, -1, 3, 0, -1]), 50)
    vocabulary = Vocabulary(["a", "b", "c", "d"], [100, 50, 50, 50])
    options = dict(sample=0, shrink_windows=False, batch_size=16)
    two, wide = (Windows(ids, vocabulary, objective, w, **options) for w in (2, 2**31 - 1))
    assert len(two) == len(wide)
    for i in range(len(two)):
        for one, other in zip(two[i][0], wide[i][0], strict=True):
            np.testing.assert_array_equal(one, other)
