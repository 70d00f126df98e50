"""Every engine of Word2Vec against the reference, on problems drawn by hypothesis."""

import inspect
from importlib import import_module

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from accuracy import assert_as_accurate_as_reference
from engine_parameters import engines_of
from fastkeras import _engines
from fastkeras.word2vec._engines import reference
from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import (
    BLOCK,
    BLOCKS_IN_ROUND,
    BOTH,
    LOSSES,
    OBJECTIVES,
    Documents,
    Schedule,
    Settings,
    output_rows,
    padded,
    tables_of,
)

ENGINES = _engines.DOMAINS["word2vec"]


@pytest.fixture(scope="module", params=engines_of("word2vec"))
def engine(request):
    return import_module(f"fastkeras.word2vec._engines.{request.param}")


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request):
    """Each instruction set of the native engine that this processor has."""
    from fastkeras import _core

    usual = _core.instruction_set()
    try:
        _core.set_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _core.set_instruction_set(usual)


class Problem:
    """A corpus with random matrices; few words, so that rows repeat, or many."""

    def __init__(
        self,
        settings,
        rng,
        *,
        words,
        size,
        length,
        scale=0.5,
        buckets=None,
        documents=None,
        **tables,
    ):
        self.settings, self.size = settings, size
        counts = np.sort(rng.integers(1, 1000, words))[::-1]
        bags = None
        if buckets:  # of words that share many n-grams
            names = ["".join(rng.choice(list("abé"), rng.integers(9))) for _ in range(words)]
            bags = bags_of(names, buckets, 2, 4)
        self.tables = tables_of(counts, settings, bags=bags, **tables)
        weights = counts / counts.sum()
        self.ids = rng.choice(words, length, p=weights).astype(np.int32)
        self.ids[rng.random(length) < 0.05] = -1
        self.matrices = []
        for rows in (bags.num_rows if bags else words, output_rows(words, settings)):
            matrix = np.zeros((rows, padded(size)), np.float32)
            matrix[:, :size] = scale * rng.standard_normal((rows, size))
            self.matrices.append(matrix)
        self.documents = None
        if documents:  # sentences of one document need not stand together
            vectors = np.zeros((documents, padded(size)), np.float32)
            vectors[:, :size] = scale * rng.standard_normal((documents, size))
            of_sentence = rng.integers(0, documents, length + 1)
            sentences = np.cumsum(self.ids < 0)
            self.documents = Documents(of_sentence[sentences].astype(np.int32), vectors)
        self.key = sampling.key_of(int(rng.integers(1000)), 2)
        self.schedule = Schedule(0.05, -0.02 / max(length, 1))

    def train(self, engine, dtype="float32", begin=0, end=None, **more):
        """Return the matrices after a pass, and the pass's result; documents are further inputs."""
        inputs, outputs = (matrix.astype(dtype) for matrix in self.matrices)
        end = len(self.ids) if end is None else end
        common = (self.tables, self.settings, self.key, self.schedule)
        if self.documents is not None:
            vectors = self.documents.vectors.astype(dtype)
            more["documents"] = self.documents._replace(vectors=vectors)
        done = engine.train(self.ids, begin, end, inputs, outputs, *common, **more)
        if self.documents is not None:
            inputs = np.concatenate([inputs, vectors])
        return inputs, outputs, done

    @property
    def before(self):
        """The matrices before the pass, as `train` returns them."""
        inputs, outputs = self.matrices
        if self.documents is not None:
            inputs = np.concatenate([inputs, self.documents.vectors])
        return inputs, outputs

    def touches(self, begin, end):
        """Return an upper bound for how often a row is updated."""
        found = reference.windows(self.ids, begin, end, self.tables, self.settings, self.key)
        return 1 + sum(len(contexts) + (self.documents is not None) for _, _, contexts in found)

    def check(self, engine, begin=0, end=None, **more):
        end = len(self.ids) if end is None else end
        result = self.train(engine, begin=begin, end=end, **more)
        only = {"deterministic": more["deterministic"]} if "deterministic" in more else {}
        exact = self.train(reference, "float64", begin, end, **only)
        rounded = self.train(reference, "float32", begin, end, **only)
        steps = self.touches(begin, end)
        for arrays in zip(result[:2], exact[:2], rounded[:2], strict=True):
            scale = np.abs(arrays[1]).max()
            assert_as_accurate_as_reference(*arrays, scale, steps=steps)
            np.testing.assert_array_equal(arrays[0][:, self.size :], 0)
        losses = (np.float64(part[2][0]) for part in (result, exact, rounded))
        sum_in_float32 = exact[2][0] * 2**29  # so that its ulp is that of a sum of float32 logits
        assert_as_accurate_as_reference(*losses, np.float32(scale), sum_in_float32, steps=steps)
        assert result[2][1:] == exact[2][1:]
        for before, after, wide in zip(self.before, result[:2], exact[:2], strict=True):
            untouched = (wide == before).all(axis=1)
            np.testing.assert_array_equal(after[untouched], before[untouched])


