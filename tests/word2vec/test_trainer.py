"""Training as a user runs it: learns what was planted, stops, resumes, and names what is wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastkeras
from engine_parameters import engines_of
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.training import checkpoint, matrices
from fastkeras.word2vec.training import loop as training
from fastkeras.word2vec.training.settings import BOTH, LOSSES, TREE
from fastkeras.word2vec.vocabulary import Vocabulary

ROOT = Path(fastkeras.__file__).parents[1]
HERE = Path(__file__).parent
QUIET = {"progress": False}


def planted(rng, topics=6, words_of_topic=8, sentences=1500, length=12):
    """A corpus of sentences about one topic each; the topic of each word."""
    words = topics * words_of_topic
    of_sentence = rng.integers(topics, size=sentences)
    ids = rng.integers(words_of_topic, size=(sentences, length)) * topics + of_sentence[:, None]
    ids = np.concatenate([ids, np.full((sentences, 1), -1)], axis=1).ravel()
    counts = np.bincount(ids[ids >= 0], minlength=words)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(words + 1, np.int32)
    rank[order], rank[-1] = np.arange(words), -1
    topic = order % topics
    return rank[ids], Vocabulary([f"word{i}" for i in order], counts[order]), topic


def share_of_neighbours_in_topic(vectors, topic):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    return np.mean(topic[similarity.argmax(axis=1)] == topic)


def small(**more):
    return Word2Vec(**{"vector_size": 12, "sample": 0, "window": 3, "num_threads": 1, **more})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "form",
    [
        {"objective": "skipgram"},
        {"objective": "skipgram", "shared_negatives": None},
        {"objective": "cbow", "cbow_gradient": "exact"},
        {"objective": "cbow", "cbow_gradient": "word2vec"},
    ],
)
def test_words_of_a_topic_become_neighbours(form, loss, rng):
    ids, vocabulary, topic = planted(rng)
    model = small(loss=loss, epochs=6, learning_rate=0.1, **form)
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    assert model.input_embeddings.shape == (48, 12)
    assert share_of_neighbours_in_topic(model.input_embeddings, topic) > 0.95
    losses = model.history["loss"]
    assert len(losses) == 6
    if loss not in (TREE, BOTH):  # whose first epoch already finds the optimum
        assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("engine", engines_of("word2vec"))
def test_engines_and_block_sizes_give_the_same_model(engine, rng, monkeypatch):
    ids, vocabulary, _ = planted(rng, sentences=400)
    first = small(epochs=2, engine="native").fit(ids, vocabulary=vocabulary, **QUIET)
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)  # the shortest blocks possible
    other = small(epochs=2, engine=engine).fit(ids, vocabulary=vocabulary, **QUIET)
    np.testing.assert_allclose(other.input_embeddings, first.input_embeddings, atol=1e-5)
    np.testing.assert_allclose(other.history["loss"], first.history["loss"], rtol=1e-6)
    if engine == "native":
        np.testing.assert_array_equal(other.input_embeddings, first.input_embeddings)
    assert np.abs(first.input_embeddings).max() > 0.1


def test_deterministic_models_are_equal_on_any_number_of_threads(rng):
    ids, vocabulary, topic = planted(rng)
    one, three = (
        small(deterministic=True, num_threads=n, epochs=12).fit(ids, vocabulary=vocabulary, **QUIET)
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one.input_embeddings, three.input_embeddings)
    np.testing.assert_allclose(one.history["loss"], three.history["loss"], rtol=1e-8)
    assert share_of_neighbours_in_topic(one.input_embeddings, topic) > 0.95


def test_several_threads_learn_too(rng):
    ids, vocabulary, topic = planted(rng, sentences=3000)
    model = small(num_threads=2, epochs=5, learning_rate=0.1)
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    assert share_of_neighbours_in_topic(model.input_embeddings, topic) > 0.95


def test_seeds_differ_and_repeat(rng):
    ids, vocabulary, _ = planted(rng, sentences=100)
    first, again, other = (
        small(seed=seed).fit(ids, vocabulary=vocabulary, **QUIET).input_embeddings
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not (first == other).any()


def test_callbacks_see_the_schedule_and_stop_it(rng, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)
    ids, vocabulary, _ = planted(rng)
    seen = []

    def stop_in_second_epoch(status):
        seen.append(status)
        return status.epoch == 1

    model = small(epochs=4, learning_rate=0.1, end_learning_rate=0.02)
    model.fit(ids, vocabulary=vocabulary, callbacks=[stop_in_second_epoch], **QUIET)
    assert len(model.history["loss"]) == 1
    progress = [status.progress for status in seen]
    assert progress == sorted(progress)
    assert 0.25 < progress[-1] < 0.5
    begin = 16384 / (4 * len(ids))
    np.testing.assert_allclose(seen[0].learning_rate, 0.1)
    np.testing.assert_allclose(seen[1].learning_rate, 0.1 - 0.08 * begin)
    assert all(status.words_per_second > 0 and status.seconds_left > 0 for status in seen)
    assert seen[-1].loss < seen[0].loss


def test_training_stops_early_when_the_loss_stays(rng):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(epochs=50, learning_rate=0.0, end_learning_rate=0.0, early_stopping=0.01)
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    assert len(model.history["loss"]) == 2


def test_stopped_training_resumes_to_the_same_bits(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)
    ids, vocabulary, _ = planted(rng)
    whole = small(epochs=3).fit(ids, vocabulary=vocabulary, **QUIET)
    stopped = small(epochs=3)
    stopped.fit(ids, vocabulary=vocabulary, callbacks=[lambda s: s.progress > 0.5], **QUIET)
    assert len(stopped.history["loss"]) == 1
    stopped.save(tmp_path / "model")
    loaded = Word2Vec.load(tmp_path / "model")
    assert loaded.vocabulary.words == vocabulary.words
    np.testing.assert_array_equal(loaded.input_embeddings, stopped.input_embeddings)
    loaded.resume(ids, **QUIET)
    np.testing.assert_array_equal(loaded.input_embeddings, whole.input_embeddings)
    np.testing.assert_array_equal(loaded.output_embeddings, whole.output_embeddings)
    np.testing.assert_allclose(loaded.history["loss"], whole.history["loss"], rtol=1e-8)
    before = loaded.input_embeddings.copy()
    loaded.resume(ids, **QUIET)  # nothing is left
    np.testing.assert_array_equal(loaded.input_embeddings, before)


def test_another_corpus_adds_words_and_keeps_the_others(rng):
    ids, vocabulary, _ = planted(rng, sentences=200)
    model = small().fit(ids, vocabulary=vocabulary, **QUIET)
    before = {w: model.input_embeddings[i].copy() for w, i in vocabulary.index.items()}
    third = vocabulary.words[3]
    model.partial_fit([["new"] * 400, [third] * 5, ["rare"] * 4], **QUIET)
    assert model.vocabulary.words[0] == "new" and "rare" not in model.vocabulary
    counts = dict(zip(model.vocabulary.words, model.vocabulary.counts, strict=True))
    assert counts["new"] == 400
    assert counts[third] == vocabulary.counts[3] + 5
    for word in before.keys() - {third}:  # none of them is in the corpus
        np.testing.assert_array_equal(model.vectors[word], before[word])
    assert (model.vectors[third] != before[third]).any()
    assert (model.input_embeddings[0] != 0).all()
    assert len(model.history["loss"]) == 6


@pytest.mark.parametrize("loss", [TREE, BOTH])
def test_tree_takes_no_new_words(loss, rng):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(loss=loss).fit(ids, vocabulary=vocabulary, **QUIET)
    with pytest.raises(ValueError, match=f"loss='{loss}' cannot take 1 new words, its tree"):
        model.partial_fit([["new"] * 10], **QUIET)


def test_both_losses_have_rows_of_words_and_of_inner_nodes(rng, tmp_path):
    ids, vocabulary, _ = planted(rng, sentences=50)
    words = len(vocabulary)
    model = small(loss=BOTH, epochs=1).fit(ids, vocabulary=vocabulary, **QUIET)
    assert model.output_embeddings.shape == (2 * words - 1, 12)
    assert (model.output_embeddings != 0).any(axis=1).all()
    model.save(tmp_path / "model.npz")
    again = Word2Vec.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.output_embeddings, model.output_embeddings)
    with pytest.raises(ValueError, match=f"negative=0 must be at least 1 with loss='{BOTH}'"):
        small(loss=BOTH, negative=0)


SCRIPT = """
import sys
import numpy as np
from test_trainer import Vocabulary, planted, small
from fastkeras.word2vec.training import loop as training
training.BLOCK_SECONDS = 0
ids, vocabulary, _ = planted(np.random.default_rng(3))
model = small(epochs=100_000)
tell = lambda status: print(status.epoch, flush=True)
options = dict(progress=False, callbacks=[tell], checkpoint=sys.argv[1], checkpoint_minutes=0)
try:
    model.fit(ids, vocabulary=vocabulary, **options)
