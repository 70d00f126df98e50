"""`fastkeras word2vec`, with and without a stand-in for the trainer."""

import contextlib
import io
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from fastkeras.cli import main
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.vectors import Vectors
from fastkeras.word2vec.vocabulary import build

load, save = Vectors.load, Vectors.save

WORDS = ["man", "woman", "king", "queen", "apple"]
VECTORS = Vectors(WORDS, np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [-1, -1, 0]]))

COMMANDS = ("train", "similar", "analogy", "page", "evaluate", "export")


@pytest.fixture
def trained(monkeypatch):
    """Replace the trainer by one that only counts words; return what it was called with."""
    calls = {}

    class Word2Vec:
        def __init__(self, **options):
            calls["options"] = options

        def fit(self, corpus, checkpoint=None, progress=False):
            calls.update(corpus=corpus, checkpoint=checkpoint, progress=progress)
            if calls.get("interrupt"):
                raise KeyboardInterrupt
            self.vocabulary = build(corpus, 1)
            numbers = np.arange(3 * len(self.vocabulary), dtype=np.float32)
            self.vectors = Vectors(self.vocabulary.words, numbers.reshape(-1, 3))

    module = ModuleType("fastkeras.word2vec.training.trainer")
    module.Word2Vec = Word2Vec
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.fixture
def vectors_file(tmp_path):
    save(VECTORS, tmp_path / "vectors.bin")
    return str(tmp_path / "vectors.bin")


@pytest.fixture
def news(tmp_path):
    path = tmp_path / "news.txt"
    path.write_text("the cat sat\non the mat\n")
    return str(path)


def test_train(tmp_path, capsys, trained, news):
    output, vocabulary = tmp_path / "vectors.bin", tmp_path / "words.txt"
    assert (
        main(["word2vec", "train", news, "-o", str(output), "--vocabulary", str(vocabulary)]) == 0
    )
    assert [str(file) for file in trained.pop("corpus").files] == [news]
    assert trained == {"options": {}, "checkpoint": None, "progress": True}
    assert load(output).words == ["the", "cat", "sat", "on", "mat"]
    assert vocabulary.read_text().startswith("the 2\ncat 1\n")
    assert capsys.readouterr().out == f"{output}: 5 words, vectors of size 3\n"


def test_every_option_arrives(tmp_path, trained, news):
    line = (
        "--vector-size 7 --window 2 --min-count 3 --max-vocab 50 --objective cbow --negative 4 "
        "--loss sampled_softmax --ns-exponent 0.5 --shared-negatives none --cbow-gradient exact "
        "--sample 1e-3 --learning-rate 0.1 --end-learning-rate 0.01 --epochs 2 "
        "--no-shrink-windows --num-threads 1 --seed 9 --deterministic --errors replace "
        "--subwords --min-n 2 --max-n 4 --buckets 5000 --subword-gradient fasttext"
    )
    output, checkpoint = str(tmp_path / "v.txt"), str(tmp_path / "checkpoint")
    command = ["word2vec", "train", news, news, "-o", output, "--checkpoint", checkpoint]
    assert main([*command, *line.split()]) == 0
    assert trained["options"] == {
        "vector_size": 7,
        "window": 2,
        "min_count": 3,
        "max_vocab": 50,
        "objective": "cbow",
        "negative": 4,
        "loss": "sampled_softmax",
        "ns_exponent": 0.5,
        "shared_negatives": None,
        "cbow_gradient": "exact",
        "sample": 1e-3,
        "learning_rate": 0.1,
        "end_learning_rate": 0.01,
        "epochs": 2,
        "shrink_windows": False,
        "num_threads": 1,
        "seed": 9,
        "deterministic": True,
        "subwords": True,
        "min_n": 2,
        "max_n": 4,
        "buckets": 5000,
        "subword_gradient": "fasttext",
    }
    assert trained["checkpoint"] == checkpoint
    assert isinstance(trained["corpus"], Corpus) and trained["corpus"].errors == "replace"
    assert [str(file) for file in trained["corpus"].files] == [news, news]


