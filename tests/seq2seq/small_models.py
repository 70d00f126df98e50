"""Small models to search, and the enumeration of all sequences that they can generate."""

import itertools
import math

import numpy as np

END = 0


class RecurrentModel:
    """A random network with a state, and a context for each sentence; a search calls `step`."""

    def __init__(self, rng, vocabulary, batch, size=5, scale=1.5):
        shapes = (size, size), (vocabulary, size), (size, vocabulary), (batch, vocabulary)
        self.w, self.e, self.u, self.context = (
            scale * rng.standard_normal(shape) for shape in shapes
        )
        self.states = rng.standard_normal((batch, size))
        self.start, self.vocabulary = rng.integers(1, vocabulary, batch), vocabulary

    def step(self, tokens, states, context, ancestry):
        states = np.tanh(states @ self.w + self.e[tokens])
        return states @ self.u + context[:, None], states, context

    def log_p(self, b, tokens):
        """log p of each token of one sequence, given the tokens before it; (len(tokens),)."""
        state, found = self.states[b], []
        for before, token in zip([self.start[b], *tokens], tokens, strict=False):
            state = np.tanh(state @ self.w + self.e[before])
            logits = (state @ self.u + self.context[b]).tolist()
            found.append(logits[token] - math.log(math.fsum(map(math.exp, logits))))
        return found

    def of(self, rows):
        """The same model with these sentences."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        for name in ("context", "states", "start"):
            setattr(other, name, getattr(self, name)[rows])
        return other


def score_of(model, b, tokens, options):
    """Score and log-likelihood of a sequence with its end; None if it breaks a rule."""
    tokens = list(tokens)
    n, prefix = options.get("no_repeat_ngram", 0), list(options.get("prefix", {}).get(b, ()))
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if (
        set(tokens[len(prefix) :]) & {END, *options.get("suppressed", ())}
        or tokens[: len(prefix)] != prefix
        or (n > 0 and len(set(grams)) < len(grams))
    ):
        return None
    log_p = model.log_p(b, [*tokens, END])
    for i, token in enumerate(tokens):
        if token in tokens[:i]:
            log_p[i] *= options.get("repetition_penalty", 1)
    total = math.fsum(log_p)
    return total / len(log_p) ** options.get("length_penalty", 0), total


def enumerated(model, b, options):
    """All hypotheses of one sentence: (score, log-likelihood, tokens), best first."""
    found = []
    for length in range(options.get("min_length", 0), options["max_length"] + 1):
        for tokens in itertools.product(range(model.vocabulary), repeat=length):
            scores = score_of(model, b, tokens, options)
            if scores is not None:
                found.append((*scores, list(tokens)))
    return sorted(found, key=lambda hypothesis: -hypothesis[0])


def searched(model, b, options):
    """The result of a beam search for one sentence, written with lists and without early stop."""
    k, limit = options["num_beams"], options["max_length"]
    prefix = list(options.get("prefix", {}).get(b, ()))
    beams, finished = [[]], []
    for t in range(limit + 1):
        candidates = []
        for beam, token in itertools.product(beams, range(model.vocabulary)):
            tokens = [*beam, token]
            if token == END:
                if t >= options.get("min_length", 0) and t >= len(prefix):
                    scores = score_of(model, b, beam, options)
                    if scores is not None:
                        candidates.append((scores[1], tokens))
            elif t < limit and (t >= len(prefix) or token == prefix[t]):
                log_p = beginning_of(model, b, tokens, options)
                if log_p is not None:
                    candidates.append((log_p, tokens))
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * k]
        beams = [tokens for _, tokens in candidates if tokens[-1] != END][:k]
        finished += [tokens[:-1] for _, tokens in candidates if tokens[-1] == END]
    found = [(*score_of(model, b, tokens, options), tokens) for tokens in finished]
    return sorted(found, key=lambda hypothesis: -hypothesis[0])


def beginning_of(model, b, tokens, options):
    """The log-likelihood of a sequence that has not ended, or None."""
    until_now = {
        **options,
        "prefix": {b: list(options.get("prefix", {}).get(b, ()))[: len(tokens)]},
    }
    scores = score_of(model, b, tokens, until_now)
    return None if scores is None else scores[1] - model.log_p(b, [*tokens, END])[-1]
