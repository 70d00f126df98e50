"""Beam search, compared with the enumeration of all sequences, and a search written with lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_parameters import engines_of
from fastkeras.seq2seq import BeamSearch
from small_models import END, RecurrentModel, enumerated, hypothesis_of, may_follow, searched

ENGINES = engines_of("seq2seq")


@st.composite
def searches(draw, max_length=3):
    """Draw a model and the options of a search."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    model = RecurrentModel(rng, draw(st.integers(2, 4), label="vocabulary"), batch=3)
    longest = draw(st.integers(0, max_length), label="max_length")
    options = {
        "max_length": longest,
        "min_length": draw(st.integers(0, longest), label="min_length"),
        "n_best": draw(st.integers(1, 5), label="n_best"),
        "length_penalty": draw(st.sampled_from((0.0, 1.0, 0.6, 2.5, -0.7)), label="length"),
        "repetition_penalty": draw(st.sampled_from((1.0, 1.4, 0.7)), label="repetition"),
        "no_repeat_ngram": draw(st.integers(0, 3), label="no_repeat_ngram"),
        "early_stopping": draw(st.booleans(), label="early_stopping"),
        "temperature": draw(st.sampled_from((1.0, 0.6, 3.0)), label="temperature"),
        "coverage_penalty": draw(st.sampled_from((0.0, 0.4, 2.0)), label="coverage_penalty"),
        "allowed": draw(st.booleans(), label="allowed"),
    }
    if draw(st.booleans(), label="suppressed"):
        options["suppressed"] = tuple(range(1, model.vocabulary))[-1:]
    if draw(st.booleans(), label="prefix"):
        options["prefix"] = {
            b: rng.integers(1, model.vocabulary, rng.integers(0, longest + 1)).tolist()
            for b in range(3)
        }
        options["prefix_bias"] = draw(st.sampled_from((1.0, 0.3, 0.9)), label="prefix_bias")
    return model, options


def allowed_by_rule(model):
    def allowed(t, history, sentences):
        assert history.shape[2] == t
        words = range(model.vocabulary)
        return np.array(
            [
                [[may_follow(b, tokens, word) for word in words] for tokens in of_sentence]
                for b, of_sentence in zip(sentences.tolist(), history.tolist(), strict=True)
            ]
        )

    return allowed


def found_by(model, options, engine=None, **more):
    options = {**options, **more}
    prefix = options.pop("prefix", None)
    if prefix is not None:
        rows = [[*tokens, *[-1] * 9][: options["max_length"]] for tokens in prefix.values()]
        prefix = np.array(rows, int).reshape(len(rows), -1)
    given = {"start": model.start, "prefix": prefix, "source_mask": model.source_mask}
    if options.pop("allowed", False):
        given["allowed"] = allowed_by_rule(model)
    search = BeamSearch(END, engine=engine, **options)
    return search(model.step, model.states, model.context, **given)


