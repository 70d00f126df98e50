"""A small CRF that learns from a large one, on text that nobody has labelled.

python examples/distill_crf.py                 a minute on 2 cores; a table and a picture
python examples/distill_crf.py --help

A large network with a CRF, the teacher, learns to cut words from the labelled paragraphs. A small
one, the student, is then trained four times with the same number of steps: on the labelled
paragraphs alone; on many more without labels, by the teacher's best tags; on the same by
`crf.cross_entropy`, that is by the teacher's whole distribution, doubts included; and on the same
by their true labels, which in practice are unknown.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import peoples_daily as corpus
import small_tagger as small
from keras import ops
from segment_training import padded

from fastkeras import crf

TEST = 400  # paragraphs
UNLABELLED = 4  # times as many as have labels
TEACHER, STUDENT = (128, 3), (16, 1)  # width and number of convolutions


def of_labels(model):
    """log p(tags)"""

    def objective(characters, tags, emissions):
        valid = characters != corpus.PADDING
        return crf.log_likelihood(emissions, tags, mask=valid, **small.scores_of(model))

    return objective


def of_best_tags(model, teacher):
    """log p(the best tags of the teacher)"""
    known = arrays(small.scores_of(teacher))

    def objective(characters, _, emissions):
        valid = characters != corpus.PADDING
        believed = ops.stop_gradient(teacher(characters, training=False))
        tags, _ = crf.viterbi(believed, mask=valid, **known)
        return crf.log_likelihood(emissions, tags, mask=valid, **small.scores_of(model))

    return objective


def of_distribution(model, teacher):
    """Σ_y p(y) log q(y), with p the teacher's probabilities and q the student's."""
    known = arrays(small.scores_of(teacher))

    def objective(characters, _, emissions):
        scores = {f"other_{name}": value for name, value in small.scores_of(model).items()}
        return -crf.cross_entropy(
            ops.stop_gradient(teacher(characters, training=False)),
            other_emissions=emissions,
            mask=characters != corpus.PADDING,
            **known,
            **scores,
        )

    return objective


def arrays(scores):
    return {name: np.asarray(value) for name, value in scores.items()}


def divergence(teacher, student, text):
    """Mean of KL(teacher ‖ student), in nats per character, over the sentences of a text."""
    characters = padded(text.characters)
    valid = characters != corpus.PADDING
    p, q = arrays(small.scores_of(teacher)), arrays(small.scores_of(student))
    of_sentences = crf.kl_divergence(
        teacher.predict(characters, verbose=0),
        other_emissions=student.predict(characters, verbose=0),
        mask=valid,
        **p,
        **{f"other_{name}": value for name, value in q.items()},
    )
    return float(of_sentences.sum() / valid.sum())


def main(arguments=None):
    given = small.options(__doc__, "distill_crf", 1200, 15, arguments)
    began = time.perf_counter()
    paragraphs, _, test = corpus.split_by_position(corpus.read_paragraphs())
    vocabulary = corpus.vocabulary_of(paragraphs)  # characters need no labels
    labelled = small.text_of(paragraphs[: given.paragraphs], vocabulary)
    more = paragraphs[: (1 + UNLABELLED) * given.paragraphs]
    everything = small.text_of(more, vocabulary)
    test = small.text_of(test[:TEST], vocabulary)
    print(
        f"{given.paragraphs:,} paragraphs with labels, {len(more) - given.paragraphs:,} without; "
        "F1 of words held out, and what is left of the teacher's distribution\n"
    )
    print("".ljust(34) + "weights       F1   KL, nats a character", flush=True)

    def trained(size, objective, text, epochs):
        keras.utils.set_random_seed(0)
        model = small.network(len(vocabulary), *size)
        small.train(model, objective(model), text, epochs)
        return model, small.f1(model, test, vocabulary)

    def row(name, model, f1, kl=None):
        text = "" if kl is None else f"{kl:12.4f}"
        print(f"  {name:30}{model.count_params():9,}{f1:9.4f}{text}".rstrip(), flush=True)
        return f1, kl

    teacher, of_teacher = trained(TEACHER, of_labels, labelled, max(1, given.epochs // 2))
    teacher.trainable = False
    row("teacher, labels", teacher, of_teacher)
    share = small.batches_in(labelled) / small.batches_in(everything)
    few = max(1, round(given.epochs * share))  # epochs, for as many steps as on the labelled ones
    ways = {
        "student, labels": (of_labels, labelled, given.epochs),
        "student, teacher's best tags": (lambda m: of_best_tags(m, teacher), everything, few),
        "student, cross-entropy": (lambda m: of_distribution(m, teacher), everything, few),
        "student, labels of all": (of_labels, everything, few),
    }
    found = {}
    for name, way in ways.items():
        student, f1 = trained(STUDENT, *way)
        found[name] = row(name, student, f1, divergence(teacher, student, test))
    alone, best_tags, distilled, _ = (f1 for f1, _ in found.values())
    print(
        f"\nThe teacher's distribution gains {100 * (distilled - alone):+.1f} points on the labels "
        f"alone, its best tags {100 * (best_tags - alone):+.1f}."
    )
    print(f"All of it took {time.perf_counter() - began:.0f} seconds.")
    draw(found, of_teacher, given.output)
    return found, of_teacher


def draw(found, of_teacher, path):
    figure, (left, right) = small.panels(2, width=5.6)
    names = [name.removeprefix("student, ") for name in found]
    for axes, values, title in (
        (left, [f1 for f1, _ in found.values()], "F1 of words held out, student"),
        (right, [kl for _, kl in found.values()], "KL from the teacher, nats a character"),
    ):
        bars = axes.barh(names, values, color=["#9a9a9a", "#9a9a9a", "#2166ac", "#9a9a9a"])
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.invert_yaxis()
        axes.set_title(title)
    left.axvline(of_teacher, color="#222222", linestyle=":")
    lowest = min(f1 for f1, _ in found.values())
    left.set_xlim(max(0, lowest - 0.05), max(of_teacher, *(f1 for f1, _ in found.values())) + 0.03)
    right.set_yticks([])
    small.write(figure, path)


if __name__ == "__main__":
    main()
