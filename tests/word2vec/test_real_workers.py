"""Ray and Spark themselves: workers that are killed, what two of them gain; `make test-slow`."""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastkeras.bench import word2vec_corpus
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.corpus import Corpus, encode
from fastkeras.word2vec.distributed import fit_with_ray
from fastkeras.word2vec.vocabulary import build
from word2vec.stand_ins import Ray, Spark
from word2vec.workers import COUNTS, FUNCTIONS, WORDS, assert_same, fit, small

pytestmark = pytest.mark.slow

SPEEDUP = 1.8  # of two workers
TRIES = 3  # others on the machine only make two workers slower
BETWEEN = 2_000_000  # words that a worker trains in a round, for speed
MODES = {
    "skip-gram": {},
    "CBOW, exact gradient": {"objective": "cbow"},
    "CBOW, word2vec's update": {"objective": "cbow", "cbow_gradient": "word2vec"},
    "hierarchical softmax": {"loss": "hierarchical_softmax"},
}
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastkeras[ray]'")
    memory = {"object_store_memory": 500 << 20, "include_dashboard": False}
    ray.init(num_cpus=2, **memory, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def session():
    sql = pytest.importorskip(
        "pyspark.sql", reason="PySpark is not installed: pip install 'fastkeras[spark]'"
    )
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("Spark needs Java, which is not installed")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def kill_one(mark, killed, done):
    """Kill the first process with this mark in its command line that has loaded the kernels."""
    while not (killed or done.is_set()):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_worker = mark in (folder / "cmdline").read_bytes()
                if is_worker and b"fastkeras/_core" in (folder / "maps").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    return killed.append(folder.name)
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                pass
        time.sleep(0.005)
    return None


@pytest.mark.parametrize(
    "kind, running, mark",
    [(Ray, "cluster", b"ray::train_task"), (Spark, "session", b"pyspark.daemon")],
)
@pytest.mark.filterwarnings("ignore::Warning")  # of Ray, of Spark, and of the lost round
def test_the_same_though_a_worker_is_killed(kind, running, mark, rng, request, stand_in):
    request.getfixturevalue(running)
    ids = np.tile(rng.choice(WORDS, 100_000, p=COUNTS / COUNTS.sum()).astype(np.int32), 8)
    ids[::12] = -1
    options = {"num_workers": 2, "words_between": len(ids) // 4}
    model, killed, done = small(vector_size=50, epochs=1), [], threading.Event()
    killer = threading.Thread(target=kill_one, args=(mark, killed, done))
    killer.start()
    fit(model, ids, FUNCTIONS[kind][0], **options)
    done.set()
    killer.join()
    assert killed
    stand_in(kind)
    assert_same(model, fit(small(vector_size=50, epochs=1), ids, FUNCTIONS[kind][0], **options))


@pytest.mark.filterwarnings("ignore::Warning")  # of Spark
def test_a_data_frame_of_spark_is_a_corpus(session):
    lines = ["the cat sat", None, "on the mat"]
    frame = session.createDataFrame([(line,) for line in lines], "text string")
    assert list(Corpus(frame, column="text")) == [["the", "cat", "sat"], ["on", "the", "mat"]]
    with pytest.raises(ValueError, match="column='body' is none of the columns of corpus: 'text'"):
        Corpus(frame, column="body")


def busy():
    """The share of the processors' time that was used in a second."""

    def times():
        used = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        return np.array(used, dtype=float)

    before = times()
    time.sleep(1)
    passed = times() - before
    return 1 - passed[3:5].sum() / passed.sum()  # idle, and waiting for disks


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A vocabulary, and a text with planted analogies as ids."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    word2vec_corpus.write(str(path), 2_000_000)
    vocabulary = build(path, min_count=5)
    return vocabulary, np.array(encode(path, vocabulary))


@pytest.mark.filterwarnings("ignore::Warning")  # of Ray
def test_two_workers_train_nearly_twice_as_many_words(cluster, text):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two workers need two processors")
    if busy() > 0.1:
        pytest.skip("others use the processors that two workers need")
    vocabulary, ids = text
    ids = np.resize(ids, 12 * BETWEEN)
    best = {1: 0.0, 2: 0.0}
    for _ in range(TRIES):
        for number in best:
            model = Word2Vec(num_threads=1, epochs=2, sample=1e-4)
            options = {"num_workers": number, "words_between": BETWEEN, "progress": False}
            fit_with_ray(model, ids, vocabulary=vocabulary, **options)
            best[number] = max(best[number], model.history["words_per_second"][1])
        if best[2] >= SPEEDUP * best[1]:
            break
    assert best[2] >= SPEEDUP * best[1]


@pytest.mark.filterwarnings("ignore::Warning")  # of Ray
@pytest.mark.parametrize("mode", MODES)
def test_two_workers_learn_as_much_as_one(cluster, text, mode):
    """Planted analogies after one pass, by seed: not below one worker by more than their spread."""
    vocabulary, ids = text
    solved = {1: [], 2: []}
    for seed in SEEDS:
        for number, found in solved.items():
            model = Word2Vec(num_threads=1, epochs=1, sample=1e-4, seed=seed, **MODES[mode])
            options = {"num_workers": number, "progress": False}
            fit_with_ray(model, ids, vocabulary=vocabulary, **options)
            found.append(word2vec_corpus.analogies((vocabulary.words, model.input_embeddings)))
    spread = np.std(solved[1], ddof=1)
    assert np.mean(solved[1]) > 50
    assert np.mean(solved[2]) >= np.mean(solved[1]) - spread, solved