def assert_found(found, expected, n_best):
    """`expected` are the hypotheses (small_models.py), best first, for each sentence."""
    for b, of_sentence in enumerate(expected):
        number = min(n_best, len(of_sentence))
        for i, (score, log_p, tokens, of_tokens) in enumerate(of_sentence[:number]):
            assert found.tokens[b, i, : found.lengths[b, i]].tolist() == tokens
            np.testing.assert_allclose(found.scores[b, i], score, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(found.log_likelihoods[b, i], log_p, rtol=1e-12, atol=1e-12)
            assert not found.tokens[b, i, found.lengths[b, i] :].any()
            each = found.token_log_likelihoods[b, i]
            np.testing.assert_allclose(each[: len(of_tokens)], of_tokens, rtol=1e-12, atol=1e-12)
            assert not each[len(of_tokens) :].any()
        assert np.isneginf(found.scores[b, number:]).all() and not found.lengths[b, number:].any()
        assert not found.tokens[b, number:].any()


@pytest.mark.parametrize("name", ENGINES)
@given(search=searches())
def test_with_beams_enough_it_is_the_enumeration(name, search):
    model, options = search
    found = found_by(model, options, name, num_beams=3**3)
    expected = [enumerated(model, b, options) for b in range(3)]
    if name == "keras":  # it may compute in float32
        for b, of_sentence in enumerate(expected):
            best = [score for score, *_ in of_sentence[: options["n_best"]]]
            np.testing.assert_allclose(found.scores[b, : len(best)], best, rtol=1e-4, atol=1e-4)
    else:
        assert_found(found, expected, options["n_best"])


@given(
    search=searches(max_length=6),
    num_beams=st.integers(1, 4),
    num_groups=st.integers(1, 3),
    diversity_penalty=st.sampled_from((0.0, 0.3, 5.0)),
    patience=st.sampled_from((None, 0.4, 1.0, 1.7)),
)
def test_with_few_beams_it_is_the_search_written_as_lists(
    search, num_beams, num_groups, diversity_penalty, patience
):
    model, options = search
    options["num_beams"], options["num_groups"] = num_beams * num_groups, num_groups
    options["diversity_penalty"], options["patience"] = diversity_penalty, patience
    found = found_by(model, options)
    number = num_groups * options["n_best"]
    assert_found(found, [searched(model, b, options) for b in range(3)], number)


@given(
    search=searches(max_length=8), num_beams=st.integers(1, 4), num_groups=st.sampled_from((1, 2))
)
def test_an_early_stop_changes_nothing_nor_do_other_sentences(search, num_beams, num_groups):
    model, options = search
    options |= {"allowed": False, "num_groups": num_groups, "diversity_penalty": 0.7}
    num_beams *= num_groups
    results = found_by(model, options, num_beams=num_beams, early_stopping=True)
    for array, other in zip(
        results,
        found_by(model, options, num_beams=num_beams, early_stopping=False),
        strict=True,
    ):
        np.testing.assert_array_equal(array, other)
    for b in range(3):
        alone = dict(options)
        if "prefix" in options:
            alone["prefix"] = {0: options["prefix"][b]}
        of_one = found_by(model.of([b]), alone, num_beams=num_beams)
        longest = of_one.tokens.shape[2]
        np.testing.assert_array_equal(of_one.tokens[0], results.tokens[b, :, :longest])
        np.testing.assert_array_equal(of_one.lengths[0], results.lengths[b])
        np.testing.assert_allclose(of_one.scores[0], results.scores[b], rtol=1e-14)


@pytest.mark.parametrize(("length_penalty", "best"), ((1.0, [1, 2, 3, 4]), (0.0, []), (-1.0, [])))
def test_no_stop_before_a_longer_one_can_no_longer_be_better(length_penalty, best):
    # after the start, 0, ending at once is more probable than 1, 2, 3, 4, but its average is lower
    p = np.full((5, 5), 0.001)
    p[0, :2] = 0.7, 0.297
    p[[1, 2, 3, 4], [2, 3, 4, END]] = 0.996

    def step(tokens, states, context, ancestry):
        return np.log(p)[tokens], states, context

    for num_beams in (1, 2, 4):
        search = BeamSearch(END, num_beams=num_beams, max_length=8, length_penalty=length_penalty)
        found = search(step, start=[0])
        assert found.tokens[0, 0, : found.lengths[0, 0]].tolist() == best


def test_the_score_is_the_likelihood_of_the_model(rng):
    model = RecurrentModel(rng, 50, batch=8)
    found = found_by(model, {"max_length": 20}, num_beams=5, n_best=5, length_penalty=1.0)
    for b in range(8):
        for i in range(5):
            tokens = found.tokens[b, i, : found.lengths[b, i]]
            average, log_p, *_ = hypothesis_of(model, b, list(tokens), {"length_penalty": 1.0})
            np.testing.assert_allclose(found.scores[b, i], average, rtol=1e-13)
            np.testing.assert_allclose(found.log_likelihoods[b, i], log_p, rtol=1e-13)


def test_attention_is_that_by_which_each_token_was_predicted(rng):
    model = RecurrentModel(rng, 8, batch=6)
    options = {"num_beams": 4, "n_best": 3, "max_length": 9, "return_attention": True}
    found = found_by(model, {**options, "num_groups": 2, "diversity_penalty": 0.5})
    assert found.attention.shape == (6, 6, int(found.lengths.max()) + 1, 3)
    for b in range(6):
        for i in range(6):
            n = found.lengths[b, i]
            steps = model.probabilities(b, found.tokens[b, i, :n].tolist())
            expected = [attention for _, attention in steps]
            np.testing.assert_allclose(found.attention[b, i, : n + 1], expected, rtol=1e-12)
            assert not found.attention[b, i, n + 1 :].any()


def test_groups_differ(rng):
    model = RecurrentModel(rng, 30, batch=4)
    options = {"num_beams": 6, "n_best": 1, "num_groups": 3, "max_length": 6, "min_length": 6}
    same = found_by(model, options)
    np.testing.assert_array_equal(same.tokens[:, 0], same.tokens[:, 2])
    other = found_by(model, {**options, "diversity_penalty": 50.0})
    tokens = other.tokens  # in each step every group has another token
    assert (tokens[:, 0] != tokens[:, 1]).all() and (tokens[:, 1] != tokens[:, 2]).all()


def test_a_bias_is_lost_by_leaving_the_prefix_and_1_forces_it(rng):
    model = RecurrentModel(rng, 9, batch=2)
    prefix = {0: [3, 4, 5], 1: [2]}
    options = {"max_length": 8, "num_beams": 4, "prefix": prefix}
    almost = found_by(model, {**options, "prefix_bias": 1 - 1e-12})
    forced = found_by(model, options)
    np.testing.assert_array_equal(almost.tokens, forced.tokens)
    weak, without = (
        found_by(model, {**options, **more})
        for more in ({"prefix_bias": 1e-300}, {"prefix": {0: [], 1: []}})
    )
    np.testing.assert_array_equal(weak.tokens, without.tokens)
    np.testing.assert_allclose(weak.scores, without.scores, rtol=1e-12)


def test_sentences_that_are_done_leave_the_batch(rng):
    model, sizes = RecurrentModel(rng, 6, batch=16), []
    model.context[::2, END] += 4  # so that these end soon
    step = model.step
    model.step = lambda tokens, *more: (sizes.append(len(tokens)), step(tokens, *more))[1]
    found = found_by(model, {"max_length": 30, "min_length": 1}, num_beams=3)
    assert sizes[0] == 16 and min(sizes) < 16 and sizes == sorted(sizes, reverse=True)
    assert (found.scores > -np.inf).all()


def test_a_cache_is_read_through_the_ancestry_and_never_reordered(rng):
    batch, beams, vocabulary, size, most = 4, 3, 7, 5, 9
    embedding, u = rng.standard_normal((vocabulary, size)), rng.standard_normal((size, vocabulary))
    start = rng.integers(1, vocabulary, batch)
    decay = 0.8 ** np.arange(most)

    def with_states(tokens, states, context, ancestry):
        states = 0.8 * states + embedding[tokens]
        return states @ u, states, context

    def with_cache(tokens, states, cache, ancestry):
        steps = ancestry.shape[2]
        cache[:, :, steps - 1] = embedding[tokens]
        b, t = np.arange(len(tokens))[:, None, None], np.arange(steps)
        read = cache[b, ancestry, t]  # (batch, beams, steps, size)
        return np.einsum("bkts,t->bks", read, decay[:steps][::-1]) @ u, states, cache

    search = BeamSearch(END, num_beams=beams, n_best=3, max_length=most - 1, length_penalty=0.5)
    expected = search(with_states, np.zeros((batch, size)), start=start)
    found = search(with_cache, None, np.zeros((batch, beams, most, size)), start=start)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-12)


