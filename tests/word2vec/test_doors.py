"""Malformed inputs of the compiled parts are refused, or do no harm; they never crash.

There is a table of them for each function of `_core` and each TensorFlow op of this domain.
"""

import threading

import numpy as np
import pytest

_core = pytest.importorskip("fastkeras._core", reason="nothing is compiled")

WORDS, SIZE, ROWS = 5, 16, 7
BAD_INTEGERS = [-1, -(2**63), 2**31, 2**62, 2**70, 1.5, None, "3"]
ERRORS = (ValueError, TypeError, OverflowError, MemoryError)


def tables():
    return {
        "keep": np.full(WORDS, 2**32 - 1, np.uint32),
        "noise": np.stack([np.full(WORDS, 2**31), np.arange(WORDS)[::-1]], 1).astype(np.uint32),
        "logit_offsets": np.zeros(WORDS, np.float32),
        "path_starts": np.arange(WORDS + 1),
        "path_nodes": np.arange(WORDS, dtype=np.int32),
        "path_signs": np.ones(WORDS, np.float32),
        "bag_starts": np.arange(WORDS + 1),
        "bag_rows": np.arange(WORDS, dtype=np.int32) + ROWS - WORDS,
    }


def arguments():
    return {
        "ids": np.int32([0, 1, 2, -1, 3, 4, 4, 0, 1, -1]),
        "begin": 0,
        "end": 10,
        "input": np.full((ROWS, SIZE), 0.1, np.float32),
        "output": np.full((ROWS, SIZE), 0.1, np.float32),
        "tables": _core.Word2VecTables(**tables()),
        "objective": 0,
        "loss": 0,
        "shared_negatives": True,
        "exact_cbow": True,
        "exact_subwords": True,
        "shrink_windows": True,
        "window": 2,
        "negative": 3,
        "key": 7,
        "learning_rate": 0.1,
        "learning_rate_slope": 0.0,
        "num_threads": 1,
        "deterministic": False,
    }


def malformed(array):
    """Yield arrays, each of which lacks something that a kernel relies on."""
    yield None
    yield "text"
    yield array.tolist()
    yield array.astype(object)
    yield np.zeros(array.shape, np.float16)
    yield np.zeros(array.shape, np.complex64)
    yield array.astype(array.dtype.newbyteorder())
    yield np.float64(3)
    yield array[..., None]
    yield array[0]
    yield array.ravel() if array.ndim > 1 else array[None]
    yield array[::-1]
    yield np.repeat(array, 2, -1)[..., ::2]
    yield np.broadcast_to(array[:1], array.shape)
    shifted = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
    yield shifted.view(array.dtype).reshape(array.shape)
    if array.ndim == 2:
        yield np.asfortranarray(array)
        yield array.T


@pytest.mark.parametrize("name", tables())
def test_tables_are_checked(name):
    good = tables()
    for bad in malformed(good[name]):
        with pytest.raises(ERRORS):
            _core.Word2VecTables(**{**good, name: bad})
    for size in (1, WORDS - 1, WORDS + 7):  # an empty table means that there is none
        with pytest.raises(ValueError, match=r"must|lack|ascend"):
            _core.Word2VecTables(
                **{**good, name: np.resize(good[name], (size, *good[name].shape[1:]))}
            )


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("noise", (0, 1), WORDS),
        ("noise", (4, 1), 2**32 - 1),
        ("path_nodes", 2, -1),
        ("path_nodes", 4, -(2**31)),
        ("bag_rows", 0, -5),
        ("path_starts", 0, 1),
        ("path_starts", 0, -1),
        ("path_starts", 2, 5),
        ("path_starts", 3, -(2**62)),
        ("path_starts", 3, 2**62),
        ("path_starts", 5, 6),
        ("bag_starts", 2, 1),  # an empty bag has no mean
        ("bag_starts", 5, 2**63 - 1),
    ],
)
def test_numbers_in_tables_are_checked(name, at, value):
    bad = tables()
    bad[name][at] = value
    with pytest.raises(ValueError, match=name.partition("_")[0]):
        _core.Word2VecTables(**bad)


def test_the_good_call_trains():
    for loss in range(4):
        for objective in range(2):
            good = arguments()
            loss_of, predictions, words = _core.word2vec_train(
                **{**good, "loss": loss, "objective": objective}
            )
            assert np.isfinite(loss_of) and predictions > 0 and words == 8


@pytest.mark.parametrize("name", ["ids", "input", "output"])
def test_arrays_of_a_training_are_checked(name):
    good = arguments()
    for bad in malformed(good[name]):
        with pytest.raises(ERRORS):
            _core.word2vec_train(**{**good, name: bad})


