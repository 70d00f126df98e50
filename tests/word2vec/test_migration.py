"""Every row of docs/from_gensim_and_fasttext.md runs, and gives what is on its left."""

import ast
import re
import shlex
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastkeras.word2vec import (
    Doc2Vec,
    Vectors,
    Word2Vec,
    alignment,
    evaluation,
    fasttext,
    phrases,
    subwords,
    vocabulary,
)
from fastkeras.word2vec.cli import main
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.vectors import gensim_vectors, unit_rows
from word2vec.fasttext_itself import trained
from word2vec.migration import assert_alike, assert_same, assert_same_vectors

PAGE = Path(__file__).parents[2] / "docs" / "from_gensim_and_fasttext.md"
SENTENCES = [
    sentence.split()
    for sentence in ["the cat sat on the mat", "the dog sat by the sea", "a sea and a mat"] * 9
]
WRITES = ("save_word2vec_format", "save_facebook_model", "save_model", "wv.save(")


def rows_of(title):
    """The pairs of snippets of the table under a title, which have to run in their order."""
    section = re.split(r"^#+ ", PAGE.read_text("utf-8"), flags=re.M)
    (text,) = (part for part in section if part.startswith(f"{title}\n"))
    header, rule, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert header.startswith("| ") and rule.startswith("|---")
    rows = [re.fullmatch(r"\| `(.*?)` \| `(.*?)` \| (.*)\|", line) for line in lines]
    assert all(rows), lines[rows.index(None)]
    return [row.groups()[:2] for row in rows]


def run(code, names):
    try:
        return eval(compile(code, "<row>", "eval"), names)
    except SyntaxError:
        exec(compile(code, "<row>", "exec"), names)


def assigned(code):
    """The names that a row's snippet sets."""
    statements = (node for node in ast.parse(code).body if isinstance(node, ast.Assign))
    return {name.id for node in statements for name in node.targets if isinstance(name, ast.Name)}


def run_and_compare(row, theirs, ours):
    """Run both sides; compare what they return, what they set, and the files that they write."""
    left, right = run(row[0], theirs), run(row[1], ours)
    assert_same(left, right, row)
    for name in assigned(row[0]) & assigned(row[1]):
        assert_alike(theirs[name], ours[name], row)
    if any(each in row[0] for each in WRITES):
        files = [loaded(names["path"]) for names in (theirs, ours)]
        assert {*files[0].words} == {*files[1].words}, row
        if "FastText(" not in row[0]:  # which learns by random numbers of its own
            assert_same_vectors(*files, row)


def loaded(path):
    try:
        return Vectors.load(path)
    except ValueError:  # a pickle
        return gensim_vectors.load_gensim(path)