def test_states_are_tensors_if_they_came_as_such(rng):
    pytest.importorskip("keras")
    from keras import ops

    model = RecurrentModel(rng, 9, batch=6)
    w, e, u = (ops.convert_to_tensor(array, "float32") for array in (model.w, model.e, model.u))

    def step(tokens, states, context, ancestry):
        hidden = ops.tanh(ops.matmul(states["h"][0], w) + ops.take(e, tokens, axis=0))
        return ops.matmul(hidden, u) + context[:, None], {"h": [hidden]}, context

    search = BeamSearch(END, num_beams=3, max_length=12, suppressed=(3,), min_length=2)
    states = {"h": [ops.convert_to_tensor(model.states, "float32")]}
    context = ops.convert_to_tensor(model.context, "float32")
    found = search(step, states, context, start=model.start)
    expected = search(model.step, model.states, model.context, start=model.start)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)


def test_no_sentence_and_no_hypothesis(rng):
    model = RecurrentModel(rng, 4, batch=3)
    found = found_by(model.of([]), {"max_length": 5})
    assert found.tokens.shape == (0, 1, 0) and found.scores.shape == (0, 1)
    model.context[1, END] = -np.inf  # so that it never ends
    found = found_by(model, {"max_length": 5})
    assert np.isneginf(found.scores[1, 0]) and found.lengths[1, 0] == 0
    assert (found.scores[[0, 2]] > -np.inf).all()