@pytest.mark.parametrize(
    "bad",
    [
        {"input": np.ones((ROWS - 1, SIZE), "f4")},
        {"output": np.ones((WORDS - 1, SIZE), "f4")},
        {"output": np.ones((ROWS, SIZE * 2), "f4")},
        {"input": np.ones((ROWS, 15), "f4"), "output": np.ones((ROWS, 15), "f4")},
        {"input": np.ones((ROWS, 0), "f4"), "output": np.ones((ROWS, 0), "f4")},
        {"input": np.ones((0, SIZE), "f4")},
        {"ids": np.int32([0, WORDS, -1])},
        {"ids": np.int32([0, 2**31 - 1, -1])},
        {"begin": 11},
        {"begin": 5, "end": 4},
        {"end": 11},
        {"objective": 2},
        {"loss": 4},
        {"window": 0},
        {"negative": 2**31 - 1},
        {"negative": 2**31 - 2, "window": 2**31 - 1},
        {"learning_rate": np.nan},
        {"learning_rate_slope": np.inf},
        {"tables": None},
        {"tables": ()},
        *({"loss": 1, "tables": name} for name in ("path_starts", "path_nodes")),
        {"loss": 0, "tables": "noise"},
        {"loss": 2, "tables": "logit_offsets"},
        *({"loss": 3, "tables": name} for name in ("noise", "path_starts")),
        *(
            {name: value}
            for name in ("begin", "end", "objective", "loss", "window", "negative", "num_threads")
            for value in BAD_INTEGERS
        ),
    ],
)
def test_numbers_of_a_training_are_checked(bad):
    good = arguments()
    before = good["input"].copy()
    if isinstance(bad.get("tables"), str):
        lacking = tables()
        for name in lacking:
            if name.partition("_")[0] == bad["tables"].partition("_")[0]:
                lacking[name] = lacking[name][:0]
        bad = {**bad, "tables": _core.Word2VecTables(**lacking)}
    with pytest.raises(ERRORS):
        _core.word2vec_train(**{**good, **bad})
    np.testing.assert_array_equal(good["input"], before)


def test_matrices_that_are_read_only_or_overlap():
    good = arguments()
    good["input"].setflags(write=False)
    with pytest.raises(ValueError, match="writable"):
        _core.word2vec_train(**good)
    both = np.ones((2 * ROWS, SIZE), np.float32)
    with pytest.raises(ValueError, match="must not share memory"):
        _core.word2vec_train(**{**arguments(), "input": both[:ROWS], "output": both[1 : ROWS + 1]})
    with pytest.raises(ValueError, match="must not share memory"):
        _core.word2vec_train(
            **{**arguments(), "input": both, "ids": both.reshape(-1).view("i4")[:9]}
        )


def test_ids_outside_of_the_slice_end_a_sentence():
    """They are read only as far as windows reach; an id that is not a word ends a window."""
    one, other = arguments(), arguments()
    one["ids"] = np.int32([2**31 - 1, 1, 2, 3, 99, 1])
    other["ids"] = np.int32([-1, 1, 2, 3, -1, 1])
    for good in one, other:
        good.update(begin=1, end=4, window=3)
    assert _core.word2vec_train(**one) == _core.word2vec_train(**other)
    np.testing.assert_array_equal(one["input"], other["input"])


def test_windows_and_rates_at_the_ends_of_their_ranges():
    for window in (2**31 - 1, 2**31 - 2, 1025):
        for shrink in (False, True):
            for deterministic in (False, True):
                good = arguments()
                good.update(window=window, shrink_windows=shrink, deterministic=deterministic)
                _, predictions, words = _core.word2vec_train(**good)
                assert words == 8 and (shrink or predictions == 3 * 2 + 5 * 4)


@pytest.mark.parametrize("block", [None, "text", 3, bytearray(b"a b"), np.zeros(3, np.uint8)])
def test_blocks_of_text_are_bytes(block):
    counter, encoder = _core.WordCounter(), _core.WordEncoder(b"ab", np.int64([1, 2]))
    for call in counter.add, encoder.encode:
        with pytest.raises(TypeError):
            call(block)
        for threads in BAD_INTEGERS:
            with pytest.raises(ERRORS):
                call(b"a b\n", threads)
        call(b"")
        call(b"\0\xff\n\n \xff")
    for number in BAD_INTEGERS[4:]:
        with pytest.raises(ERRORS):
            counter.words(number)
        with pytest.raises(ERRORS):
            counter.drop(number)
    assert counter.words(-(2**63))[0] == b"\0\xff\n\xff"
    counter.drop(2**63 - 1)
    assert len(counter) == 0


