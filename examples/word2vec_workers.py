"""Word vectors trained by several workers of Ray or Spark, on this machine or on all of a cluster.

pip install 'fastkeras[ray]'            # or 'fastkeras[spark]', and Java
python examples/word2vec_workers.py news.txt --workers 2
RAY_ADDRESS=10.0.0.1:6379 python examples/word2vec_workers.py news.txt --workers 8 --threads 16

python examples/word2vec_workers.py news.txt --workers 2 --on spark
spark-submit --master yarn --conf spark.task.cpus=16 \
  examples/word2vec_workers.py news.txt --workers 8 --on spark
"""

import argparse
from pathlib import Path

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.distributed import (
    fit_with_ray,
    fit_with_spark,
    resume_with_ray,
    resume_with_spark,
)

FUNCTIONS = {"ray": (fit_with_ray, resume_with_ray), "spark": (fit_with_spark, resume_with_spark)}
MINUTES = 1  # between two checkpoints


def train(on, corpus, output, num_workers, words_between=None, **settings):
    """Train a model, or go on where a killed run stopped; return it."""
    fit, resume = FUNCTIONS[on]
    checkpoint = output / "model.npz"
    options = {"num_workers": num_workers, "words_between": words_between}
    options |= {"checkpoint": checkpoint, "checkpoint_minutes": MINUTES}
    if checkpoint.exists():
        return resume(Word2Vec.load(checkpoint), corpus, **options)
    return fit(Word2Vec(**settings), corpus, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="a path or pattern of text files, a sentence a line")
    parser.add_argument("--on", choices=FUNCTIONS, default="ray")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="of each; 0 shares all out")
    parser.add_argument("--words-between", type=int, help="two rounds; default: 100 rounds in all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("build/word2vec_workers"))
    parser.add_argument("--words", nargs="*", default=[], help="whose neighbours are shown")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    of_model = {"epochs": options.epochs, "num_threads": options.threads}
    of_run = options.on, options.corpus, options.output, options.workers, options.words_between
    model = train(*of_run, **of_model)
    model.vectors.save(options.output / "vectors.npy")
    history = zip(*model.history.values(), strict=True)
    for epoch, (loss, speed) in enumerate(history, 1):
        print(f"epoch {epoch}  {speed / 1e3:,.0f} k words/s  loss {loss:.4f}")
    for word in options.words:
        print(word, *(near for near, _ in model.vectors.most_similar(word, topn=8)))


if __name__ == "__main__":
    main()