@st.composite
def problems(draw, objectives=OBJECTIVES, losses=LOSSES, with_documents=False):
    objective = draw(st.sampled_from(objectives), label="objective")
    loss = draw(st.sampled_from(losses), label="loss")
    shared = objective == "skipgram" and loss != "hierarchical_softmax" and draw(st.booleans())
    settings = Settings(
        objective=objective,
        loss=loss,
        window=draw(st.sampled_from((1, 2, 5, 11, 2**31 - 1)), label="window"),
        negative=draw(st.sampled_from((0, 1, 2, 4, 5, 6, 11, 17)), label="negative"),
        shared_negatives=shared,
        exact_cbow=draw(st.booleans()),
        shrink_windows=draw(st.booleans()),
        exact_subwords=draw(st.booleans()),
        documents_alone=with_documents and draw(st.booleans()),
        frozen=with_documents and draw(st.booleans()),
    )
    return Problem(
        settings,
        np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed")),
        words=draw(st.sampled_from((1, 2, 5, 50, 2000)), label="words"),
        size=draw(st.sampled_from((1, 7, 16, 33, 100, 112)), label="vector size"),
        length=draw(st.sampled_from((0, 1, 2, 30, 100)), label="length"),
        buckets=None if with_documents else draw(st.sampled_from((None, 1, 7, 1000))),
        documents=draw(st.sampled_from((1, 3, 40))) if with_documents else None,
        sample=draw(st.sampled_from((0.0, 1e-2))),
        ns_exponent=draw(st.sampled_from((0.0, 0.75))),
        sampling_correction=draw(st.booleans()),
    )


@pytest.mark.parametrize("name", ENGINES)
def test_engines_have_the_signature_of_the_reference(name):
    module = import_module(f"fastkeras.word2vec._engines.{name}")
    actual = inspect.signature(module.train).parameters
    assert list(actual) == list(inspect.signature(reference.train).parameters)


def skip_unless_it_takes(engine, buckets):
    if buckets and not hasattr(engine, "SUBWORDS"):
        pytest.skip(f"{_engines.name_of(engine)} does not take subwords")


@given(problem=problems())
def test_pass_is_that_of_the_reference(engine, problem):
    assume(hasattr(engine, "SUBWORDS") or not len(problem.tables.bag_starts))
    assume(hasattr(engine, "BOTH_LOSSES") or problem.settings.loss != BOTH)
    problem.check(engine, num_threads=1)


@given(problem=problems(with_documents=True), deterministic=st.booleans())
def test_documents_are_inputs_beside_the_words(engine, problem, deterministic):
    if not hasattr(engine, "DOCUMENTS"):
        pytest.skip(f"{_engines.name_of(engine)} does not take documents")
    problem.check(engine, num_threads=2 if deterministic else 1, deterministic=deterministic)
    if problem.settings.frozen:
        result = problem.train(engine, num_threads=1)
        words = len(problem.matrices[0])
        np.testing.assert_array_equal(result[0][:words], problem.matrices[0])
        np.testing.assert_array_equal(result[1], problem.matrices[1])


@pytest.mark.parametrize("buckets", [None, 200])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_instruction_set_agrees_with_the_reference(
    instruction_set, objective, shared, loss, buckets, rng
):
    if shared and (objective == "cbow" or loss == "hierarchical_softmax"):
        pytest.skip("nothing to share: one set for a window by definition")
    native = import_module("fastkeras.word2vec._engines.native")
    for negative, size in ((5, 100), (9, 20)):
        settings = Settings(objective, loss, negative=negative, shared_negatives=shared)
        problem = Problem(settings, rng, words=300, size=size, length=150, buckets=buckets)
        problem.check(native, num_threads=1)