def test_ends_of_words_are_checked():
    good = np.int64([1, 2, 2, 4])
    _core.WordEncoder(b"abcd", good)
    for bad in malformed(good):
        with pytest.raises(ERRORS):
            _core.WordEncoder(b"abcd", bad)
    for ends in ([5], [-1], [2, 1], [2**62], [-(2**63)], [1, 2**63 - 1]):
        with pytest.raises(ValueError, match="ends must ascend"):
            _core.WordEncoder(b"abcd", np.int64(ends))
    assert _core.WordEncoder(b"", np.zeros(0, np.int64)).encode(b"a b\n").tolist() == []


def test_several_threads_may_use_one_counter_and_one_encoder():
    counter, encoder = _core.WordCounter(), _core.WordEncoder(b"ab", np.int64([1, 2]))
    block = b"a b c\n" * 5000
    ids = []

    def use():
        for _ in range(20):
            counter.add(block, 2)
            len(counter)
            ids.append(len(encoder.encode(block, 2)))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words, counts = counter.words(1)
    assert words == b"a\nb\nc" and counts.tolist() == [400_000] * 3
    assert sum(ids) == 4 * 20 * 15_000


@pytest.fixture(scope="module")
def ops():
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    ops = pytest.importorskip("fastkeras._ops.tensorflow", reason="the ops were not built")
    return tf, ops.library


def calls(tf):
    """The arguments of a good call of each op, tensors first."""
    return {
        "group": ({"ids": tf.constant([[0, 1], [2, 0]])}, {"num_words": 3, "holes": False}),
        "pool": (
            {
                "rows": tf.ones((3, 4)),
                "places": tf.constant([[0, 2], [1, -1]]),
                "weights": tf.ones((2, 2)),
            },
            {"num_threads": 1},
        ),
        "spread": (
            {
                "upstream": tf.ones((2, 4)),
                "factors": tf.ones((2, 2)),
                "order": tf.constant([0, 3, 1, 2]),
                "starts": tf.constant([0, 2, 3, 4]),
            },
            {"num_threads": 1},
        ),
        "loss": (
            {
                "hidden": tf.ones((2, 4)),
                "rows": tf.ones((3, 4)),
                "bias": tf.ones(3),
                "offset": tf.ones(3),
                "places": tf.constant([[0, 2], [1, 1]]),
            },
            {"num_threads": 1, "loss": 0},
        ),
    }


def malformed_tensors(tf, tensor):
    shape = tuple(tensor.shape)
    yield tf.zeros((), tensor.dtype)
    yield tf.zeros((*shape, 1), tensor.dtype)
    yield tf.reshape(tensor, (-1,)) if len(shape) > 1 else tensor[None]
    yield tf.zeros((0, *shape[1:]), tensor.dtype)
    yield tf.zeros((*shape[:-1], 0), tensor.dtype)
    yield tf.zeros((2**40, *shape[1:-1], 0), tensor.dtype)
    yield tf.zeros((0, *[2**40] * (len(shape) - 1)), tensor.dtype)
    yield tf.concat([tensor, tensor], 0)
    yield tf.concat([tensor, tensor], -1)
    yield tensor[1:]
    yield tensor[..., 1:]
    yield tf.cast(tensor, tf.float16)
    yield tf.cast(tensor, tf.int64)
    yield tf.strings.as_string(tensor)
    if tensor.dtype == tf.int32:
        for value in (-1, -2, 3, 99, 2**31 - 1, -(2**31)):
            yield tf.fill(shape, value)
            yield tf.concat([tensor[:-1], tf.fill(shape, value)[-1:]], 0)
        yield tensor[::-1]
    else:
        for value in (np.nan, np.inf, -np.inf, 3e38):
            yield tf.fill(shape, tf.constant(value, tensor.dtype))


@pytest.mark.parametrize("op", ["group", "pool", "spread", "loss"])
def test_ops_answer_or_raise(ops, op):
    """On any tensors and attributes: the kernels check every number that they use as a position."""
    tf, library = ops
    tensors, attributes = calls(tf)[op]
    function = getattr(library, f"fastkeras_word2vec_{op}")
    good = function(**tensors, **attributes)
    refused = 0
    for name, tensor in tensors.items():
        for bad in malformed_tensors(tf, tensor):
            refused += _raises(tf, function, {**tensors, name: bad}, attributes)
            refused += _raises(tf, tf.function(function), {**tensors, name: bad}, attributes)
    for name in attributes:
        for value in (-1, -(2**31), 2**31 - 1 if name != "num_words" else 7, 2**40):
            refused += _raises(tf, function, tensors, {**attributes, name: value})
    assert refused > 10
    again = function(**tensors, **attributes)
    for one, other in zip(tf.nest.flatten(good), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one, other)


def _raises(tf, function, tensors, attributes):
    try:
        tf.nest.map_structure(np.asarray, function(**tensors, **attributes))
    except (tf.errors.OpError, TypeError, ValueError, OverflowError):
        return True
    return False