except KeyboardInterrupt:
    print("interrupted", np.isfinite(model.input_embeddings).all(), flush=True)
"""


def start(path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, path],
        cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(10):
        assert process.stdout.readline()
    return process


def test_kill_while_checkpoints_are_written_leaves_a_valid_one(tmp_path, rng):
    path = tmp_path / "model"
    for wait in (0.0, 0.013, 0.05):
        with start(path) as process:
            time.sleep(wait)
            process.kill()
        model = Word2Vec.load(path)
        ids, _, _ = planted(np.random.default_rng(3))
        state = model._state
        at = state["epoch"], state["position"]
        assert at > (0, 0)
        model.resume(ids, callbacks=[lambda status: True], **QUIET)
        assert (state["epoch"], state["position"]) > at


def test_interrupt_leaves_a_checkpoint_and_a_model(tmp_path):
    path = tmp_path / "model"
    with start(path) as process:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert rest.endswith("interrupted True\n")
    assert Word2Vec.load(path)._state["epoch"] >= 0
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_training_outside_of_the_main_thread_works(rng):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(epochs=1)
    thread = threading.Thread(
        target=model.fit, args=(ids,), kwargs={"vocabulary": vocabulary, **QUIET}
    )
    thread.start()
    thread.join()
    assert len(model.history["loss"]) == 1


def test_failed_write_leaves_the_old_file(rng, tmp_path, monkeypatch):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(epochs=1).fit(ids, vocabulary=vocabulary, **QUIET)
    model.save(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_bar_shows_what_is_asked_for(rng, capsys):
    pytest.importorskip("rich", reason="rich is not installed")
    ids, vocabulary, _ = planted(rng, sentences=50)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    printed = capsys.readouterr().out
    for part in ("epoch 2/2", "words/s", "loss", "learning rate", "100%"):
        assert part in printed


def test_lines_stand_in_for_the_bar(rng, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    ids, vocabulary, _ = planted(rng, sentences=50)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    first, last = capsys.readouterr().err.splitlines()  # one at once, one at the end
    assert first.startswith("epoch 1/2") and last.startswith("epoch 2/2  100%")
    small(epochs=2).fit(ids, vocabulary=vocabulary, **QUIET)
    assert capsys.readouterr().err == ""


def test_rows_begin_on_cache_lines():
    for matrix in matrices.new(5, 3, 20, seed=1):
        assert matrix.ctypes.data % 64 == 0
        assert matrix.shape[1] == 32
        assert (matrix[:, 20:] == 0).all()


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


def test_diverged_training_says_so(rng):
    ids, vocabulary, _ = planted(rng, sentences=100)
    with pytest.raises(FloatingPointError, match=r"learning_rate=1e\+30 is too large"):
        small(learning_rate=1e30).fit(ids, vocabulary=vocabulary, **QUIET)


WHOLE_BASKETS = """
from pathlib import Path
import numpy as np
from fastkeras.word2vec import Vocabulary, Word2Vec
ids = np.tile(np.int32([0, 1, 2, -1, 3, 0, -1]), 500)
vocabulary = Vocabulary(["a", "b", "c", "d"], [1000, 500, 500, 500])
options = dict(sample=0, epochs=1, shrink_windows=False, min_count=1, engine="{engine}")
made = []
for window in (2, 100_000_000, 2**31 - 1):
    model = Word2Vec(8, window=window, num_threads=1, **options)
    made.append(model.fit(ids, vocabulary=vocabulary, progress=False).input_embeddings)
    Word2Vec(8, window=window, num_threads=2, deterministic=True, **options).fit(
        ids, vocabulary=vocabulary, progress=False
    )
