"""Word vectors of a month of news, the People's Daily of January 1998, 1.1 million words.

pip install --editable '.[demo]'
python examples/word2vec_news.py                 # trains, shows neighbours, evaluates, draws
python examples/word2vec_news.py 足球 银行         # neighbours of your own words, once trained
python examples/word2vec_news.py --help
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
from peoples_daily import corpus_path, normalise, read_paragraphs

from fastkeras.word2vec import Vectors, Word2Vec
from fastkeras.word2vec.projection import draw_map

WORDS = ("北京", "足球", "银行", "教授", "冬天", "增长")
KINDS = {"ns": "places", "nr": "persons", "nt": "organisations", "t": "times", "m": "numbers",
         "n": "nouns", "v": "verbs", "a": "adjectives"}  # fmt: skip
CAPITALS = {"中国": "北京", "日本": "东京", "法国": "巴黎", "英国": "伦敦", "俄罗斯": "莫斯科",
            "伊拉克": "巴格达", "伊朗": "德黑兰", "韩国": "汉城", "古巴": "哈瓦那", "泰国": "曼谷",
            "德国": "波恩", "埃及": "开罗", "意大利": "罗马", "印度": "新德里"}  # fmt: skip
OF_MAP = ("ns", "nr", "t", "v")  # the kinds of words on the map, and how many of each
PER_KIND = 22


def kinds_of_words():
    """Return for each word the part of speech that the corpus gives it most often."""
    counts = Counter()
    for line in corpus_path().read_text(encoding="utf-8").splitlines():
        tokens = (token.rpartition("/") for token in line.replace("[", "").split())
        counts.update((normalise(word), kind.split("]")[0]) for word, _, kind in tokens)
    best = {}
    for (word, kind), count in counts.items():
        if count > best.get(word, (0, ""))[0]:
            best[word] = count, kind
    return {word: kind for word, (_, kind) in best.items()}


def train(output, epochs):
    """Train on all paragraphs, or go on where a killed run stopped."""
    checkpoint = output / "model.npz"
    paragraphs = read_paragraphs()
    options = {"checkpoint": checkpoint, "checkpoint_minutes": 0.25}
    if checkpoint.exists():
        model = Word2Vec.load(checkpoint)
        if model.config["epochs"] == epochs:
            return model.resume(paragraphs, **options)
    # The corpus is small: train for more epochs than usual, and keep more of the frequent words.
    return Word2Vec(vector_size=100, epochs=epochs, sample=1e-3).fit(paragraphs, **options)


def neighbours(vectors, words):
    for word in words:
        found = vectors.most_similar(word, topn=6)
        print(f"  {word}   " + "  ".join(f"{other} {cosine:.2f}" for other, cosine in found))


def same_kind(vectors, kinds, frequent=3000, topn=5):
    """Print how often neighbours are of a word's kind, and how often random words would be."""
    words = [word for word in vectors.words[:frequent] if kinds.get(word) in KINDS]
    rows = [vectors.index[word] for word in words]
    found, _ = vectors.nearest(
        vectors.matrix[rows], topn=topn, excluded=[[row] for row in rows], restrict_vocab=frequent
    )
    of_row = np.array([kinds.get(word, "") for word in vectors.words[:frequent]])
    own = of_row[rows]
    same = (of_row[found] == own[:, None]).mean(axis=1)
    for kind, name in KINDS.items():
        chosen, by_chance = same[own == kind], (of_row == kind).mean()
        if len(chosen):
            share = f"{chosen.mean():6.1%}   by chance {by_chance:6.1%}"
            print(f"  {name:14} {share}   {len(chosen):5} words")
    print(f"  {'all':14} {same.mean():6.1%}")


def capitals(vectors):
    """Print how often the capital of B is among the five words that are to B as A's is to A."""
    pairs = [(a, b) for a, b in CAPITALS.items() if a in vectors and b in vectors]
    asked = right = 0
    for country, capital in pairs:
        for other, its_capital in pairs:
            if other != country:
                found = [word for word, _ in vectors.analogy(country, capital, other, topn=5)]
                asked += 1
                right += its_capital in found
    print(f"  {right} of {asked}, of {len(pairs)} countries")


def draw(vectors, kinds, path):
    groups = {
        kind: [w for w in vectors.words if kinds.get(w) == kind][:PER_KIND] for kind in OF_MAP
    }
    words = [word for of_kind in groups.values() for word in of_kind]
    names = [KINDS[kind] for kind, of_kind in groups.items() for _ in of_kind]
    draw_map(vectors, words, path, title="People's Daily, January 1998", groups=names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="show their neighbours, by vectors trained before")
    parser.add_argument("--output", type=Path, default=Path("build/word2vec_news"))
    parser.add_argument("--epochs", type=int, default=15, help="default 15")
    given = parser.parse_args()
    file = given.output / "vectors.bin"
    if given.words:
        if not file.exists():
            parser.error(f"{file} is missing: run without words first")
        neighbours(Vectors.load(file), given.words)
        return
    given.output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    model = train(given.output, given.epochs)
    vectors = model.vectors
    vectors.save(file)
    history = model.history
    print(f"{len(vectors)} words, loss {history['loss'][0]:.3f} to {history['loss'][-1]:.3f}, "
          f"{np.median(history['words_per_second']) / 1e6:.2f} million words a second")  # fmt: skip
    print("\nneighbours")
    neighbours(vectors, WORDS)
    kinds = kinds_of_words()
    print("\nthe five nearest of the 3,000 most frequent words are of the word's kind")
    same_kind(vectors, kinds)
    print("\ncapitals among the first five by analogy")
    capitals(vectors)
    draw(vectors, kinds, given.output / "map.png")
    print(f"\n{file}, {given.output / 'map.png'}; {time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
