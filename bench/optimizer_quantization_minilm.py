"""How well moments in fewer bits fine-tune MiniLM, beside optimizer_quantization_quality.py.

    python bench/optimizer_quantization_minilm.py [--json FILE] [--seeds 3] [--codes NAME ...]

Runs of examples/finetune_minilm.py, with one rate and moments in float32 or fewer bits. From one
seed come the head, the dropout and the order of tweets; codes differ in nothing but the moments.
The loss is that on 2,000 tweets that were not trained on. FILE keeps the other problems that it
has. It takes the packages that the example names.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from optimizer_quantization_quality import add_to  # noqa: E402 - needs no Keras

RUNS = {  # a code: the example's name of it
    "float32": "one rate",
    "fastkeras": "8 bits",
    "bfloat16, both at random": "16 bits",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to add the results to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codes", nargs="*", default=[*RUNS], help="only these")
    parser.add_argument("--tweets", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()

    import health_tweets
    import minilm
    from finetune_minilm import encoded
    from finetune_training import LENGTH, train

    splits = health_tweets.split(health_tweets.read_tweets(), given.tweets, validation=32)
    data = encoded(splits, minilm.Tokenizer(), LENGTH)
    for seed in range(given.seeds):
        for code in given.codes:
            print(f"MiniLM, {code}, seed {seed}", flush=True)
            with tempfile.TemporaryDirectory() as folder:  # for the model, of 90 MB
                classes = len(health_tweets.OUTLETS)
                found = train(RUNS[code], data, classes, given.epochs, Path(folder), seed)
            row = {"loss": found["test_loss"], "largest": found["largest_weight"]}
            row["accuracy"] = found["test_accuracy"]
            print(json.dumps(row), flush=True)
            if given.json:
                add_to(given.json, "MiniLM", code, seed, row)


if __name__ == "__main__":
    main()
