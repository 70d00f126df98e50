"""Training in rounds of several workers: by a stand-in for Ray, and, where it is, by Ray itself."""

import os
import signal
import sys
import threading
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastkeras.word2vec import Doc2Vec, Word2Vec
from fastkeras.word2vec.distributed import averages, fit_with_ray, resume_with_ray, rounds
from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.training import matrices, parts, sampling
from fastkeras.word2vec.training.loop import CUT
from fastkeras.word2vec.training.settings import BOTH, TREE, Schedule, Settings, tables_of
from fastkeras.word2vec.vocabulary import Vocabulary

WORDS = 300
COUNTS = np.sort(np.random.default_rng(0).integers(5, 1000, WORDS))[::-1].astype(np.int64)
VOCABULARY = Vocabulary([f"w{i}" for i in range(WORDS)], COUNTS)
TWO = {"num_workers": 2, "words_between": CUT}


class LostError(Exception):
    """A worker was lost."""


class StandIn(SimpleNamespace):
    """What the package uses of Ray, in this process; the n-th task is lost if n is in `lost`."""

    def __init__(self, lost=(), processors=(4,)):
        task_error = type("RayTaskError", (LostError,), {})
        super().__init__(tasks=0, lost=lost, processors=processors, asked=[])
        self.exceptions = SimpleNamespace(RayError=LostError, RayTaskError=task_error)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(n)}} for n in self.processors]

    def is_initialized(self):
        return True

    def put(self, value):
        return value

    def get(self, value):
        if any(isinstance(part, Exception) for part in value):
            raise LostError("a worker was killed")
        return value

    def remote(self, *given, **options):
        def call(function, *arguments):
            if any(isinstance(argument, Exception) for argument in arguments):
                return LostError()
            self.tasks += 1
            results = function(*arguments)
            if self.tasks in self.lost:
                return [LostError() for _ in results]
            return results

        self.asked.append(options)
        wrap = lambda function: SimpleNamespace(remote=partial(call, function))  # noqa: E731
        return wrap(given[0]) if given else wrap


@pytest.fixture
def ids(rng):
    ids = rng.choice(WORDS, 5 * CUT + 700, p=COUNTS / COUNTS.sum()).astype(np.int32)
    ids[rng.random(len(ids)) < 0.05] = -1
    return ids


@pytest.fixture
def stand_in(monkeypatch):
    def replaced(**of_it):
        ray = StandIn(**of_it)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return replaced


def small(**more):
    return Word2Vec(**{"vector_size": 12, "num_threads": 1, "epochs": 2, **more})


def fit(model, ids, function=fit_with_ray, **more):
    return function(model, ids, vocabulary=VOCABULARY, progress=False, **more)


def assert_same(a, b):
    np.testing.assert_array_equal(a.input_embeddings, b.input_embeddings)
    np.testing.assert_array_equal(a.output_embeddings, b.output_embeddings)


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


def test_mean_is_weighted_and_leaves_equal_rows(rng):
    trained = rng.standard_normal((3, 5000, 16)).astype(np.float32)
    trained[1:, ::7] = trained[0, ::7]
    weights = rng.integers(0, 4, (3, 5000)).astype(float)
    weights[:, 5] = 0
    mean = averages.mean_of(trained, weights)
    np.testing.assert_array_equal(mean[::7], trained[0, ::7])
    shares = np.where(weights.sum(0) > 0, weights / np.maximum(weights.sum(0), 1), 1 / 3)
    expected = np.einsum("wr,wrc->rc", shares, trained.astype(float))
    np.testing.assert_allclose(mean, expected, atol=2e-6)


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
    work = rounds.Work("native", tables, settings, 1, False)
    for part in parts:
        rounds.train_part(part, of_parts, work, key, schedule)
    for part, expected in zip(of_parts, whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_window_reaches_into_the_text_beside_its_part(ids, monkeypatch):
    monkeypatch.setattr(rounds, "MARGIN", 1024)
    test_parts_one_after_the_other_are_the_whole(3, ids)


@pytest.mark.parametrize("more", [{}, {"subwords": True, "buckets": 50}, {"loss": BOTH}])
def test_one_worker_gives_the_bits_of_one_machine(more, ids, stand_in):
    stand_in()
    options = {"num_workers": 1, "words_between": CUT}
    model = fit(small(**more), ids, **options)
    alone = fit(small(**more), ids, Word2Vec.fit)
    assert_same(model, alone)
    np.testing.assert_allclose(model.history["loss"], alone.history["loss"])
    model.partial_fit(ids, progress=False)  # an ordinary model
    assert "engine" not in vars(model) and len(model.history["loss"]) == 3


def test_rounds_of_two_workers(ids, stand_in):
    """The first round by hand, with twice the rate and weights by updates."""
    stand_in()
    model = small(epochs=1)
    stop = lambda status: True  # noqa: E731
    fit(model, ids, **TWO, callbacks=[stop])
    alone = small(epochs=1)
    parts.begin(alone, VOCABULARY)
    slope = (1e-4 - 0.025) / len(ids)
    key, schedule = sampling.key_of(1, 0), Schedule(2 * 0.025, 2 * slope)
    work = rounds.Work("native", parts.tables_of(alone), alone._settings, 1, False)
    trained, updates = [], []
    for part in rounds.parts_of(ids, 0, 2 * CUT, 2):
        trained.append([matrices.padded_copy(matrix) for matrix in alone._matrices])
        updates.append(rounds.train_part(part, trained[-1], work, key, schedule)[0])
    for matrix, *of_matrix in zip(
        model._matrices, zip(*trained, strict=True), zip(*updates, strict=True), strict=True
    ):
        np.testing.assert_array_equal(matrix, averages.mean_of(*of_matrix))


def test_a_lost_worker_changes_nothing(ids, stand_in):
    stand_in()
    undisturbed = fit(small(), ids, **TWO)
    stand_in(lost={2, 7})
    with pytest.warns(UserWarning, match=r"round 1 at \d+ was lost: a worker was killed"):
        assert_same(fit(small(), ids, **TWO), undisturbed)


def test_lost_for_good_leaves_a_model_that_resumes(ids, stand_in, tmp_path):
    stand_in()
    undisturbed = fit(small(), ids, **TWO)
    stand_in(lost=set(range(5, 1000)))
    model = small()
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match=f"position {2 * CUT}"):
        fit(model, ids, **TWO)
    model.save(tmp_path / "model.npz")
    stand_in()
    again = Word2Vec.load(tmp_path / "model.npz")
    resume_with_ray(again, ids, **TWO, progress=False)
    assert_same(again, undisturbed)


