"""Word2Vec's vectors of the People's Daily, ours and gensim's, by several seeds: who is worse?

    python bench/word2vec_peoples_daily.py

Three measures on the words that came at least 20 times, each a mean and a spread over the seeds:

- held-out loss: that of negative sampling, for a context (CBOW: the mean of the contexts) with a
  word and five drawn ones, on every twentieth paragraph, with the same draws for all;
- same tag: how many of a word's ten neighbours have the same most frequent tag, in percent;
- agreement: how many of its ten neighbours are also gensim's, in percent, over all pairs of seeds;
  in gensim's own row, over pairs of different seeds.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from word2vec_quality_summary import mean

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))
from peoples_daily import corpus_path, read_paragraphs  # noqa: E402

SIZE, WINDOW, NEGATIVE, MIN_COUNT, FREQUENT, NEIGHBOURS = 100, 5, 5, 5, 20, 10
END_RATE = 1e-4
OURS = {  # our model: (the one of gensim to compare it with, our arguments)
    "skip-gram, exact": ("gensim skip-gram", {"shared_negatives": None}),
    "skip-gram, window-shared": ("gensim skip-gram", {}),
    "skip-gram, hierarchical softmax": ("gensim skip-gram, hs", {"loss": "hierarchical_softmax"}),
    "CBOW, word2vec's update": ("gensim CBOW", {"objective": "cbow", "cbow_gradient": "word2vec"}),
    "CBOW, exact gradient": ("gensim CBOW", {"objective": "cbow", "cbow_gradient": "exact"}),
}
GENSIM = {  # with the same rates as ours
    "gensim skip-gram": {"sg": 1, "negative": NEGATIVE, "alpha": 0.025},
    "gensim skip-gram, hs": {"sg": 1, "hs": 1, "negative": 0, "alpha": 0.025},
    "gensim CBOW": {"sg": 0, "negative": NEGATIVE, "alpha": 0.05},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--sample", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    rows = compare(options.epochs, options.sample, options.seeds)
    print("\n".join(report(rows)))
    if options.results:
        options.results.write_text(
            json.dumps({**vars(options), "rows": rows}, indent=1, default=str)
        )


def compare(epochs, sample, seeds):
    """Return {row: {measure: [a value for each seed, or pair of seeds]}}."""
    from fastkeras.word2vec import Word2Vec
    from fastkeras.word2vec.corpus import encode
    from fastkeras.word2vec.vocabulary import build

    paragraphs = read_paragraphs()
    training = [words for i, words in enumerate(paragraphs) if i % 20]
    vocabulary = build(training, min_count=MIN_COUNT)
    held_out = encode(paragraphs[::20], vocabulary)
    judge = Judge(vocabulary, held_out, tags_of(vocabulary))
    common = {"vector_size": SIZE, "window": WINDOW, "min_count": MIN_COUNT, "epochs": epochs}
    common["sample"] = sample
    neighbours, rows = {}, {}

    def add(name, seed, inputs, outputs, settings):
        objective = "cbow" if settings.get("objective") == "cbow" else "skipgram"
        row = rows.setdefault(name, {"loss": [], "tag": [], "agreement": []})
        if "hierarchical" not in settings.get("loss", ""):
            row["loss"].append(judge.loss(inputs, outputs, objective))
        near = judge.neighbours(inputs)
        row["tag"].append(judge.same_tag(near))
        neighbours.setdefault(name, []).append(near)
        print(f"{name}, seed {seed}: tag {row['tag'][-1]:.2f}", file=sys.stderr, flush=True)

    for seed in range(1, seeds + 1):
        for name, (_, settings) in OURS.items():
            model = Word2Vec(**common, negative=NEGATIVE, num_threads=1, seed=seed, **settings)
            model.fit(training, vocabulary=vocabulary, progress=False)
            add(name, seed, model.input_embeddings, model.output_embeddings, settings)
        for name, settings in gensim_settings().items():
            inputs, outputs = gensim_matrices(training, vocabulary, common, seed, settings)
            kind = {"objective": "skipgram" if settings["sg"] else "cbow"}
            kind["loss"] = "hierarchical" if settings.get("hs") else ""
            add(name, seed, inputs, outputs, kind)
    for name, own in neighbours.items():
        peer = OURS[name][0] if name in OURS else name
        for (i, near), (j, other) in product(enumerate(own), enumerate(neighbours.get(peer, []))):
            if name != peer or i < j:
                rows[name]["agreement"].append(overlap(near, other))
    return rows


def gensim_settings():
    try:
        import gensim  # noqa: F401
    except ImportError:
        print("gensim is missing: pip install gensim==4.4.0", file=sys.stderr)
        return {}
    return GENSIM


def gensim_matrices(training, vocabulary, common, seed, settings):
    """Train with one worker, on a file, and return both matrices in the order of our words."""
    from gensim.models import Word2Vec

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "corpus.txt")
        Path(path).write_text("\n".join(map(" ".join, training)) + "\n", "utf-8")
        model = Word2Vec(
            corpus_file=path, workers=1, seed=seed, min_alpha=END_RATE, **common, **settings
        )
    order = [model.wv.key_to_index[word] for word in vocabulary.words]
    outputs = None if settings.get("hs") else model.syn1neg[order]
    return model.wv.vectors[order], outputs


def tags_of(vocabulary):
    """Return the most frequent tag of each word, an array of strings."""
    from peoples_daily import normalise

    counts = {}
    for line in corpus_path().read_bytes().decode("utf-8", errors="replace").splitlines():
        for token in line.split():
            word, _, tag = token.rpartition("/")
            counts.setdefault(normalise(word), Counter())[tag] += 1
    return np.array([counts[word].most_common(1)[0][0] for word in vocabulary.words])


class Judge:
    """Measures models, with the same draws for all."""

    def __init__(self, vocabulary, held_out, tags):
        self.tags = tags
        self.frequent = int(np.sum(vocabulary.counts >= FREQUENT))
        rng = np.random.default_rng(0)
        weights = vocabulary.counts**0.75
        centers, contexts = [], []
        for i in np.flatnonzero(held_out >= 0):
            reach = rng.integers(1, WINDOW + 1)
            before, after = held_out[max(i - reach, 0) : i][::-1], held_out[i + 1 : i + 1 + reach]
            words = [w for side in (before, after) for w in side[: np.argmax([*(side < 0), True])]]
            if words:
                centers.append(held_out[i])
                contexts.append(words)
        self.centers, self.contexts = np.array(centers), contexts
        shape = len(centers), NEGATIVE
        self.noise = rng.choice(len(weights), shape, p=weights / weights.sum())

    def loss(self, inputs, outputs, objective):
        """Return the mean loss of a prediction."""
        total = count = 0
        inputs, outputs = (np.asarray(matrix, np.float64) for matrix in (inputs, outputs))
        for center, contexts, noise in zip(self.centers, self.contexts, self.noise, strict=True):
            v = inputs[contexts]
            if objective == "cbow":
                v = v.mean(0, keepdims=True)
            total += np.logaddexp(0, -v @ outputs[center]).sum()
            total += np.logaddexp(0, v @ outputs[noise].T).sum()
            count += len(v)
        return total / count

    def neighbours(self, inputs):
        """Return the ten nearest of each frequent word, (words, 10)."""
        unit = inputs[: self.frequent] / np.linalg.norm(inputs[: self.frequent], axis=1)[:, None]
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        return np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]

    def same_tag(self, near):
        return 100 * float(np.mean(self.tags[near] == self.tags[: self.frequent, None]))


def overlap(near, other):
    return 100 * float(np.mean((near[:, :, None] == other[:, None, :]).any(2)))


def report(rows):
    yield f"{'':33}{'held-out loss':>18}{'same tag %':>16}{'agreement %':>16}"
    for name, row in rows.items():
        cells = (
            mean(row[key], digits) for key, digits in (("loss", 4), ("tag", 2), ("agreement", 1))
        )
        loss, tag, agreement = cells
        yield f"{name:33}{loss:>18}{tag:>16}{agreement:>16}"


if __name__ == "__main__":
    main()
