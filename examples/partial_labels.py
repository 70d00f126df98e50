"""Word segmentation learned from sentences most of whose tags are unknown.

python examples/partial_labels.py              a minute on 2 cores; a table and a picture
python examples/partial_labels.py --help

Only some characters of the People's Daily, chosen at random, keep their tags. The same network
learns from them in four ways:

- by the likelihood of all legal sequences that have the known tags, which sums over the unknown;
- tag by tag, by the probability of each known tag alone, without a CRF;
- with the characters of unknown tags masked, so that the chain skips them;
- with s, a word of one character, in place of unknown tags, as if it meant "nothing known here".

All four decode the best legal sequence. The upper bound is the result with all tags.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import peoples_daily as corpus
import small_tagger as small
from keras import ops

from fastkeras import crf

HIDDEN = -100
SHARES = (0.03, 0.1, 0.3)
TEST = 400  # paragraphs
WIDTH, CONVOLUTIONS = 64, 2


def of_sets(model):
    """log p(the known tags): the sum over all legal sequences that have them."""

    def objective(characters, tags, emissions):
        allowed = crf.constraints.bitmap_of_tags(tags, small.NUM_TAGS, unknown=HIDDEN)
        legal = small.LEGAL.apply(**small.scores_of(model))
        valid = characters != corpus.PADDING
        return crf.log_likelihood_of_sets(emissions, allowed, mask=valid, **legal)

    return objective


def tag_by_tag(model):
    """Σ log p(tag) over the known tags, by a softmax."""

    def objective(characters, tags, emissions):
        known = (tags != HIDDEN) & (characters != corpus.PADDING)
        log_p = ops.log_softmax(emissions)
        of_tags = ops.take_along_axis(log_p, ops.maximum(tags, 0)[..., None], axis=-1)[..., 0]
        return ops.sum(ops.where(known, of_tags, 0), axis=1)

    return objective


def masked(model):
    """The likelihood of a chain of only the known tags."""

    def objective(characters, tags, emissions):
        known = (tags != HIDDEN) & (characters != corpus.PADDING)
        return crf.log_likelihood(emissions, tags, mask=known, **small.scores_of(model))

    return objective


def as_single(model):
    """The likelihood with s for each tag that is not known."""

    def objective(characters, tags, emissions):
        tags = ops.where(tags == HIDDEN, corpus.SINGLE, tags)
        valid = characters != corpus.PADDING
        return crf.log_likelihood(emissions, tags, mask=valid, **small.scores_of(model))

    return objective


WAYS = {
    "CRF, unknown tags summed out": of_sets,
    "softmax of known tags": tag_by_tag,
    "CRF, unknown tags masked": masked,
    "CRF, unknown tags are s": as_single,
}


def hidden(tags, share):
    """Hide all tags but a share of them; a larger share includes the tags of a smaller one."""
    random = np.random.default_rng(0)
    return [np.where(random.random(len(row)) < share, row, HIDDEN).astype("int32") for row in tags]


def main(arguments=None):
    given = small.options(__doc__, "partial_labels", 1000, 5, arguments)
    began = time.perf_counter()
    training, _, test = corpus.split_by_position(corpus.read_paragraphs())
    vocabulary = corpus.vocabulary_of(training)  # characters need no labels
    training = small.text_of(training[: given.paragraphs], vocabulary)
    test = small.text_of(test[:TEST], vocabulary)
    count = sum(map(len, training.tags))
    print(f"{len(training.tags):,} sentences of {count:,} characters; F1 of words held out\n")

    def measured(way, tags):
        keras.utils.set_random_seed(0)
        model = small.network(len(vocabulary), WIDTH, CONVOLUTIONS)
        small.train(model, way(model), training, given.epochs, tags)
        return small.f1(model, test, vocabulary)

    print("tags known".ljust(32) + "".join(f"{share:9.0%}" for share in (*SHARES, 1)), flush=True)
    found = {}
    for name, way in WAYS.items():
        print(f"  {name:30}", end="", flush=True)
        found[name] = []
        for share in SHARES:
            found[name].append(measured(way, hidden(training.tags, share)))
            print(f"{found[name][-1]:9.4f}", end="", flush=True)
        print()
    ceiling = measured(of_sets, training.tags)
    print("  CRF, all tags".ljust(32 + 9 * len(SHARES)) + f"{ceiling:9.4f}\n")
    ours, *others = found.values()
    for share, f1, rest in zip(SHARES, ours, zip(*others, strict=True), strict=True):
        print(
            f"With {share:.0%} of the tags, summing out gains {100 * (f1 - max(rest)):+.1f} points "
            f"on the best other way, and is {100 * (ceiling - f1):.1f} below all tags."
        )
    print(f"All of it took {time.perf_counter() - began:.0f} seconds.")
    draw(found, ceiling, given.output)
    return found, ceiling


def draw(found, ceiling, path):
    figure, axes = small.panels(1)
    for name, values in found.items():
        axes.plot(SHARES, values, marker="o", label=name)
    axes.axhline(ceiling, color="#9a9a9a", linestyle=":", label="CRF, all tags")
    axes.set_xscale("log")
    axes.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES])
    axes.minorticks_off()
    axes.set_xlabel("tags known")
    axes.set_title("F1 of words held out")
    axes.legend()
    small.write(figure, path)


if __name__ == "__main__":
    main()