@pytest.mark.parametrize("begin, end", [(0, 1), (3, 3), (700, 1900), (1024, 2048), (2200, 2500)])
def test_slice_sees_its_surroundings(engine, begin, end, rng):
    problem = Problem(Settings(window=4), rng, words=900, size=12, length=2500, scale=0.1)
    problem.check(engine, begin, end)


@pytest.mark.parametrize("buckets", [None, 200])
def test_slices_one_after_the_other_are_the_whole(engine, buckets, rng):
    """Wherever they are cut, since draws depend only on the position."""
    skip_unless_it_takes(engine, buckets)
    settings = Settings(window=4, shared_negatives=True)
    problem = Problem(settings, rng, words=200, size=20, length=400, buckets=buckets)
    whole = problem.train(engine)
    own = [matrix.copy() for matrix in problem.matrices]
    common = (problem.tables, problem.settings, problem.key, problem.schedule)
    counted = np.zeros(2)
    for begin, end in ((0, 13), (13, 14), (14, 250), (250, 400)):
        counted += engine.train(problem.ids, begin, end, *own, *common)[1:]
    np.testing.assert_array_equal(counted, whole[2][1:])
    for part, expected in zip(own, whole, strict=False):
        np.testing.assert_array_equal(part, expected)


def test_sentence_longer_than_a_chunk_is_one_sentence(engine, rng):
    problem = Problem(Settings(window=3), rng, words=2000, size=8, length=3000, scale=0.1)
    problem.ids[:-1] = np.maximum(problem.ids[:-1], 0)
    problem.check(engine, 900, 1300)


@pytest.mark.parametrize("buckets", [None, 200])
def test_one_thread_repeats_bit_for_bit(engine, buckets, rng):
    skip_unless_it_takes(engine, buckets)
    settings = Settings(shared_negatives=True)
    problem = Problem(settings, rng, words=300, size=20, length=300, buckets=buckets)
    first, second = (problem.train(engine, num_threads=1) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[2] == second[2]


@pytest.mark.parametrize("buckets", [None, 200])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_deterministic_mode_does_not_depend_on_threads(engine, objective, loss, buckets, rng):
    skip_unless_it_takes(engine, buckets)
    if loss == BOTH and not hasattr(engine, "BOTH_LOSSES"):
        pytest.skip(f"{_engines.name_of(engine)} does not take both losses")
    sizes = {"words": 500, "size": 9, "length": BLOCK * BLOCKS_IN_ROUND + 700}
    problem = Problem(Settings(objective, loss), rng, **sizes, scale=0.1, buckets=buckets)
    one, two, three = (
        problem.train(engine, begin=100, num_threads=n, deterministic=True) for n in (1, 2, 3)
    )
    for other in (two, three):
        np.testing.assert_array_equal(other[0], one[0])
        np.testing.assert_array_equal(other[1], one[1])
        assert other[2] == one[2]
    assert not (one[0] == problem.matrices[0]).all()


@pytest.mark.parametrize("buckets", [None, 200])
@pytest.mark.parametrize("shared", [False, True])
def test_deterministic_rounds_are_those_of_the_reference(shared, buckets, rng):
    native = import_module("fastkeras.word2vec._engines.native")
    settings = Settings(shared_negatives=shared, window=2)
    length = BLOCK * BLOCKS_IN_ROUND + 600
    sizes = {"words": 1000, "size": 9, "length": length}
    problem = Problem(settings, rng, **sizes, scale=0.1, buckets=buckets)
    problem.check(native, 200, deterministic=True, num_threads=2)


@pytest.mark.parametrize("buckets", [None, 20_000])
def test_threads_do_all_the_work(engine, buckets, rng):
    """Without locks updates may be lost, so only the counts are exact."""
    skip_unless_it_takes(engine, buckets)
    sizes = {"words": 2000, "size": 16, "length": 40_000}
    problem = Problem(Settings(), rng, **sizes, scale=0.1, buckets=buckets)
    one = problem.train(engine, end=9000, num_threads=1)
    runs = [problem.train(engine, end=9000, num_threads=2) for _ in range(3)]
    assert all(run[2][1:] == one[2][1:] for run in runs)
    # the middle one, since a thread that waits for the processor loses more
    two = sorted(runs, key=lambda run: run[2][0])[1]
    np.testing.assert_allclose(two[2][0], one[2][0], rtol=1e-2)
    assert np.abs(two[0] - one[0]).max() < np.abs(one[0] - problem.matrices[0]).max()
