"""Articles and their headlines: from the People's Daily of January 1998, or from your own file.

In the corpus, a headline is a line of 7 to 40 characters without a full stop, before a line of
text. `read_pairs` takes any CSV or JSONL with a title and a text in each row.
"""

import csv
import json
import re
import sys
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from peoples_daily import read_paragraphs

TITLES = ("title", "headline", "summary")  # the columns that are looked for, in this order
BODIES = ("body", "text", "content", "article", "document")
DATELINE = re.compile(
    r"^据?(?:本报|新华社)[^。,:]{0,40}?[讯电](?:\([^)]*\)|[^。,:]{0,25}报道)?:?"
)  # who wrote from where, which no headline says
NO_HEADLINE = re.compile(r"^(?:本报|新华社).*记者|^第?[一二三四五六七八九十\d]+[、.章节条]")


class Pair(NamedTuple):
    title: str
    body: str


def news():
    """Return (the pairs of the corpus, the texts of its first 8 tenths), in the order of dates."""
    texts = ["".join(words) for words in read_paragraphs()]
    return pairs_of(texts), texts[: len(texts) * 8 // 10]


def pairs_of(texts):
    """Return the headlines among some paragraphs with what follows, the datelines removed."""
    pairs = []
    for line, after in pairwise(texts):
        if 7 <= len(line) <= 40 and not set("。(:;,") & set(line) and "。" in after:
            body = DATELINE.sub("", after)
            if len(body) >= 40 and not NO_HEADLINE.search(line):
                pairs.append(Pair(line, body))
    counts = Counter(pair.title for pair in pairs)
    return [pair for pair in pairs if counts[pair.title] <= 2]  # others are names of columns


def openings(texts):
    """Return texts with their first clauses as titles: to learn to read and to copy from."""
    pairs = []
    for text in texts:
        text = DATELINE.sub("", text)
        clause = re.split(r"[,。;:!?.]", text, maxsplit=1)[0].strip()
        if 4 <= len(clause) <= 30 and len(text) >= 40:
            pairs.append(Pair(clause, text))
    return pairs


def read_pairs(path):
    """Return the pairs of a CSV, or else of a file with a JSON object in each line."""
    path = Path(path)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                rows = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not rows or not isinstance(rows[0], dict):
        raise SystemExit(f"{path} has no rows with names: a CSV with a header, or JSON objects")
    title, body = (
        next((name for name in names if name in rows[0]), None) for names in (TITLES, BODIES)
    )
    if title is None or body is None:
        raise SystemExit(
            f"{path} must have a column for the title, {' or '.join(TITLES)}, and one for the "
            f"text, {' or '.join(BODIES)}; it has {', '.join(map(str, rows[0]))}"
        )
    pairs = [Pair(normalise(row.get(title)), normalise(row.get(body))) for row in rows]
    return [pair for pair in pairs if pair.title and pair.body]


def normalise(text):
    """Return the text in NFKC, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", str(text or "")).split())


def split_by_position(pairs):
    """Return (training, validation, test): test is the last tenth, validation the tenth before."""
    if len(pairs) < 30:
        raise SystemExit(f"{len(pairs)} pairs are too few to hold a tenth out; take at least 30")
    tenth = -(-len(pairs) // 10)
    return pairs[: -2 * tenth], pairs[-2 * tenth : -tenth], pairs[-tenth:]


def first_sentence(text):
    """Return the text up to its first full stop, in Chinese or in English, without it."""
    return re.split(r"[。!?]|[.!?](?:\s|$)", text, maxsplit=1)[0].strip()


class Words:
    """The tokens that ROUGE counts: Chinese characters, and the words of other languages."""

    def tokenize(self, text):
        return re.findall(r"[^\W\u2e80-\U0003ffff]+|[\u2e80-\U0003ffff]", text.lower())
