"""The reference against independent checks: differences of the plain losses, and counting."""

import heapq
import itertools

import numpy as np
import pytest

from fastkeras.word2vec._engines import reference
from fastkeras.word2vec.subwords import Bags
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import (
    BOTH,
    CHUNK,
    LOSSES,
    TREE,
    Schedule,
    Settings,
    output_rows,
    tables_of,
)

WORDS, SIZE = 7, 5
COUNTS = np.array([40, 21, 13, 8, 5, 3, 2])
RATE = 1e-3


def settings_of(objective, loss, **more):
    return Settings(objective=objective, loss=loss, negative=3, **more)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_loss(hidden, outputs, rows, signs, loss, offsets):
    """The loss of one hidden vector as the papers write it, which large logits make overflow."""
    x = outputs[rows] @ hidden
    if loss == "sampled_softmax":
        z = x + np.where(np.arange(len(rows)) > 0, offsets[rows], 0)
        return -np.log(np.exp(z[0]) / np.exp(z).sum())
    return -np.log(sigmoid(-signs * x)).sum()


BAGS = Bags(  # each word has a row of its own, and some of 3 others; a row may be there twice
    np.array([0, 1, 3, 6, 10, 12, 13, 17]),
    np.array([0, 1, 7, 2, 8, 9, 3, 7, 9, 7, 4, 8, 5, 6, 9, 8, 8], np.int32),
    np.array([4, 11, 30], np.int32),
)


def window_loss(inputs, outputs, contexts, rows, signs, settings, offsets, bags):
    hidden = inputs[contexts]
    if bags:
        bag = [BAGS.rows[BAGS.starts[word] : BAGS.starts[word + 1]] for word in contexts]
        hidden = np.array([sum(inputs[row] for row in rows) / len(rows) for rows in bag])
    if settings.objective == "cbow":
        hidden = hidden.mean(axis=0, keepdims=True)
    return sum(plain_loss(h, outputs, rows, signs, settings.loss, offsets) for h in hidden)


