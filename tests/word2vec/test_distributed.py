"""Training in rounds of several workers, by stand-ins for Ray and Spark."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fastkeras
from fastkeras.word2vec import Doc2Vec, Word2Vec
from fastkeras.word2vec.distributed import WAY, averages, fit_with_spark, on_spark, rounds
from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.training import matrices, parts, sampling
from fastkeras.word2vec.training.loop import CUT
from fastkeras.word2vec.training.settings import BOTH, TREE, Schedule, Settings, tables_of
from word2vec.stand_ins import Ray, Spark
from word2vec.workers import COUNTS, FUNCTIONS, VOCABULARY, WORDS, assert_same, fit, small

ONE, TWO = ({"num_workers": n, "words_between": CUT} for n in (1, 2))


@pytest.fixture
def ids(rng):
    ids = rng.choice(WORDS, 5 * CUT + 700, p=COUNTS / COUNTS.sum()).astype(np.int32)
    ids[rng.random(len(ids)) < 0.05] = -1
    return ids


@pytest.mark.parametrize("loss", ["negative_sampling", TREE, BOTH])
@pytest.mark.parametrize("subwords", [False, True])
def test_updates_are_those_that_a_pass_makes(loss, subwords, ids):
    reference, ids = import_module("fastkeras.word2vec._engines.reference"), ids[:2000]
    bags = bags_of(VOCABULARY.words, 50, 2, 3) if subwords else None
    settings = Settings(loss=loss, negative=3, objective="cbow")
    tables = tables_of(COUNTS, settings, bags=bags)
    key = sampling.key_of(1, 0)
    rows = (bags.num_rows if bags else WORDS), 2 * WORDS
    expected = np.zeros(rows[0]), np.zeros(rows[1])
    for at in np.flatnonzero(ids >= 0):
        np.add.at(expected[0], reference.rows_of(ids[at], tables), 1)
        (drawn, _), *_ = reference.draw(at, ids[at], 1, tables, settings, key)
        np.add.at(expected[1], drawn, 1)
    found = averages.updates(ids, tables, settings, rows)
    np.testing.assert_allclose(found[0], expected[0])
    if loss == TREE:
        np.testing.assert_allclose(found[1], expected[1])
    else:  # noise is counted by its expectation
        spread = 6 * np.sqrt(found[1] + 1)
        assert (np.abs(found[1] - expected[1]) < spread).all()
        assert abs(found[1].sum() / expected[1].sum() - 1) < 0.02


def test_probabilities_are_those_of_the_alias_table():
    weights = COUNTS**0.75
    noise = sampling.alias_table(weights)
    expected = weights / weights.sum()
    np.testing.assert_allclose(averages.probabilities_of(noise), expected, rtol=1e-6)


def test_small_changes_are_summed_and_large_ones_averaged(rng):
    """Each worker moves a row by 1 − exp(−u) of its way to a target; together by 1 − exp(−Σ u)."""
    before, target = rng.standard_normal((2, 5000, 16)).astype(np.float32)
    ways = rng.exponential(size=(2, 5000)) * 10.0 ** rng.integers(-9, 3, (2, 5000))
    ways[1:, ::7] = 0
    way_to_go = target.astype(float) - before
    trained = [(before - np.expm1(-u)[:, None] * way_to_go).astype(np.float32) for u in ways]
    found = averages.combined(before, trained, ways, 1)
    expected = before - np.expm1(-ways.sum(0))[:, None] * way_to_go
    np.testing.assert_allclose(found, expected, atol=3e-6)
    np.testing.assert_array_equal(found[::7], trained[0][::7])  # of one worker alone
    still = averages.combined(before, [before, before], np.zeros((2, 5000)), 1)
    np.testing.assert_array_equal(still, before)
    of_one = averages.combined(before, trained[:1], ways[:1], 1)
    np.testing.assert_array_equal(of_one, trained[0])


def test_a_larger_rate_is_taken_back(rng):
    before, *trained = rng.standard_normal((4, 50, 16)).astype(np.float32)
    changes = np.subtract(trained, before, dtype=float)
    ways = np.full((3, 50), 1e-9)
    for factor, divisor in {2: 2, 1.2: 1.5}.items():  # at most twice the mean
        small = averages.combined(before, trained, ways, factor)
        np.testing.assert_allclose(small, before + changes.sum(0) / divisor, atol=2e-6)
    large = averages.combined(before, trained, 1e9 * ways, 2)
    for mean in large, averages.combined(before, trained, ways, 3):
        np.testing.assert_allclose(mean, np.mean(trained, 0), atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_parts_one_after_the_other_are_the_whole(number, ids):
    """What is drawn, and the rate, depend on the place in the corpus alone."""
    settings = Settings(window=4, shared_negatives=True)
    tables = tables_of(COUNTS, settings)
    key, schedule = sampling.key_of(1, 1), Schedule(0.05, -1e-6)
    of_parts, whole = (matrices.new(WORDS, WORDS, 20, 1) for _ in range(2))
    engine = import_module("fastkeras.word2vec._engines.native")
    engine.train(ids, CUT, len(ids), *whole, tables, settings, key, schedule, 1)
    parts = rounds.parts_of(ids, CUT, len(ids), number)
    assert len(parts) <= number and all(part.first % 1024 == 0 for part in parts)
    work = rounds.Work("native", tables, settings, 1.0, 1.0, 1, False)
    for part in parts:
        rounds.train_part(part, of_parts, work, key, schedule)
    for part, expected in zip(of_parts, whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_window_reaches_into_the_text_beside_its_part(ids, monkeypatch):
    monkeypatch.setattr(rounds, "MARGIN", 1024)
    test_parts_one_after_the_other_are_the_whole(3, ids)


@pytest.mark.parametrize("more", [{}, {"subwords": True, "buckets": 50}, {"loss": BOTH}])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_one_worker_gives_the_bits_of_one_machine(kind, more, ids, stand_in):
    stand_in(kind)
    model = fit(small(**more), ids, FUNCTIONS[kind][0], **ONE)
    alone = fit(small(**more), ids, Word2Vec.fit)
    assert_same(model, alone)
    np.testing.assert_allclose(model.history["loss"], alone.history["loss"])
    model.partial_fit(ids, progress=False)  # an ordinary model
    assert "engine" not in vars(model) and len(model.history["loss"]) == 3


@pytest.mark.parametrize(
    "factor, given, more",
    [(2, None, {}), (1.5, 1.5, {}), (1, None, {"objective": "cbow"})],
)
def test_rounds_of_two_workers(factor, given, more, ids, stand_in):
    """The first round by hand."""
    stand_in(Ray)
    model, alone = (small(epochs=1, learning_rate=0.1, **more) for _ in range(2))
    stop = lambda status: True  # noqa: E731
    fit(model, ids, **TWO, rate_factor=given, callbacks=[stop])
    parts.begin(alone, VOCABULARY)
    slope = (1e-4 - 0.1) / len(ids)
    key, schedule = sampling.key_of(1, 0), Schedule(factor * 0.1, factor * slope)
    way = WAY / (0.25 if more else 0.025)
    work = rounds.Work("native", parts.tables_of(alone), alone._settings, factor, way, 1, False)
    trained, ways = [], []
    for i, part in enumerate(rounds.parts_of(ids, 0, 2 * CUT, 2)):
        trained.append([matrices.padded_copy(matrix) for matrix in alone._matrices])
        ways.append(rounds.train_part(part, trained[-1], work, key, schedule)[0])
        text = ids[max(i * CUT - 5, 0) : (i + 1) * CUT + 5]
        updates = averages.updates(text, *work[1:3], (WORDS, WORDS))
        rate = factor * (0.1 + slope * (i + 0.5) * CUT)
        for found, expected in zip(ways[-1], updates, strict=True):
            np.testing.assert_allclose(found, way * rate * expected)
    of_both = [list(zip(*of_workers, strict=True)) for of_workers in (trained, ways)]
    for matrix, *of_matrix in zip(model._matrices, alone._matrices, *of_both, strict=True):
        np.testing.assert_array_equal(matrix, averages.combined(*of_matrix, factor))
        if factor == 2:
            np.testing.assert_allclose(matrix, np.mean(of_matrix[1], axis=0), atol=1e-6)


def test_spark_gives_the_bits_of_ray(ids, stand_in):
    ids[CUT : 2 * CUT + 100] = -1  # the part of one worker has no words
    stand_in(Ray)
    of_ray = fit(small(), ids, num_workers=3, words_between=CUT)
    stand_in(Spark)
    assert_same(fit(small(), ids, fit_with_spark, num_workers=3, words_between=CUT), of_ray)


@pytest.mark.parametrize("kind, lost", [(Ray, {2, 7}), (Spark, {1, 3})])
def test_a_lost_worker_changes_nothing(kind, lost, ids, stand_in):
    function, _ = FUNCTIONS[kind]
    stand_in(kind)
    undisturbed = fit(small(), ids, function, **TWO)
    stand_in(kind, lost=lost)
    with pytest.warns(UserWarning, match=r"round 1 at \d+ was lost: a worker was killed$"):
        assert_same(fit(small(), ids, function, **TWO), undisturbed)


@pytest.mark.parametrize("kind, first", [(Ray, 5), (Spark, 2)])
def test_lost_for_good_leaves_a_model_that_resumes(kind, first, ids, stand_in, tmp_path):
    fit_with, resume_with = FUNCTIONS[kind]
    stand_in(kind)
    undisturbed = fit(small(), ids, fit_with, **TWO)
    stand_in(kind, lost=set(range(first, 1000)))
    model = small()
    told = f"position {2 * CUT}, and {resume_with.__name__} goes on"
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match=told):
        fit(model, ids, fit_with, **TWO)
    model.save(tmp_path / "model.npz")
    stand_in(kind)
    again = Word2Vec.load(tmp_path / "model.npz")
    resume_with(again, ids, **TWO, progress=False)
    assert_same(again, undisturbed)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_an_error_of_the_training_is_raised_at_once(kind, ids, stand_in, monkeypatch):
    stood_in = stand_in(kind)
    monkeypatch.setattr(fastkeras, "__version__", "0.0.1")  # of the workers
    with pytest.raises(ValueError, match=r"has fastkeras 0\.0\.1, the calling process "):
        fit(small(), ids, FUNCTIONS[kind][0], **TWO)
    assert getattr(stood_in, "jobs", 1) == 1


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_text_with_less_work_than_workers(kind, ids, stand_in):
    stand_in(kind)
    model = small(epochs=1)
    with pytest.warns(UserWarning, match="num_workers=8: .* for 2 workers"):
        fit(model, ids[: CUT + 5], FUNCTIONS[kind][0], num_workers=8)
    assert len(model.history["loss"]) == 1


@pytest.mark.parametrize(
    "num_threads, processors, num_workers, threads",
    [(0, (8, 8), 2, 8), (0, (8, 4), 2, 4), (0, (2,), 5, 1), (3, (8,), 2, 3)],
)
def test_processors_are_shared_out(num_threads, processors, num_workers, threads, ids, stand_in):
    ray = stand_in(Ray, processors=processors)
    fit(small(num_threads=num_threads, epochs=1), ids, num_workers=num_workers)
    assert ray.asked[0]["num_cpus"] == threads


def test_spark_decides_on_processors(ids, stand_in):
    stand_in(Spark, spark_task_cpus="2")
    with pytest.raises(ValueError, match=r"num_threads=3 of each worker: .* a task 2; .*cpus=3"):
        fit(small(num_threads=3), ids, fit_with_spark, **TWO)
    fit(small(num_threads=0, epochs=1), ids, fit_with_spark, **TWO)


@pytest.mark.parametrize("limit, is_enough", [("20k", False), ("1M", True), ("0", True)])
def test_what_spark_cannot_send_back_is_named(limit, is_enough, ids, stand_in, monkeypatch):
    monkeypatch.setattr(on_spark, "SHARE", 5000)  # several shares for each worker
    stand_in(Spark, spark_driver_maxResultSize=limit)
    if is_enough:
        fit(small(epochs=1), ids, fit_with_spark, **TWO)
    else:
        with pytest.raises(ValueError, match=r"spark\.driver\.maxResultSize is 20k: begin"):
            fit(small(epochs=1), ids, fit_with_spark, **TWO)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_is_wrong_is_named(kind, ids, stand_in, monkeypatch):
    fit_with, resume_with = FUNCTIONS[kind]
    stood_in = stand_in(kind)
    for bad in {"num_workers": 0}, {"words_between": 0}, {"rate_factor": 0.5}, {"num_workers": 1.5}:
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            fit(small(), ids, fit_with, **{**TWO, **bad})
    with pytest.raises(ValueError, match=r"num_threads=5 of each worker"):
        fit(small(num_threads=5), ids, fit_with, **TWO)
    times = {2: "large, or else rate_factor=2 for it", 1: "large$"}
    for number, told in times.items():
        with pytest.raises(FloatingPointError, match=told):
            fit(small(learning_rate=1e20), ids, fit_with, num_workers=number, words_between=CUT)
    with pytest.raises(TypeError, match=r"must be a fastkeras\.word2vec\.Word2Vec"):
        fit(Doc2Vec(), ids, fit_with, **TWO)
    with pytest.raises(ValueError, match="call fit first"):
        resume_with(small(), ids, **TWO)
    for name in stood_in.modules():
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastkeras\[(ray|spark)\]'"):
        fit(small(), ids, fit_with, **TWO)


@pytest.mark.parametrize("kind, first", [(Ray, 9), (Spark, 3)])
def test_the_example_goes_on_where_it_was_stopped(
    kind, first, stand_in, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    example = import_module("word2vec_workers")
    stand_in(kind, lost=set(range(first, 1000)))
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and the dog ran by\n" * 800)
    arguments = ["example", str(path), "--epochs", "2", "--output", str(tmp_path)]
    arguments += ["--on", kind.__name__.lower(), "--words", "cat"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(example, "MINUTES", 0)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="goes on from there"):
        example.main()
    assert Word2Vec.load(tmp_path / "model.npz")._state["position"] > 0
    stand_in(kind)
    example.main()
    assert "epoch 2" in capsys.readouterr().out
    assert len(Word2Vec.load(tmp_path / "model.npz").history["loss"]) == 2
