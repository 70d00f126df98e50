"""Small models to search, and the enumeration of all sequences that they can generate."""

import itertools
import math

import numpy as np

END = 0
SOURCE_STEPS = 3


class RecurrentModel:
    """A random network with a state, and a context for each sentence; a search calls `step`."""

    def __init__(self, rng, vocabulary, batch, size=5, scale=1.5):
        shapes = (size, size), (vocabulary, size), (size, vocabulary), (batch, vocabulary)
        self.w, self.e, self.u, self.context = (
            scale * rng.standard_normal(shape) for shape in shapes
        )
        self.states = rng.standard_normal((batch, size))
        self.start, self.vocabulary = rng.integers(1, vocabulary, batch), vocabulary
        self.source_mask = np.arange(SOURCE_STEPS) < rng.integers(1, SOURCE_STEPS + 1, (batch, 1))

    def step(self, tokens, states, context, ancestry):
        states = np.tanh(states @ self.w + self.e[tokens])
        attention = np.exp(3 * states[..., :SOURCE_STEPS])
        attention /= attention.sum(axis=-1, keepdims=True)
        return states @ self.u + context[:, None], states, context, attention

    def probabilities(self, b, tokens, temperature=1):
        """log p of every token, and the attention, in each step; with these tokens and the end."""
        state = self.states[b]
        for before in [self.start[b], *tokens]:
            state = np.tanh(state @ self.w + self.e[before])
            logits = ((state @ self.u + self.context[b]) / temperature).tolist()
            log_sum = math.log(math.fsum(map(math.exp, logits)))
            weights = [math.exp(3 * x) for x in state[:SOURCE_STEPS]]
            yield [x - log_sum for x in logits], [w / math.fsum(weights) for w in weights]

    def of(self, rows):
        """The same model with these sentences."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        for name in ("context", "states", "start", "source_mask"):
            setattr(other, name, getattr(self, name)[rows])
        return other


def may_follow(b, tokens, token):
    """An arbitrary rule for which tokens may come: the end, and one that depends on all before."""
    return token == END or (b + sum(tokens) + token) % 3 != 1


def log_p_of(model, b, tokens, options):
    """log p of each of these tokens, with or without the end; None if they break a rule."""
    n, bias = options.get("no_repeat_ngram", 0), options.get("prefix_bias", 1)
    prefix = list(options.get("prefix", {}).get(b, ()))
    found, steps = [], model.probabilities(b, tokens[:-1], options.get("temperature", 1))
    for t, (token, (log_p, _)) in enumerate(zip(tokens, steps, strict=True)):
        before, gain = tokens[:t], log_p[token]
        is_forced = t < len(prefix) and before == prefix[:t]
        if is_forced and bias < 1:
            gain = math.log((1 - bias) * math.exp(gain) + bias * (token == prefix[t]))
        is_too_short = token == END and t < options.get("min_length", 0)
        if is_forced and bias == 1:
            if token != prefix[t]:
                return None
        elif is_too_short or token in options.get("suppressed", ()):
            return None
        grams = [tuple(before[i : i + n]) for i in range(t - n + 1)]
        if n > 0 and t >= n - 1 and (*before[t - n + 1 :], token) in grams:
            return None
        if options.get("allowed") and not may_follow(b, before, token):
            return None
        found.append(gain * (options.get("repetition_penalty", 1) if token in before else 1))
    return found


def hypothesis_of(model, b, tokens, options):
    """(score, log-likelihood, tokens, of each token) of a sequence with its end, or None."""
    log_p = log_p_of(model, b, [*tokens, END], options)
    if log_p is None:
        return None
    total = math.fsum(log_p)
    score = total / len(log_p) ** options.get("length_penalty", 0)
    if options.get("coverage_penalty"):
        steps = list(model.probabilities(b, tokens))
        for s in np.flatnonzero(model.source_mask[b]):
            read = math.fsum(attention[s] for _, attention in steps)
            score += options["coverage_penalty"] * math.log(min(read, 1))
    return score, total, list(tokens), log_p


def enumerated(model, b, options):
    """All hypotheses of one sentence, best first."""
    found = []
    for length in range(options.get("min_length", 0), options["max_length"] + 1):
        for tokens in itertools.product(range(1, model.vocabulary), repeat=length):
            found.append(hypothesis_of(model, b, list(tokens), options))
    return sorted(filter(None, found), key=lambda hypothesis: -hypothesis[0])


def searched(model, b, options):
    """The result of a beam search for one sentence, written with lists and without early stop."""
    groups, limit = options.get("num_groups", 1), options["max_length"]
    size, patience = options["num_beams"] // groups, options.get("patience")
    beams, finished = [[[]] for _ in range(groups)], [[] for _ in range(groups)]
    for t in range(limit + 1):
        if patience and all(len(of_group) >= patience * size for of_group in finished):
            break
        chosen = []
        for group in range(groups):
            candidates = []
            for beam, token in itertools.product(beams[group], range(model.vocabulary)):
                log_p = log_p_of(model, b, [*beam, token], options)
                if log_p is not None and (token == END or t < limit):
                    candidates.append((math.fsum(log_p), [*beam, token]))
            loss = options.get("diversity_penalty", 0)
            candidates.sort(
                key=lambda candidate: loss * chosen.count(candidate[1][-1]) - candidate[0]
            )
            best = [tokens for _, tokens in candidates[: 2 * size]]
            beams[group] = [tokens for tokens in best if tokens[-1] != END][:size]
            finished[group] += [tokens[:-1] for tokens in best if tokens[-1] == END]
            chosen += [tokens[-1] for tokens in beams[group]]
    found = []
    for of_group in finished:
        hypotheses = [hypothesis_of(model, b, tokens, options) for tokens in of_group]
        found += sorted(hypotheses, key=lambda one: -one[0])[: options["n_best"]]
    return sorted(found, key=lambda one: -one[0])