def test_training_is_a_command_and_goes_on_from_its_checkpoint(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("red green blue\none two three\n" * 300)
    checkpoint, vectors = tmp_path / "model.npz", tmp_path / "vectors.bin"
    train = ["word2vec", "train", str(text), "-o", str(vectors), "--checkpoint", str(checkpoint)]
    train += ["--vector-size", "8", "--sample", "0", "--epochs", "3", "--num-threads", "1"]
    assert main(train) == 0
    first = load(vectors)
    assert sorted(first.words) == ["blue", "green", "one", "red", "three", "two"]
    nearest = {word for word, _ in first.most_similar("red", topn=2)}
    assert nearest == {"green", "blue"}
    assert main(train) == 0  # nothing is left to do
    np.testing.assert_array_equal(load(vectors).matrix, first.matrix)
    capsys.readouterr()
    assert main([*train, "--window", "2"]) == 1
    assert f"--window: {checkpoint} was written with 5, not 2" in capsys.readouterr().err


def test_model_with_subwords_knows_unknown_words(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("walking walked walker\none two three\n" * 300)
    model, vectors = str(tmp_path / "model.npz"), str(tmp_path / "vectors.bin")
    train = ["word2vec", "train", str(text), "-o", vectors, "--checkpoint", model, "--subwords"]
    train += ["--vector-size", "8", "--sample", "0", "--num-threads", "1", "--buckets", "5000"]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["word2vec", "similar", model, "walks", "-n", "1"]) == 0
    assert "  walk" in capsys.readouterr().out
    assert main(["word2vec", "similar", vectors, "walks"]) == 1
    assert "'walks' is none of the 6 words" in capsys.readouterr().err
    assert main(["word2vec", "export", model, str(tmp_path / "two.txt"), "--limit", "2"]) == 0
    both = load(vectors), load(tmp_path / "two.txt")
    assert both[1].words == both[0].words[:2]
    np.testing.assert_array_equal(both[1].matrix, both[0].matrix[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "news.txt", "-o", "vectors.model"], "the path must end in one of .bin"),
        (["train", "news.txt", "-o", "no/such/folder/v.bin"], "no folder 'no/such/folder'"),
        (["train", "news.txt", "-o", "v.bin", "--checkpoint", "no/c"], "no folder 'no'"),
        (["train", "no-such-file", "-o", "v.bin"], "corpus='no-such-file': there is no such file"),
        (["similar", "no-such-file", "cat"], "No such file or directory: 'no-such-file'"),
        (
            ["similar", "vectors.bin", "quene"],
            "'quene' is none of the 5 words; near it are 'queen'",
        ),
        (["similar", "vectors.bin", "king", "-n", "0"], "topn=0 must be at least 1"),
        (["similar", "news.txt", "king"], "news.txt, line 1: b'the cat sat' is neither"),
        (["analogy", "vectors.bin", "man", "king", "x"], "'x' is none of the 5 words"),
        (["evaluate", "vectors.bin"], "--pairs or --analogies must name a file"),
        (["export", "vectors.bin", "v.json"], "the path must end in one of .bin"),
    ],
)
def test_errors_are_one_line(
    tmp_path, monkeypatch, capsys, trained, vectors_file, news, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["word2vec", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fastkeras word2vec {arguments[0]}: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_what_cannot_be_written_is_told_before_the_training(tmp_path, trained, news):
    assert main(["word2vec", "train", news, "-o", str(tmp_path / "v.model")]) == 1
    assert trained == {}


def test_interrupted(tmp_path, capsys, trained, news):
    trained["interrupt"] = True
    assert main(["word2vec", "train", news, "-o", str(tmp_path / "v.bin")]) == 130
    assert capsys.readouterr().err == "fastkeras word2vec: interrupted\n"


def test_similar(capsys, monkeypatch, vectors_file):
    assert main(["word2vec", "similar", vectors_file, "king", "-n", "2"]) == 0
    assert capsys.readouterr().out == " 0.7071  man\n 0.5000  queen\n"
    assert main(["word2vec", "similar", vectors_file, "king", "man", "-n", "1"]) == 0
    assert capsys.readouterr().out == "king:\n 0.7071  man\nman:\n 0.7071  king\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("king\n\nduke\nman\n"))
    assert main(["word2vec", "similar", vectors_file, "-n", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == " 0.7071  man\n 0.7071  king\n"
    assert "'duke' is none" in captured.err


def test_analogy(capsys, monkeypatch, vectors_file):
    assert main(["word2vec", "analogy", vectors_file, "man", "king", "woman", "-n", "1"]) == 0
    queen = capsys.readouterr().out
    assert queen.endswith("  queen\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("man king\nman king woman\n"))
    assert main(["word2vec", "analogy", vectors_file, "-n", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == queen and "three words, A B C, not 2" in captured.err
    assert main(["word2vec", "analogy", vectors_file, "man"]) == 1
    assert "three words, A B C, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "typed"), [("similar", "king"), ("analogy", "man king woman")])
def test_questions_in_a_terminal(vectors_file, command, typed):
    """A terminal gets a question for each line, an answer, and an end by Ctrl-D."""
    ours, theirs = os.openpty()
    arguments = [sys.executable, "-m", "fastkeras", "word2vec", command, vectors_file, "-n", "1"]
    with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = ""
        for line in "nobody knows it\n", f"{typed}\n", "\x04":
            while not shown.endswith("> "):
                shown += os.read(ours, 4096).decode()
            os.write(ours, line.encode())
            shown += " "
        with contextlib.suppress(OSError):  # how Linux tells that the other side has closed it
            while part := os.read(ours, 4096):
                shown += part.decode()
    os.close(ours)
    assert process.returncode == 0 and shown.count("(Ctrl-D ends) > ") == 3, shown
    assert ("queen" if command == "analogy" else "man") in shown.split(typed)[-1], shown


def test_evaluate(tmp_path, capsys, vectors_file):
    (tmp_path / "pairs.txt").write_text("man king 5\nman woman 3\nman apple 1\nking duke 2\n")
    (tmp_path / "analogies.txt").write_text(
        ": royal\nman king woman queen\nking man queen woman\nMan King Woman apple\n: x\na b c d\n"
    )
    arguments = ["word2vec", "evaluate", vectors_file]
    arguments += ["--pairs", str(tmp_path / "pairs.txt")]
    arguments += ["--analogies", str(tmp_path / "analogies.txt")]
    assert main(arguments) == 0
    pairs, analogies, section = capsys.readouterr().out.splitlines()
    assert pairs.endswith("Spearman 1.0000, Pearson 1.0000, 3 pairs, 1 with unknown words")
    assert analogies.endswith("66.67% right, 2 of 3, 1 with unknown words")
    assert section.split() == ["66.67%", "2", "of", "3", "royal"]
    assert main([*arguments, "--case-sensitive", "--count-unknown", "--restrict-vocab", "4"]) == 0
    pairs, analogies, *sections = capsys.readouterr().out.splitlines()
    assert "4 pairs, 2 with unknown words" in pairs
    assert analogies.endswith("50.00% right, 2 of 4, 2 with unknown words")
    assert len(sections) == 2


@pytest.mark.parametrize("name", ["v.txt", "v.npy", "v.bin.gz", "v.vec"])
def test_export(tmp_path, capsys, vectors_file, name):
    output = str(tmp_path / name)
    assert main(["word2vec", "export", vectors_file, output, "--limit", "3"]) == 0
    assert capsys.readouterr().out == f"{output}: 3 words, vectors of size 3\n"
    exported = load(output)
    assert exported.words == WORDS[:3]
    np.testing.assert_array_equal(exported.matrix, VECTORS.matrix[:3])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["word2vec"],
        *(
            ["word2vec", name]
            for name in ["train", "similar", "analogy", "page", "evaluate", "export"]
        ),
    ],
)
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert " ".join(["usage: fastkeras", *arguments]) in text
    if arguments == []:
        assert "word2vec" in text


def test_without_a_command_they_are_listed(capsys):
    assert main(["word2vec"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in text


def test_without_tensorflow(tmp_path, vectors_file):
    """Only NumPy is imported, neither TensorFlow nor Keras."""
    code = (
        "import sys; from fastkeras.cli import main; status = main(sys.argv[1:]); "
        "loaded = {'tensorflow', 'keras', 'scipy', 'matplotlib', 'gensim'} & sys.modules.keys(); "
        "print(status, loaded)"
    )
    command = [sys.executable, "-c", code, "word2vec", "similar", vectors_file, "king"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("0 set()\n")


def test_outputs_are_tried_before_the_training(tmp_path, capsys, trained, news, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastkeras._files.os.write", full)
    assert main(["word2vec", "train", news, "-o", str(tmp_path / "v.bin")]) == 1
    assert "v.bin cannot be written: the disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "folder.bin").mkdir()
    assert main(["word2vec", "train", news, "-o", str(tmp_path / "folder.bin")]) == 1
    assert "folder.bin cannot be written: it is a folder" in capsys.readouterr().err


def test_vectors_are_rescued_when_the_disk_is_full_in_the_end(
    tmp_path, capsys, trained, news, monkeypatch
):
    output, usual = tmp_path / "v.bin", Vectors.save

    def full(vectors, path, format=None):
        if path == str(output):
            raise OSError(28, "No space left on device")
        usual(vectors, path, format)

    monkeypatch.setattr(Vectors, "save", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["word2vec", "train", news, "-o", str(output)]) == 1
    message = capsys.readouterr().err.strip()
    assert "No space left on device; the vectors are in " in message
    assert load(message.rpartition(" ")[2]).words == ["the", "cat", "sat", "on", "mat"]


@pytest.mark.filterwarnings("always:an epoch made")
def test_warnings_are_one_line(tmp_path, capsys):
    text, output = tmp_path / "text.txt", tmp_path / "v.bin"
    text.write_text("one\ntwo\n" * 30)
    train = ["word2vec", "train", str(text), "-o", str(output), "--sample", "0", "--epochs", "1"]
    assert main([*train, "--vector-size", "4", "--num-threads", "1"]) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert warning.startswith("fastkeras word2vec: warning: an epoch made 0 predictions: 60 words")


def test_a_training_that_diverges_is_an_error_in_one_line(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\n" * 300)
    train = ["word2vec", "train", str(text), "-o", str(tmp_path / "v.bin"), "--sample", "0"]
    assert main([*train, "--learning-rate", "1e30", "--num-threads", "1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastkeras word2vec train: error: the loss is ")
    assert error.endswith("is too large")


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_is_positive_for_vectors_and_models(tmp_path, capsys, vectors_file, limit):
    model = Word2Vec(vector_size=4, min_count=1, sample=0, epochs=1)
    model.fit(["the cat sat"] * 9, progress=False).save(tmp_path / "model.npz")
    for source in vectors_file, str(tmp_path / "model.npz"):
        for form in [], ["--fasttext"]:
            export = ["word2vec", "export", source, str(tmp_path / "v.bin"), "--limit", limit]
            assert main([*export, *form]) == 1
            assert f"limit={limit} must be at least 1" in capsys.readouterr().err
