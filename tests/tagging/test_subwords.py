"""Subwords of words, and windows of documents."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import tagging
from fastkeras.layers import CRF, WordPooling

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


NUMBERS = np.array([[-1, 0, 1, 1, 1, 2, -1], [0, 0, 2, 2, -1, -1, -1], [-1] * 7])


def test_labels_and_mask_of_first_subwords():
    first = tagging.first_subwords(NUMBERS)
    np.testing.assert_array_equal(np.argwhere(first), [[0, 1], [0, 2], [0, 5], [1, 0], [1, 2]])
    labels = tagging.subword_labels([[7, 8, 9], [4, 5, 6], []], NUMBERS, ignored=-1)
    np.testing.assert_array_equal(labels[first], [7, 8, 9, 4, 6])  # word 1 was cut off
    np.testing.assert_array_equal(labels[~first], -1)
    with pytest.raises(ValueError, match="there are 2, and a word 2"):
        tagging.subword_labels([[7, 8], [4, 5, 6], []], NUMBERS)
    assert tagging.word_numbers([]).shape == (0, 0)


@pytest.mark.parametrize("wrong", (1.5, np.nan, np.inf, 2**31))
def test_numbers_that_are_not_whole_are_refused(wrong):
    for call, name in (
        (lambda: tagging.word_numbers([[None, wrong]]), "word_ids"),
        (lambda: tagging.first_subwords(np.array([[-1, wrong]])), "word_numbers"),
        (lambda: tagging.subword_labels([[1]], np.array([[0, wrong]])), "word_numbers"),
        (lambda: tagging.subword_labels([[1, wrong]], np.array([[0, 1]])), "tags"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be whole numbers of 32 bits, got"):
            call()
    with pytest.raises(ValueError, match="word_ids must be whole numbers, got <U1"):
        tagging.word_numbers([["a"]])


@pytest.mark.parametrize("max_words", (None, 2, 5))
@pytest.mark.parametrize("pooling", ("first", "last", "mean"))
def test_pooling_word_by_word(pooling, max_words, rng):
    vectors = rng.standard_normal((*NUMBERS.shape, 4)).astype("float32")
    layer = WordPooling.from_config(WordPooling(pooling, max_words).get_config())
    words = layer([ops.convert_to_tensor(vectors), ops.convert_to_tensor(NUMBERS)])
    mask = array(layer.compute_mask([vectors, NUMBERS]))
    expected = np.zeros((3, max_words or 7, 4))
    for b, word in np.ndindex(expected.shape[:2]):
        own = vectors[b, NUMBERS[b] == word]
        assert mask[b, word] == bool(len(own))
        if len(own):
            expected[b, word] = {"first": own[0], "last": own[-1], "mean": own.mean(axis=0)}[
                pooling
            ]
    np.testing.assert_allclose(array(words), expected, rtol=1e-6, atol=1e-7)
    shapes = [(None, 7, 4), (None, 7)]
    assert layer.compute_output_shape(shapes) == (None, max_words or 7, 4)


@pytest.mark.parametrize("pooling", ("first", "last", "mean"))
def test_there_may_be_no_sequences_and_no_steps(pooling):
    layer = WordPooling(pooling, max_words=3)
    for batch, steps in ((0, 2), (2, 0)):
        inputs = [np.zeros((batch, steps, 4), "float32"), np.zeros((batch, steps), "int32")]
        np.testing.assert_array_equal(array(layer(inputs)), np.zeros((batch, 3, 4)))
        assert layer.compute_mask(inputs).shape == (batch, 3)
        assert WordPooling(pooling)(inputs).shape == (batch, steps, 4)


def test_a_crf_over_words_skips_what_is_no_word(tmp_path, rng):
    tokens = rng.integers(1, 9, NUMBERS.shape)
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    words = WordPooling()([keras.layers.Embedding(9, 4)(inputs[0]), inputs[1]])
    crf = CRF(3, use_kernel=True)
    model = keras.Model(inputs, crf(words))
    model.compile("sgd", crf.loss, metrics=[crf.accuracy])
    tags = np.full(NUMBERS.shape, -100)
    tags[0, :3], tags[1, [0, 2]] = [0, 1, 2], [2, 1]
    loss = model.evaluate([tokens, NUMBERS], tags, verbose=0, return_dict=True)["loss"]
    emissions = array(model([tokens, NUMBERS]))
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    likelihood = crf.log_likelihood(emissions[:, :4], tags[:, :4], ops.convert_to_tensor(mask))
    assert loss == pytest.approx(-array(likelihood).mean(), rel=1e-5)
    model.fit([tokens, NUMBERS], tags, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        array(again([tokens, NUMBERS])), array(model([tokens, NUMBERS])), rtol=1e-6
    )


def test_wrong_pooling():
    with pytest.raises(ValueError, match="pooling='sum' must be one of first, last, mean"):
        WordPooling("sum")
    with pytest.raises(ValueError, match="max_words=0 must be None or an integer of at least 1"):
        WordPooling(max_words=0)


@pytest.mark.parametrize(("size", "overlap"), ((4, 0), (4, 2), (5, 4), (1, 0), (20, 7)))
def test_windows_cover_their_documents(size, overlap, rng):
    lengths = [9, 0, 4, 1, 13]
    documents = [rng.integers(1, 99, n) for n in lengths]
    windows = tagging.document_windows(lengths, size, overlap)
    cut, mask = windows.cut(documents, padding=-5), windows.mask()
    assert cut.shape == mask.shape == (len(windows.starts), size)
    np.testing.assert_array_equal(cut == -5, ~mask)
    for number, document in enumerate(documents):
        of_document = windows.documents == number
        covered = np.zeros(len(document), int)
        for row, start, valid in zip(
            cut[of_document], windows.starts[of_document], mask[of_document], strict=True
        ):
            np.testing.assert_array_equal(row[valid], document[start : start + size])
            covered[start : start + valid.sum()] += 1
        assert covered.min(initial=1) >= 1
        steps = np.diff(windows.starts[of_document])
        assert (steps <= size - overlap).all()
    for joined, document in zip(windows.join(cut), documents, strict=True):
        np.testing.assert_allclose(joined, document, rtol=1e-6)


def test_steps_in_the_middle_of_a_window_count_more():
    windows = tagging.document_windows([6], size=4, overlap=2)
    (joined,) = windows.join(np.array([[0.0] * 4, [1.0] * 4])[..., None])
    # steps 2 and 3 are in both, 2 and 1 steps from the end of the first, 1 and 2 of the second
    np.testing.assert_allclose(joined[:, 0], [0, 0, 1 / 3, 2 / 3, 1, 1])
    distributions = windows.join(np.full((2, 4, 3), 1 / 3, "float32"))
    np.testing.assert_allclose(distributions[0].sum(axis=1), 1, rtol=1e-6)


def test_wrong_windows():
    for lengths, size, overlap, message in (
        ([5], 0, 0, "size=0 must be an integer of at least 1"),
        ([5], 2.5, 0, "size=2.5 must be an integer of at least 1"),
        ([5], 3, 3, "overlap=3 must be below size=3"),
        ([5], 3, -1, "overlap=-1 must be an integer of at least 0"),
        ([5, 2.5], 3, 1, r"lengths\[1\]=2.5 must be an integer of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tagging.document_windows(lengths, size, overlap)
    windows = tagging.document_windows([5], 3, 1)
    with pytest.raises(ValueError, match=r"the lengths of the documents, \[5\], got \[4\]"):
        windows.cut([[1, 2, 3, 4]])
    with pytest.raises(ValueError, match=r"\(2, 3, …\), got \(2, 4\)"):
        windows.join(np.zeros((2, 4)))
    assert tagging.document_windows([], 3, 1).cut([]).shape == (0, 3)


def test_windows_hold_what_any_of_the_documents_has():
    windows = tagging.document_windows([0, 2, 2], 2, 0)
    tokens = windows.cut([[], [1, 2], [3, 4]])  # a document without steps says nothing of a dtype
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(windows.cut([[], [1, 2], [0.5, 1.5]]), [[1, 2], [0.5, 1.5]])
    words = windows.cut([[], ["a", "b"], ["long", "longer"]], padding="")
    np.testing.assert_array_equal(words, [["a", "b"], ["long", "longer"]])
    assert windows.cut([[], [2**40, 0], [1, 1]])[0, 0] == 2**40


def test_padding_is_something_that_the_sequences_can_hold():
    windows = tagging.document_windows([1], 2, 0)
    for sequence, padding, becomes in (
        ([1], 0.5, "0"),
        ([1], np.nan, "-2147483648"),
        ([1], 2**31, "-2147483648"),
        ([True], 2, "True"),
        (["a"], "<pad>", "'<'"),
    ):
        with pytest.raises(ValueError, match=rf"^padding=.* can hold, but becomes .*{becomes}"):
            windows.cut([sequence], padding)
    np.testing.assert_array_equal(windows.cut([[1.5]], 0.1), [[1.5, 0.1]])
    np.testing.assert_array_equal(windows.cut([np.float32([1.5])], 0.1), np.float32([[1.5, 0.1]]))
    np.testing.assert_array_equal(windows.cut([[1]], -100), [[1, -100]])