def calls_of_layers():
    one, words = np.ones((2, 2), np.float32), np.int32([[0, 2], [1, 1]])
    rows = np.ones((3, 4), np.float32)
    return {
        "pool": {"rows": rows, "words": words, "weights": one},
        "scatter": {"upstream": rows[:2], "factors": one, "words": words, "num_words": 3},
        "loss": {
            "hidden": rows[:2],
            "rows": rows,
            "bias": rows[:, 0].copy(),
            "offset": rows[:, 0].copy(),
            "words": words,
            "loss": 0,
        },
    }


@pytest.mark.parametrize("name", ["pool", "scatter", "loss"])
def test_functions_of_the_layers_check_what_they_follow(name):
    function, good = getattr(_core, f"word2vec_layers_{name}"), calls_of_layers()[name]
    function(**good, num_threads=1)
    for argument, value in [*good.items(), ("num_threads", 1)]:
        if isinstance(value, np.ndarray):
            bad = [*malformed(value), value[1:], value[..., 1:], value[:0]]
            bad = [x for x in bad if x is not None or argument not in ("bias", "offset")]
            if argument in ("weights", "factors"):
                bad.remove(None)
        else:
            bad = [x for x in BAD_INTEGERS if argument != "num_words" or x != 2**31]
        for wrong in bad:
            if (
                isinstance(wrong, np.ndarray)
                and wrong.shape == value.shape
                and _is_like(wrong, value)
            ):
                continue
            with pytest.raises(ERRORS):
                function(**{**good, "num_threads": 1, argument: wrong})
    for wrong in (3, 2**31 - 1):
        with pytest.raises(ValueError, match=r"words must be in 0\.\.2.*, got"):
            function(**{**good, "words": np.int32([[0, 2], [1, wrong]])})
    holes = {**good, "words": np.int32([[0, 2], [1, -(2**31)]])}
    if name == "loss":
        with pytest.raises(ValueError, match="words must be in"):
            function(**holes)
    else:
        function(**holes)
        holes["weights" if name == "pool" else "factors"] = None
        with pytest.raises(ValueError, match="words must be in"):  # only weights mark holes
            function(**holes)


def _is_like(array, good):
    """Whether an array has the dtype and layout of a good one, whatever its numbers."""
    in_row = array.flags.c_contiguous and array.flags.aligned
    return in_row and array.dtype == good.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_best_of_a_block_are_checked(dtype):
    good = {
        "scores": np.ones((3, 70), dtype),
        "scales": np.ones(70, dtype),
        "first_row": 0,
        "best": np.full((3, 2), -np.inf, dtype),
        "best_rows": np.zeros((3, 2), np.int64),
    }
    _core.word2vec_keep_best(**good)
    np.testing.assert_array_equal(good["best_rows"], [[0, 1]] * 3)
    for name in ("scores", "scales", "best", "best_rows"):
        for bad in malformed(good[name]):
            with pytest.raises(ERRORS):
                _core.word2vec_keep_best(**{**good, name: bad})
    for name in ("best", "best_rows"):
        read_only = good[name].copy()
        read_only.flags.writeable = False
        with pytest.raises(ValueError, match="must be writable"):
            _core.word2vec_keep_best(**{**good, name: read_only})
    none = {"best": np.zeros((3, 0), dtype), "best_rows": np.zeros((3, 0), np.int64)}
    with pytest.raises(ValueError, match="at least 1"):
        _core.word2vec_keep_best(**{**good, **none})
    for bad in BAD_INTEGERS:
        if bad not in (2**31, 2**62):  # rows are 64-bit
            with pytest.raises(ERRORS):
                _core.word2vec_keep_best(**{**good, "first_row": bad})


def test_rows_of_files_are_checked():
    good = {
        "block": b"a 1 2\nb 3 4\n",
        "rows": np.zeros((2, 2), np.float32),
        "is_text": True,
        "longest_word": 9,
        "num_threads": 1,
    }
    assert _core.word2vec_read_rows(**good)[:3] == (b"a\nb\n", 2, 12)
    for bad in malformed(good["rows"]):
        if bad is None or np.shape(bad) != (1, 2):  # fewer rows are read
            with pytest.raises(ERRORS):
                _core.word2vec_read_rows(**{**good, "rows": bad})
    for name, values in {
        "block": ["text", None, 3],
        "longest_word": [-1, None, 2**70],
        "num_threads": BAD_INTEGERS,
        "rows": [np.zeros((2, 0), np.float32)],
    }.items():
        for bad in values:
            with pytest.raises(ERRORS):
                _core.word2vec_read_rows(**{**good, name: bad})
    none = np.zeros((0, 2), np.float32)
    for is_text in (True, False):
        for block in (b"", b"\n", b"a", b" ", b"a 1 2\n"):
            call = {**good, "block": block, "rows": none, "is_text": is_text}
            assert _core.word2vec_read_rows(**call)[1] == 0
