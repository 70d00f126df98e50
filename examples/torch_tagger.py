"""Cut Chinese text into words in plain torch: a CRF head beside a softmax head, without Keras.

One small network is trained twice. `fastkeras.crf` takes torch's tensors, and one call of
`fastkeras.compat.torch_optim.AdamW` updates all parameters, those of the CRF at ten times the rate,
and limits the norm of the gradients.
"""

import argparse
import time

import peoples_daily as corpus
import torch
from torch import nn

from fastkeras import crf
from fastkeras.compat.torch_optim import AdamW

NUM_TAGS, WIDTH = len(corpus.TAG_NAMES), 64


class Tagger(nn.Module):
    """Character numbers (batch, steps) → scores of b, m, e, s at each step; with or without CRF."""

    def __init__(self, vocabulary_size, has_crf):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size + 2, WIDTH, padding_idx=corpus.PADDING)
        sizes = (3, 3)
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, n, padding="same") for n in sizes)
        self.head = nn.Linear(WIDTH, NUM_TAGS)
        self.transitions = nn.Parameter(torch.zeros(NUM_TAGS, NUM_TAGS)) if has_crf else None

    def forward(self, characters):
        x, valid = self.embedding(characters), (characters != corpus.PADDING)[..., None]
        for convolution in self.convolutions:
            x = nn.functional.dropout(x, 0.2, self.training)
            x = convolution(x.transpose(1, 2)).transpose(1, 2).relu() * valid
        return self.head(x)

    def loss(self, characters, tags):
        scores, valid = self(characters), characters != corpus.PADDING
        if self.transitions is None:
            return nn.functional.cross_entropy(scores[valid], tags[valid])
        return -crf.log_likelihood(scores, tags, self.transitions, mask=valid).sum() / valid.sum()

    @torch.no_grad()
    def decode(self, characters):
        scores = self(characters)
        if self.transitions is None:
            return scores.argmax(-1)
        return crf.viterbi(scores, self.transitions, mask=characters != corpus.PADDING)[0]


def batches(characters, tags, size=64):
    """Padded batches of sentences of similar length, in random order."""
    by_length = sorted(range(len(characters)), key=lambda i: len(characters[i]))
    for first in torch.randperm(-(-len(by_length) // size)).tolist():
        members = by_length[first * size : (first + 1) * size]
        yield tuple(
            nn.utils.rnn.pad_sequence([torch.from_numpy(a[i]).long() for i in members], True)
            for a in (characters, tags)
        )


def train(characters, tags, vocabulary_size, has_crf, epochs, seed=0):
    """Return the trained network, and the time of its steps in seconds."""
    torch.manual_seed(seed)
    model = Tagger(vocabulary_size, has_crf)
    of_crf = [] if model.transitions is None else [model.transitions]
    others = [p for p in model.parameters() if p is not model.transitions]
    groups = [{"params": others, "lr": 4e-3}, *({"params": [p], "lr": 4e-2} for p in of_crf)]
    optimizer = AdamW(groups, max_norm=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in batches(characters, tags):
            optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
        schedule.step()
    return model.eval(), time.perf_counter() - start


def f1(model, paragraphs, vocabulary):
    """The F1 of words."""
    found = []
    for words in paragraphs:
        pieces = corpus.sentences("".join(words))
        rows = [torch.from_numpy(row).long() for row in corpus.encode(pieces, vocabulary)]
        tags = model.decode(nn.utils.rnn.pad_sequence(rows, True)).numpy() if rows else []
        cut = zip(pieces, tags, strict=True)
        found.append([word for text, row in cut for word in corpus.words_of(text, row)])
    return corpus.score(paragraphs, found)[2]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="(default: 5)")
    parser.add_argument("--paragraphs", type=int, default=6000, help="to train on (default: 6,000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    given = parser.parse_args(arguments)
    if min(given.epochs, given.paragraphs) < 1:
        parser.error("--epochs and --paragraphs must be at least 1")
    training, _, test = corpus.split_by_position(corpus.read_paragraphs())
    training = training[: given.paragraphs]
    vocabulary = corpus.vocabulary_of(training)
    characters, tags = corpus.labelled_sentences(training, vocabulary)
    print(
        f"{len(characters):,} sentences to train on, {len(test):,} paragraphs of later days to cut"
    )
    print(f"{'head':10}{'word F1':>10}{'seconds of training':>22}")
    found = {}
    for name in ("softmax", "CRF"):
        more = name == "CRF", given.epochs, given.seed
        model, seconds = train(characters, tags, len(vocabulary), *more)
        found[name] = f1(model, test, vocabulary)
        print(f"{name:10}{found[name]:10.4f}{seconds:22.1f}")
    return found


if __name__ == "__main__":
    main()