@pytest.mark.parametrize(
    "num_threads, processors, num_workers, threads",
    [(0, (8, 8), 2, 8), (0, (8, 4), 2, 4), (0, (2,), 5, 1), (3, (8,), 2, 3)],
)
def test_processors_are_shared_out(num_threads, processors, num_workers, threads, ids, stand_in):
    ray = stand_in(processors=processors)
    fit(small(num_threads=num_threads, epochs=1), ids, num_workers=num_workers)
    assert ray.asked[0]["num_cpus"] == threads


def test_what_is_wrong_is_named(ids, stand_in, monkeypatch):
    stand_in()
    for bad in {"num_workers": 0}, {"words_between": 0}, {"rate_factor": 0.5}, {"num_workers": 1.5}:
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            fit(small(), ids, **{**TWO, **bad})
    with pytest.raises(ValueError, match=r"num_threads=5 of each worker: .* at most 4"):
        fit(small(num_threads=5), ids, **TWO)
    with pytest.raises(TypeError, match=r"must be a fastkeras\.word2vec\.Word2Vec"):
        fit(Doc2Vec(), ids, **TWO)
    with pytest.raises(ValueError, match="call fit first"):
        resume_with_ray(small(), ids, **TWO)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastkeras\[ray\]'"):
        fit(small(), ids, **TWO)


def test_the_example_goes_on_where_it_was_stopped(stand_in, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    example = import_module("word2vec_workers")
    stand_in(lost=set(range(9, 1000)))
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and the dog ran by\n" * 800)
    arguments = ["example", str(path), "--epochs", "2", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--words", "cat"])
    monkeypatch.setattr(example, "MINUTES", 0)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="goes on from there"):
        example.main()
    assert Word2Vec.load(tmp_path / "model.npz")._state["position"] > 0
    stand_in()
    example.main()
    assert "epoch 2" in capsys.readouterr().out
    assert len(Word2Vec.load(tmp_path / "model.npz").history["loss"]) == 2


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastkeras[ray]'")
    memory = {"object_store_memory": 100 << 20, "include_dashboard": False}
    ray.init(num_cpus=2, **memory, log_to_driver=False)
    yield ray
    ray.shutdown()


def kill_one(killed, done):
    """Kill the first process that trains a part."""
    while not (killed or done.is_set()):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if b"ray::train_shares" in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    return killed.append(folder.name)
            except (FileNotFoundError, ProcessLookupError):
                pass
        time.sleep(0.005)
    return None


@pytest.mark.filterwarnings("ignore::Warning")  # Ray's own
def test_ray_does_the_same_though_a_worker_is_killed(rng, cluster, monkeypatch):
    ids = np.tile(rng.choice(WORDS, 100_000, p=COUNTS / COUNTS.sum()).astype(np.int32), 8)
    ids[::12] = -1
    options = {"num_workers": 2, "words_between": len(ids) // 4}
    model, killed, done = small(vector_size=50, epochs=1), [], threading.Event()
    killer = threading.Thread(target=kill_one, args=(killed, done))
    killer.start()
    fit(model, ids, **options)
    done.set()
    killer.join()
    assert killed
    monkeypatch.setitem(sys.modules, "ray", StandIn(processors=(2,)))
    assert_same(model, fit(small(vector_size=50, epochs=1), ids, **options))