@pytest.fixture
def ours(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in "text", "texts/a", "texts/b":
        (tmp_path / name).write_text("".join(" ".join(words) + "\n" for words in SENTENCES))
    (tmp_path / "pairs").write_text("cat\tdog\t8\ncat\tsea\t2\nmat\tsat\t3\ndog\tsea\t1\n")
    (tmp_path / "questions").write_text(": animals\ncat dog sea mat\ndog cat mat sea\n")
    model = Word2Vec(vector_size=8, min_count=1, seed=3).fit(SENTENCES, progress=False)
    of_ngrams = Word2Vec(vector_size=8, min_count=1, subwords=True, buckets=99)
    fasttext.save(of_ngrams.fit(SENTENCES, progress=False), tmp_path / "fasttext.bin")
    names = {
        "Word2Vec": Word2Vec,
        "Doc2Vec": Doc2Vec,
        "Vectors": Vectors,
        "Corpus": Corpus,
        "fasttext": fasttext,
        "np": np,
    }
    for module in evaluation, alignment, gensim_vectors, subwords, vocabulary, phrases:
        names |= vars(module)
    names |= {name: str(tmp_path / name[:-5]) for name in ("text_file", "pairs_file")}
    names |= {"unit_rows": unit_rows, "path": str(tmp_path / "ours")}
    names["vocabulary_file"] = tmp_path / "our_words"
    return names | {
        "folder": str(tmp_path / "texts"),
        "questions_file": str(tmp_path / "questions"),
        "fasttext_file": str(tmp_path / "fasttext.bin"),
        "npy_file": tmp_path / "ours.npy",
        "sentences": SENTENCES,
        "word_pairs": [(word, word) for word in model.vectors],
        "model": model,
        "vectors": model.vectors,
        "tree": Word2Vec(loss="hierarchical_softmax", min_count=1).fit(SENTENCES, progress=False),
    }


SHARED = ("sentences", "text_file", "folder", "pairs_file", "questions_file", "fasttext_file")


@pytest.fixture
def theirs(ours, tmp_path):
    """gensim's names, and its model with the vectors of ours."""
    gensim = pytest.importorskip("gensim", reason="gensim is not installed")
    from gensim.corpora import Dictionary
    from gensim.models import fasttext as facebook
    from gensim.similarities import SparseTermSimilarityMatrix, WordEmbeddingSimilarityIndex

    model = gensim.models.Word2Vec(vector_size=8, min_count=1, workers=1)
    model.build_vocab_from_freq(dict(zip(ours["vectors"].words, range(99, 0, -1), strict=False)))
    assert model.wv.index_to_key == ours["vectors"].words
    model.wv.vectors = ours["vectors"].matrix.copy()
    model.wv.expandos["count"] = ours["vectors"].counts.copy()
    model.syn1neg = np.array(ours["model"].output_embeddings)
    tree = gensim.models.Word2Vec(SENTENCES, hs=1, negative=0, min_count=1, workers=1)
    of_texts = {
        "dictionary": Dictionary(SENTENCES),
        "SparseTermSimilarityMatrix": SparseTermSimilarityMatrix,
        "WordEmbeddingSimilarityIndex": WordEmbeddingSimilarityIndex,
    }
    ours |= of_texts
    return {
        **vars(gensim.models),
        **vars(facebook),
        **of_texts,
        **{name: ours[name] for name in (*SHARED, "word_pairs")},
        "TaggedDocument": gensim.models.doc2vec.TaggedDocument,
        "LineSentence": gensim.models.word2vec.LineSentence,
        "PathLineSentences": gensim.models.word2vec.PathLineSentences,
        "CallbackAny2Vec": gensim.models.callbacks.CallbackAny2Vec,
        **vars(gensim.utils),
        "np": np,
        "path": str(tmp_path / "theirs"),
        "vocabulary_file": str(tmp_path / "their_words"),
        "model": model,
        "wv": model.wv,
        "tree": tree,
    }


@pytest.mark.filterwarnings("ignore:Call to deprecated `init_sims`")  # of gensim by itself
@pytest.mark.filterwarnings("ignore:Adding single vectors to a KeyedVectors")
@pytest.mark.filterwarnings("ignore:an epoch made")  # of a vocabulary of two words
@pytest.mark.parametrize("title", ["Training", "Documents", "Vectors", "Files"])
def test_gensim(theirs, ours, title):
    rows = rows_of(title)
    assert len(rows) > 6
    for row in rows:
        if "wmdistance" in row[0] and not find_spec("ot"):
            continue  # `make test-slow` has it
        run_and_compare(row, theirs, ours)
        if title != "Vectors":  # words are added to vectors there
            assert_alike(theirs["model"], ours["model"], row)
        assert_same_vectors(theirs["wv"], ours["vectors"], row)
    if title == "Files":
        lines = (Path(names["vocabulary_file"]).read_text("utf-8") for names in (theirs, ours))
        assert_same(*(sorted(text.splitlines()) for text in lines), "the files of vocabularies")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Call to deprecated `init_sims`")
@pytest.mark.filterwarnings("ignore:Adding single vectors to a KeyedVectors")
def test_gensim_with_pot(theirs, ours):
    pytest.importorskip("ot", reason="POT is not installed")
    test_gensim(theirs, ours, "Vectors")


def test_fasttext(ours, tmp_path):
    """The rows of fastText on our side; `test_fasttext_itself` runs both."""
    rows = rows_of("The library")
    assert len(rows) > 15
    ours["classifier_file"] = classifier_of(Path(ours["fasttext_file"]))
    for theirs, right in rows:
        compile(theirs, "<row>", "exec")
        run(right, ours)
    assert ours["words"].words == ours["vectors"].words


def classifier_of(path):
    """The same file, but for the number that tells what it is a model for."""
    content = bytearray(path.read_bytes())
    content[36] = 3
    classifier = path.with_name("classifier.bin")
    classifier.write_bytes(content)
    return classifier


@pytest.mark.slow
def test_fasttext_itself(ours, tmp_path):
    library = pytest.importorskip("fasttext", reason="fastText is not installed")
    lines = "".join(f"__label__{i % 2} {' '.join(s)}\n" for i, s in enumerate(SENTENCES))
    (tmp_path / "labelled").write_text(lines)
    ours["classifier_file"] = str(tmp_path / "classifier.bin")
    labelled = str(tmp_path / "labelled")
    classifier = trained(library.train_supervised, labelled, dim=8, minCount=1)
    classifier.save_model(ours["classifier_file"])
    theirs = {name: ours[name] for name in (*SHARED, "classifier_file")}
    train = partial(trained, library.train_unsupervised)
    names = {"load_model": library.load_model, "train_unsupervised": train}
    theirs |= {"fasttext": SimpleNamespace(**names), "path": str(tmp_path / "theirs")}
    for row in rows_of("The library"):
        run_and_compare(row, theirs, ours)
    words = [word for word in theirs["classifier"].get_words() if word != "</s>"]
    assert [word for word in ours["words"] if word != "</s>"] == words
    for word in words:
        vector = theirs["classifier"].get_word_vector(word)
        np.testing.assert_allclose(ours["words"][word], vector, rtol=1e-5, atol=1e-7)


def test_commands(tmp_path, monkeypatch, capsys):
    """Those of fastText are not run: its package for Python has no program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(" ".join(words) + "\n" for words in SENTENCES))
    rows = rows_of("The program")
    assert len(rows) > 3
    for theirs, right in rows:
        name, *arguments = shlex.split(theirs)
        assert name == "fasttext" and arguments
        name, domain, *arguments = shlex.split(right)
        assert (name, domain, main(arguments)) == ("fastkeras", "word2vec", 0)
        assert capsys.readouterr().out.count("\n") >= 1