def gradient_by_differences(function, array, step=1e-3):
    """Central differences of 4th order."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        values = []
        for k in (-2, -1, 1, 2):
            moved = array.copy()
            moved[index] += k * step
            values.append(function(moved))
        gradient[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return gradient


def rows_and_signs(loss, tables, rng, *, distinct):
    rows = rng.permutation(WORDS)[:4] if distinct else np.array([2, 5, 0, 5])
    words = rows, np.array([-1, 1, 1, 1])
    if loss not in (TREE, BOTH):
        return words
    path = slice(tables.path_starts[5], tables.path_starts[6])
    nodes = tables.path_nodes[path], tables.path_signs[path]
    return nodes if loss == TREE else tuple(map(np.append, words, nodes))


@pytest.mark.parametrize("bags", [None, BAGS], ids=["words", "subwords"])
@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["skipgram", "cbow", "together"])
def test_steps_follow_the_gradient(form, loss, correction, bags, rng):
    objective = "cbow" if form == "cbow" else "skipgram"
    settings = settings_of(objective, loss)
    tables = tables_of(COUNTS, settings, sampling_correction=correction, bags=bags)
    in_order = loss in ("negative_sampling", BOTH) and form != "together"
    rows, signs = rows_and_signs(loss, tables, rng, distinct=in_order)
    contexts = np.array([3]) if form == "skipgram" else np.array([3, 1, 6, 3])
    inputs = rng.standard_normal((BAGS.num_rows if bags else WORDS, SIZE))
    outputs = rng.standard_normal((output_rows(WORDS, settings), SIZE))

    def loss_of(inputs=inputs, outputs=outputs):
        of_window = contexts, rows, signs
        return window_loss(inputs, outputs, *of_window, settings, tables.logit_offsets, bags)

    expected_loss = loss_of()
    expected = [
        gradient_by_differences(lambda x: loss_of(inputs=x), inputs),
        gradient_by_differences(lambda x: loss_of(outputs=x), outputs),
    ]
    after = inputs.copy(), outputs.copy()
    if form == "skipgram":
        (v,) = reference.vectors_of(inputs, [3], tables)
        change, value = reference._step(after[1], v, rows, signs, RATE, tables, settings)
        reference._add(after[0], [3], [change], tables, settings)
    else:
        step = reference._step_cbow if form == "cbow" else reference._step_together
        value = step(*after, contexts, rows, signs, RATE, tables, settings)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-12)
    for before, now, gradient in zip((inputs, outputs), after, expected, strict=True):
        np.testing.assert_allclose((before - now) / RATE, gradient, rtol=5e-6, atol=1e-10)
        untouched = (gradient == 0).all(axis=1)
        np.testing.assert_array_equal(now[untouched], before[untouched])


def test_row_drawn_twice_is_seen_as_it_was_left(rng):
    settings = settings_of("skipgram", "negative_sampling")
    tables = tables_of(COUNTS, settings)
    v, outputs = rng.standard_normal(SIZE), rng.standard_normal((WORDS, SIZE))
    u = outputs[4].copy()
    change, _ = reference._step(outputs, v, np.array([4, 4]), np.ones(2), 0.5, tables, settings)
    once = u - 0.5 * sigmoid(u @ v) * v
    twice = once - 0.5 * sigmoid(once @ v) * v
    np.testing.assert_allclose(outputs[4], twice, rtol=1e-12)
    np.testing.assert_allclose(
        change, -0.5 * (sigmoid(u @ v) * u + sigmoid(once @ v) * once), rtol=1e-12
    )


def test_word2vec_cbow_gives_every_context_the_whole_error(rng):
    inputs, outputs = rng.standard_normal((2, WORDS, SIZE))
    contexts, rows, signs = np.array([3, 1, 6, 3]), np.array([2, 5]), np.array([-1, 1])
    moved = []
    for exact in (True, False):
        settings = settings_of("cbow", "negative_sampling", exact_cbow=exact)
        after = inputs.copy()
        tables = tables_of(COUNTS, settings)
        reference._step_cbow(after, outputs.copy(), contexts, rows, signs, RATE, tables, settings)
        moved.append(after - inputs)
    np.testing.assert_allclose(moved[1], 4 * moved[0], rtol=1e-9, atol=1e-15)


def test_fasttext_gives_every_row_of_a_bag_the_whole_error(rng):
    inputs = rng.standard_normal((BAGS.num_rows, SIZE))
    changes = rng.standard_normal((2, SIZE))
    tables = tables_of(COUNTS, settings_of("skipgram", "negative_sampling"), bags=BAGS)
    for exact in (True, False):
        settings = settings_of("skipgram", "negative_sampling", exact_subwords=exact)
        after = inputs.copy()
        reference._add(after, [3, 6], changes, tables, settings)
        of_3, of_6 = changes / 4 if exact else changes
        expected = np.zeros_like(inputs)
        expected[3], expected[6] = of_3, of_6
        expected[7], expected[8], expected[9] = 2 * of_3, 2 * of_6, of_3 + of_6
        np.testing.assert_allclose(after - inputs, expected, atol=1e-14)


def test_large_logits_give_finite_losses():
    settings = settings_of("skipgram", "negative_sampling")
    tables = tables_of(COUNTS, settings)
    x = np.array([-1e4, 1e4])
    loss, errors = reference.loss_and_errors(x, [0, 1], np.array([-1, 1]), tables, settings)
    assert loss == 2e4
    np.testing.assert_array_equal(errors, [1, -1])


def test_generator_is_splitmix64():
    """The first outputs of the published generator, seeded with 0."""
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(sampling.GOLDEN)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert sampling.mix(states).tolist() == expected


def test_keys_differ():
    keys = {sampling.key_of(seed, epoch) for seed in range(-3, 20) for epoch in range(20)}
    assert len(keys) == 23 * 20


@pytest.mark.parametrize("exponent", [0.0, 0.75, 1.0])
def test_alias_table_has_the_probabilities(exponent):
    weights = COUNTS**exponent
    table = sampling.alias_table(weights)
    own = table[:, 0] / 2**32
    probabilities = own + np.bincount(table[:, 1], 1 - own, WORDS)
    np.testing.assert_allclose(probabilities / WORDS, weights / weights.sum(), atol=1e-9)


def test_draws_have_the_probabilities():
    table = sampling.alias_table(COUNTS**0.75)
    drawn = sampling.draw_noise(12345, 0, 200_000, table)
    expected = COUNTS**0.75 / np.sum(COUNTS**0.75)
    error = np.bincount(drawn, minlength=WORDS) / 200_000 - expected
    assert np.abs(error).max() < 5 * np.sqrt(0.25 / 200_000)
    np.testing.assert_array_equal(sampling.draw_noise(12345, 100, 50, table), drawn[100:150])


def test_frequent_words_stay_as_often_as_word2vec_says():
    keep = sampling.keep_thresholds(COUNTS, sample=0.02)
    ratio = 0.02 * COUNTS.sum() / COUNTS
    np.testing.assert_allclose(
        (keep.astype(float) + 1) / 2**32, np.minimum(np.sqrt(ratio) + ratio, 1), atol=1e-9
    )
    assert (sampling.keep_thresholds(COUNTS, sample=0) == 0xFFFFFFFF).all()
    bits = sampling.bits_at(7, np.arange(100_000))
    share = sampling.stays(bits, keep[0]).mean()
    assert abs(share - (keep[0] + 1) / 2**32) < 5 * np.sqrt(0.25 / 100_000)


def test_windows_are_uniform_and_independent_of_what_stays():
    bits = sampling.bits_at(7, np.arange(100_000))
    stays = sampling.stays(bits, np.uint32(2**30))
    for of in (bits, bits[stays]):
        shares = np.bincount(sampling.window_of(of, 5))[1:] / len(of)
        assert len(shares) == 5
        np.testing.assert_allclose(shares, 0.2, atol=5 * 0.4 / np.sqrt(len(of)))


def test_huffman_code_is_prefix_free_and_optimal():
    starts, nodes, signs = sampling.huffman_paths(COUNTS)
    paths = [
        list(zip(nodes[a:b].tolist(), signs[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(starts)
    ]
    heap = COUNTS.tolist()  # the sum of all merged counts is the cost of an optimal code
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, merged)
        cost += merged
    assert sum(c * len(p) for c, p in zip(COUNTS, paths, strict=True)) == cost
    assert sum(2.0 ** -len(p) for p in paths) == 1
    for one, other in itertools.permutations(paths, 2):  # they part at a node that both pass
        k = next(k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        assert one[k][0] == other[k][0]
    assert set(nodes.tolist()) == set(range(WORDS - 1))


@pytest.mark.parametrize("counts", [[5], [5, 4]])
def test_huffman_code_of_few_words(counts):
    starts, nodes, _ = sampling.huffman_paths(counts)
    assert starts.tolist() == ([0, 0] if len(counts) == 1 else [0, 1, 2])
    assert (nodes == 0).all()


@pytest.mark.parametrize("shrink", [False, True])
def test_windows_are_those_of_the_kept_words_of_the_sentence(shrink, rng):
    ids = rng.integers(-1, WORDS, 300).astype(np.int32)
    settings = Settings(window=3, shrink_windows=shrink)
    tables = tables_of(COUNTS, settings, sample=0.05)
    bits = sampling.bits_at(99, np.arange(300))
    expected = []
    sentence = []
    for at, word in enumerate(ids):
        if word >= 0:
            if (int(bits[at]) >> 32) <= int(tables.keep[word]):
                sentence.append(at)
            continue
        for i, center in enumerate(sentence):
            reach = 1 + ((int(bits[center]) & 0xFFFFFFFF) * 3 >> 32) if shrink else 3
            near = sentence[max(0, i - reach) : i] + sentence[i + 1 : i + 1 + reach]
            expected.append((center, ids[center], ids[near].tolist()))
        sentence = []
    end = expected[-1][0] + 1
    found = reference.windows(ids, 0, end, tables, settings, 99)
    assert [(a, c, n.tolist()) for a, c, n in found] == expected
    parts = [reference.windows(ids, *cut, tables, settings, 99) for cut in ((0, 70), (70, end))]
    joined = [(a, c, n.tolist()) for part in parts for a, c, n in part]
    assert joined == expected


def test_learning_rate_is_that_of_the_chunk(rng):
    """With a single pair, far into the corpus, the change is proportional to the chunk's rate."""
    ids = np.full(CHUNK * 3, -1, np.int32)
    ids[CHUNK + 500 : CHUNK + 502] = [0, 1]
    settings = Settings(negative=0, shrink_windows=False)
    tables = tables_of(COUNTS, settings)
    inputs, outputs = rng.standard_normal((2, WORDS, 16)) * 1e-3
    moved = []
    for rate, slope in ((0.1, 0.0), (0.3, -0.2 / CHUNK), (0.3, 0.0)):
        own = inputs.copy()
        reference.train(
            ids, 0, len(ids), own, outputs.copy(), tables, settings, 1, Schedule(rate, slope)
        )
        moved.append(own - inputs)
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-12)
    assert np.abs(moved[2]).max() > 2.9 * np.abs(moved[0]).max() > 0