MODEL = RecurrentModel(np.random.default_rng(0), 4, batch=2)
BAD = {
    r"^end=-1 must be an integer": {"end": -1},
    r"^end must be tokens in 0\.\.3, which step has logits of, got 4": {"end": 4},
    r"^num_beams=0 must be": {"num_beams": 0},
    r"^n_best=True must be": {"n_best": True},
    r"^min_length=7 must be an integer in 0\.\.6": {"min_length": 7, "max_length": 6},
    r"^max_length=-1 must be": {"max_length": -1},
    r"^length_penalty=nan must be a finite number": {"length_penalty": np.nan},
    r"^coverage_penalty=-1 must be a finite number of at least 0": {"coverage_penalty": -1},
    r"^diversity_penalty=-1 must be a finite number of at least 0": {"diversity_penalty": -1},
    r"^temperature=0 must be a finite number above 0": {"temperature": 0},
    r"^num_groups=5 must be an integer in 1\.\.4": {"num_groups": 5},
    r"^num_beams must be a multiple of num_groups=3, got 4": {"num_groups": 3},
    r"^prefix_bias=0 must be a finite number above 0 and at most 1": {"prefix_bias": 0},
    r"^patience=0 must be a finite number above 0": {"patience": 0},
    r"^source_mask must be given, booleans": {"coverage_penalty": 0.5},
    r"^source_mask must be given, .* or return_attention": {"return_attention": True},
    r"^repetition_penalty=-1 must be": {"repetition_penalty": -1},
    r"^suppressed must not hold end=0": {"suppressed": (1, 0)},
    r"^suppressed must be tokens in 0\.\.3.* got 9": {"suppressed": (9,)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_raise(message):
    with pytest.raises(ValueError, match=message):
        search = BeamSearch(**{"end": END, **BAD[message]})
        search(MODEL.step, MODEL.states, MODEL.context, start=MODEL.start)


def test_bad_arguments_of_a_search_raise():
    search, given = BeamSearch(END, max_length=3), (MODEL.states, MODEL.context)
    with pytest.raises(ValueError, match=r"^start, states and context must agree on the batch"):
        search(MODEL.step, *given, start=[1, 2, 3])
    with pytest.raises(ValueError, match=r"^start must be an array of shape \(batch,\) without"):
        search(MODEL.step, start=1)
    with pytest.raises(ValueError, match=r"^step must return logits of shape .* got \(2, 4\)"):
        search(lambda *_: (np.zeros((2, 4)), None, None), *given, start=1)
    for prefix, message in (
        (np.zeros((2, 1)), r"^prefix must be integers of shape \(batch, steps\)"),
        ([[1], [1], [1]], r"^prefix must be integers of shape .* = \(2, steps\)"),
        ([[1, 1, 1, 1], [1, -1, -1, -1]], r"^prefix must have at most max_length=3 tokens"),
        ([[1, END], [1, -1]], r"^prefix must not hold end=0"),
        ([[1, 4], [1, -1]], r"^prefix must be tokens in 0\.\.3, or negative, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            search(MODEL.step, *given, start=1, prefix=prefix)
    for mask, message in (
        (np.ones((2, 3)), r"^source_mask must be booleans of shape .* got float64"),
        (np.ones((3, 3), bool), r"^source_mask must have 2 rows, .* got 3"),
        (np.ones((2, 4), bool), r"^step must return attention .* = \(2, 4, 4\), got \(2, 4, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            with_coverage = BeamSearch(END, max_length=3, coverage_penalty=0.1)
            with_coverage(MODEL.step, *given, start=1, source_mask=mask)
    for allowed, message in (
        (np.ones(4), r"^allowed must be booleans of shape \(vocabulary,\) or .* got float64"),
        (np.ones((2, 1, 4), bool), r"^allowed must be booleans .* got bool of shape \(2, 1, 4\)"),
        (np.ones(5, bool), r"^allowed must have shape .* got \(2, 1, 5\)"),
        (lambda *_: np.ones(5, bool), r"^allowed must return booleans of shape .* got bool of"),
    ):
        with pytest.raises(ValueError, match=message):
            search(MODEL.step, *given, start=1, allowed=allowed)
    spoiled = MODEL.context.copy()
    spoiled[1, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"^step returned logits of NaN .* of sentence 1 in step 0"
    ):
        search(MODEL.step, MODEL.states, spoiled, start=1)
