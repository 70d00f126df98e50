"""Every row of docs/from_gensim_and_fasttext.md runs, and gives what is on its left."""

import re
from pathlib import Path

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
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.vectors import gensim_vectors, unit_rows

PAGE = Path(__file__).parents[2] / "docs" / "from_gensim_and_fasttext.md"
SENTENCES = [
    sentence.split()
    for sentence in ["the cat sat on the mat", "the dog sat by the sea", "a sea and a mat"] * 9
]


def rows_of(title):
    """The pairs of snippets of the tables under a title, which have to run in their order."""
    section = re.split(r"^#+ ", PAGE.read_text("utf-8"), flags=re.M)
    (text,) = (part for part in section if part.startswith(f"{title}\n"))
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [re.fullmatch(r"\| `(.*?)` \| `(.*?)` \| (.*)\|", line).groups()[:2] for line in lines]


def run(code, names):
    try:
        return eval(compile(code, "<row>", "eval"), names)
    except SyntaxError:
        exec(compile(code, "<row>", "exec"), names)


@pytest.fixture
def ours(tmp_path):
    (tmp_path / "text").write_text("".join(" ".join(words) + "\n" for words in SENTENCES))
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
    }
    for module in evaluation, alignment, gensim_vectors, subwords, vocabulary, phrases:
        names |= vars(module)
    names |= {name: str(tmp_path / name[:-5]) for name in ("text_file", "pairs_file")}
    names |= {"unit_rows": unit_rows, "path": str(tmp_path / "ours")}
    names["vocabulary_file"] = tmp_path / "our_words"
    return names | {
        "questions_file": str(tmp_path / "questions"),
        "fasttext_file": str(tmp_path / "fasttext.bin"),
        "npy_file": tmp_path / "ours.npy",
        "sentences": SENTENCES,
        "word_pairs": [(word, word) for word in model.vectors],
        "model": model,
        "vectors": model.vectors,
        "tree": Word2Vec(loss="hierarchical_softmax", min_count=1).fit(SENTENCES, progress=False),
    }


@pytest.fixture
def theirs(ours, tmp_path):
    """gensim's names, and its model with the vectors of ours."""
    gensim = pytest.importorskip("gensim", reason="gensim is not installed")
    from gensim.models import fasttext as facebook
    from gensim.similarities import WordEmbeddingSimilarityIndex

    model = gensim.models.Word2Vec(vector_size=8, min_count=1, workers=1)
    model.build_vocab_from_freq(dict(zip(ours["vectors"].words, range(99, 0, -1), strict=False)))
    assert model.wv.index_to_key == ours["vectors"].words
    model.wv.vectors = ours["vectors"].matrix.copy()
    model.wv.expandos["count"] = ours["vectors"].counts.copy()
    model.syn1neg = np.array(ours["model"].output_embeddings)
    tree = gensim.models.Word2Vec(SENTENCES, hs=1, negative=0, min_count=1, workers=1)
    shared = ("sentences", "text_file", "pairs_file", "questions_file", "fasttext_file")
    return {
        **vars(gensim.models),
        **vars(facebook),
        **{name: ours[name] for name in (*shared, "word_pairs")},
        "TaggedDocument": gensim.models.doc2vec.TaggedDocument,
        "LineSentence": gensim.models.word2vec.LineSentence,
        "WordEmbeddingSimilarityIndex": WordEmbeddingSimilarityIndex,
        "CallbackAny2Vec": gensim.models.callbacks.CallbackAny2Vec,
        **vars(gensim.utils),
        "np": np,
        "path": str(tmp_path / "theirs"),
        "vocabulary_file": str(tmp_path / "their_words"),
        "model": model,
        "wv": model.wv,
        "tree": tree,
    }


def assert_same(left, right, row):
    if right is None or isinstance(right, Word2Vec):
        return
    if isinstance(left, bool | str | int | dict):
        assert left == right, row
    elif isinstance(left, float | np.floating):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6), row
    elif isinstance(left, np.ndarray):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=str(row))
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), row
        for a, b in zip(left, right, strict=True):
            assert_same(a, b, row)


@pytest.mark.filterwarnings("ignore:Call to deprecated `init_sims`")  # of gensim by itself
@pytest.mark.filterwarnings("ignore:Adding single vectors to a KeyedVectors")
@pytest.mark.parametrize("title", ["Training", "Documents", "Vectors", "Files"])
def test_gensim(theirs, ours, title):
    rows = rows_of(title)
    assert len(rows) > 6
    ours["WordEmbeddingSimilarityIndex"] = theirs["WordEmbeddingSimilarityIndex"]
    for row in rows:
        left, right = run(row[0], theirs), run(row[1], ours)
        assert_same(left, right, row)


def test_fasttext(ours, tmp_path):
    rows = rows_of("fastText")
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