np.testing.assert_array_equal(made[0], made[1])
np.testing.assert_array_equal(made[0], made[2])
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
assert int(peak) < 400 << 10, peak  # KiB
"""


@pytest.mark.parametrize("engine", ["native", "numba"])
def test_a_window_may_be_the_whole_basket(engine):
    script = WHOLE_BASKETS.replace("{engine}", engine)
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["native", "numba", "reference"])
def test_an_epoch_without_predictions_is_told(engine):
    few = [["human", "interface"], ["survey", "user", "computer"], ["trees", "graph"]] * 3
    options = {"min_count": 1, "engine": engine, "vector_size": 8, "num_threads": 1}
    with pytest.warns(RuntimeWarning, match=r"sample=0.0001 left \d of 21 words.*sample=0") as told:
        Word2Vec(sample=1e-4, **options).fit(few, **QUIET)
    assert len(told) == 1 and told[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="made 0 predictions: 30 words have few others"):
        Word2Vec(sample=0, **options).fit([["a"], ["b"]] * 15, **QUIET)
    with pytest.warns(RuntimeWarning, match="made 2 predictions: 32 words have few others"):
        Word2Vec(sample=0, epochs=1, **options).fit([["a"], ["b"]] * 15 + [["a", "b"]], **QUIET)
    Word2Vec(sample=0, **options).fit(few, **QUIET)


def test_a_log_gets_a_line_now_and_then(rng, capsys, monkeypatch):
    pytest.importorskip("rich", reason="rich is not installed")
    from fastkeras.word2vec.training import progress

    ids, vocabulary, _ = planted(rng, sentences=50)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    assert capsys.readouterr().err == ""  # it was too short
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES_OF_A_LOG", 0)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 1/2") and lines[-1].startswith("epoch 2/2  100%")
    small(min_count=1, epochs=1).fit([["a", "b"]] * 3)
    assert capsys.readouterr().err.startswith("counting words  100%\nepoch 1/1")


def test_interrupt_says_how_to_go_on(rng, tmp_path, monkeypatch, capsys):
    ids, vocabulary, _ = planted(rng, sentences=50)
    interrupt = [lambda status: signal.raise_signal(signal.SIGINT)]
    model = small(epochs=3)
    with pytest.raises(KeyboardInterrupt, match=r"to go on: model\.resume\(corpus\)"):
        model.fit(ids, vocabulary=vocabulary, callbacks=interrupt, **QUIET)
    assert "Ctrl-C again ends it at once" in capsys.readouterr().err
    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt, match=rf"Word2Vec\.load\('{path}'\)\.resume\(corpus\)"):
        model.fit(ids, vocabulary=vocabulary, callbacks=interrupt, checkpoint=path, **QUIET)
    assert len(Word2Vec.load(path).resume(ids, **QUIET).history["loss"]) == 3


def test_a_disk_that_is_full_for_a_while_does_not_end_training(rng, tmp_path, monkeypatch):
    ids, vocabulary, _ = planted(rng, sentences=50)
    usual, calls = checkpoint.np.savez, []

    def full_at_first(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return usual(*arguments, **options)

    monkeypatch.setattr(checkpoint.np, "savez", full_at_first)
    path = tmp_path / "model"
    with pytest.warns(UserWarning, match="goes on without a checkpoint: .*No space left"):
        small(epochs=2).fit(
            ids, vocabulary=vocabulary, checkpoint=path, checkpoint_minutes=0, **QUIET
        )
    assert Word2Vec.load(path)._state["epoch"] == 2


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
