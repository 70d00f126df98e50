"""Every function with every kind of transitions, in the engines that docs/engines.md names."""

import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest

import fastkeras
from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from fastkeras.crf.layers.scores import scores_of
from fastkeras.layers import CRF, MEMM
from second_order_calls import CALLS

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, NUM_TAGS, NUM_BEST = 4, 3, 4
EMISSIONS = np.random.default_rng(0).standard_normal((3, STEPS, NUM_TAGS))
MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
TAGS = np.where(MASK, [[1, 2, 0, 1]], -100)
ALLOWED = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 1], [0, 1, 1]], bool)
WEIGHTS = np.array([1.0, 0.5, 3.0])
ENDS = {"start_transitions": np.array([0.5, -1, 0]), "end_transitions": np.array([1, 0, -0.5])}
OTHER = {"emissions": EMISSIONS[::-1, ::-1], "start_transitions": None, "end_transitions": None}
OTHER["transitions"] = np.random.default_rng(3).standard_normal((NUM_TAGS, NUM_TAGS))
SHAPES = {"plain": (), "by step": (STEPS - 1,), "by step and sequence": (3, STEPS - 1)}
WITHOUT_VARYING = ("numba", "cupy", "jax_cuda", "torch_cuda")
TAKE_TAGS = re.compile("score|likelihood(?!_of_sets)|loss|span|expected")
TRIPLES = np.random.default_rng(5).standard_normal((NUM_TAGS,) * 3)
TRIPLES[0, 0, 0] = -np.inf
OF_SECOND_ORDER = "of second order "
NOT_OF_SECOND_ORDER = {"entropy_and_gradients", "log_likelihood_and_gradients", "span_confidence"}

OPTIONS = {
    "k_best": {"k": NUM_BEST},
    "sample": {"num_samples": 5, "seed": 7},
    "span_confidence": {"spans": [(0, 0, 2), (1, 0, 2), (2, 0, 2)]},
    "log_likelihood_of_sets": {"allowed": ALLOWED},
    "weighted_log_likelihood": {"weights": WEIGHTS},
    "smoothed_log_likelihood": {"label_smoothing": 0.1},
    "expected_cost": {"num_paths": NUM_BEST},
}


class Paths(NamedTuple):
    """All paths of one sequence of the batch."""

    b: int
    steps: np.ndarray  # its valid steps
    paths: np.ndarray
    scores: np.ndarray
    others: np.ndarray  # their scores by the other chain

    @property
    def p(self):
        return probabilities(self.scores)[1]

    @property
    def surprise(self):
        return (probabilities(self.scores)[0] - self.scores)[self.p > 0]

    @property
    def entropy(self):
        return self.p[self.p > 0] @ self.surprise

    @property
    def entropy_by_emissions(self):
        result = np.zeros((STEPS, NUM_TAGS))
        for path, p, surprise in zip(
            self.paths[self.p > 0], self.p[self.p > 0], self.surprise, strict=True
        ):
            result[self.steps, path] += p * (surprise - self.entropy)
        return result

    @property
    def cross_entropy(self):
        surprise = probabilities(self.others)[0] - self.others
        return self.p[self.p > 0] @ surprise[self.p > 0]

    @property
    def right(self):
        """Which tags of which paths are right, (paths, valid steps)."""
        return self.paths == TAGS[self.b, self.steps]

    @property
    def gold(self):
        return self.right.all(axis=1).argmax()

    @property
    def log_p(self):
        return np.log(self.p[self.gold])

    @property
    def best(self):
        return np.argsort(-self.scores)[:NUM_BEST]

    @property
    def best_paths(self):
        rows = np.zeros((NUM_BEST, STEPS))
        rows[: len(self.best), self.steps] = self.paths[self.best]
        return rows

    @property
    def best_scores(self):
        scores = self.scores[self.best].astype(float)
        return np.pad(scores, (0, NUM_BEST - len(scores)), constant_values=-np.inf)

    @property
    def unary(self):
        result = np.zeros((STEPS, NUM_TAGS))
        for path, probability in zip(self.paths, self.p, strict=True):
            result[self.steps, path] += probability
        return result

    @property
    def pairs(self):
        result = np.zeros((STEPS - 1, NUM_TAGS, NUM_TAGS))
        for path, probability in zip(self.paths, self.p, strict=True):
            result[self.steps[1:] - 1, path[:-1], path[1:]] += probability
        return result

    @property
    def of_gold(self):
        one_hot = np.zeros((STEPS, NUM_TAGS))
        one_hot[self.steps, TAGS[self.b, self.steps]] = 1
        return one_hot

    @property
    def weighted(self):
        """Each factor p(y_t | y_1 … y_{t−1}) to the power of its weight."""
        so_far = [self.p[self.right[:, :n].all(axis=1)].sum() for n in range(len(self.steps) + 1)]
        return WEIGHTS[TAGS[self.b, self.steps]] @ np.diff(np.log(so_far))

    @property
    def share(self):
        """The probability of the allowed tags."""
        return self.p[ALLOWED[self.steps, self.paths].all(axis=1)].sum()

    @property
    def costs(self):
        return (~self.right).sum(axis=1)


EXPECTED = {
    "log_partition": lambda s: probabilities(s.scores)[0],
    "sequence_score": lambda s: s.scores[s.gold],
    "log_likelihood": lambda s: s.log_p,
    "log_likelihood_and_gradients": lambda s: (s.log_p, s.of_gold - s.unary),
    "marginals": lambda s: (s.unary, s.pairs),
    "viterbi": lambda s: (s.best_paths[0], s.best_scores[0]),
    "posterior_decode": lambda s: (s.unary.argmax(axis=1), s.unary.max(axis=1)),
    "span_confidence": lambda s: s.p[s.right[:, s.steps < 2].all(axis=1)].sum(),
    "k_best": lambda s: (s.best_paths, s.best_scores),
    "entropy": lambda s: s.entropy,
    "entropy_and_gradients": lambda s: (s.entropy, s.entropy_by_emissions),
    "cross_entropy": lambda s: s.cross_entropy,
    "kl_divergence": lambda s: s.cross_entropy - s.entropy,
    "log_count": lambda s: np.log((s.p > 0).sum()),
    "log_likelihood_of_sets": lambda s: np.log(s.share),
    "weighted_log_likelihood": lambda s: s.weighted,
    "smoothed_log_likelihood": lambda s: 0.9 * s.log_p - 0.1 * s.surprise.mean(),
    "marginal_log_likelihood": lambda s: np.log(s.unary[s.of_gold > 0]).sum(),
    "softmax_margin_loss": lambda s: probabilities(s.scores + s.costs)[0] - s.scores[s.gold],
    "max_margin_loss": lambda s: (s.scores + s.costs).max() - s.scores[s.gold],
    "expected_cost": lambda s: (
        probabilities(s.scores[s.best])[1] @ s.costs[s.best] / max(len(s.steps), 1)
    ),
}


def transitions_of(kind):
    """Return transitions of this kind, and in full; where they are full, one is forbidden."""
    kind = "plain" if kind.startswith(OF_SECOND_ORDER) else kind
    rng = np.random.default_rng(2)
    if kind == "low rank":
        low_rank = crf.LowRank(*rng.standard_normal((2, NUM_TAGS, 2)))
        return low_rank, low_rank.product()
    transitions = rng.standard_normal((*SHAPES[kind], NUM_TAGS, NUM_TAGS))
    transitions[..., 0, 2] = -np.inf
    return transitions, transitions


@cache
def sequences(kind):
    """Return the `Paths` of each sequence."""
    chain = {"emissions": EMISSIONS, "transitions": transitions_of(kind)[1], **ENDS}
    other = OTHER
    if kind.startswith(OF_SECOND_ORDER):  # both chains have the same rules
        allowed = rules().transitions
        other = {**OTHER, "transitions": np.where(allowed, OTHER["transitions"], -np.inf)}
    both = zip(
        *(enumerate_paths({**c, "mask": MASK, "lengths": None}) for c in (chain, other)),
        strict=True,
    )
    found = [Paths(b, *own, scores) for b, (own, (_, _, scores)) in enumerate(both)]
    return [with_triples(paths) for paths in found] if kind.startswith(OF_SECOND_ORDER) else found


def with_triples(of):
    """Add the scores of the triples, which both chains have."""
    scores = TRIPLES[of.paths[:, :-2], of.paths[:, 1:-1], of.paths[:, 2:]].sum(axis=1)
    return of._replace(scores=of.scores + scores, others=of.others + scores)


def rules():
    """Return the constraints that allow the plain transitions that are not forbidden."""
    return crf.Constraints(transitions_of("plain")[0] > -np.inf)


def expected(function, kind):
    """Return what a function gives, by looking at every path, as a list of arrays."""
    rows = [EXPECTED[function](paths) for paths in sequences(kind)]
    results = zip(*rows, strict=True) if isinstance(rows[0], tuple) else (rows,)
    results = [np.array(result, float) for result in results]
    if function == "marginals" and not kind.startswith("by step"):
        results[1] = results[1].sum(axis=1)
    return results


def results_of(function, kind, engine, dtype=None):
    """Call a function; return a list of arrays."""
    emissions = EMISSIONS.astype(dtype or ("float32" if rounds(engine) else "float64"))
    arguments = {"emissions": emissions, "transitions": transitions_of(kind)[0], **ENDS}
    if TAKE_TAGS.search(function):
        arguments["tags"] = TAGS
    if function in ("cross_entropy", "kl_divergence"):
        arguments |= {f"other_{name}": scores for name, scores in OTHER.items()}
    arguments |= {"mask": MASK, "engine": engine, **OPTIONS.get(function, {})}
    if kind.startswith(OF_SECOND_ORDER):
        chain = {name: arguments.pop(name) for name in ("emissions", "transitions", "mask", *ENDS)}
        chain |= {"triples": TRIPLES, "constraints": rules()}
        results = CALLS[kind.removeprefix(OF_SECOND_ORDER)](function, chain, arguments)
    else:
        results = getattr(crf, function)(**arguments)
    results = results if isinstance(results, tuple) else (results,)
    return [np.asarray(part) for part in keras.tree.flatten(results)]


def filled():
    """Yield function, kind and engine of what the table in docs/engines.md says there is."""
    text = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    kinds, rows = re.search(r"\| transitions \|(.*)\|\n\|[-:|]+\n((?:\|.*\n)+)", text).groups()
    kinds = [kind.strip() for kind in kinds.split("|")]
    states = fastkeras.engines("crf")
    marks = {"●": states, "○": [engine for engine in states if engine not in WITHOUT_VARYING]}
    for row in rows.splitlines():
        names, *cells = row.strip("|").split("|")
        names = re.findall(r"`(\w+)`", names)
        for kind, cell in zip(kinds, map(str.strip, cells), strict=True):
            if kind == OF_SECOND_ORDER.strip():
                of_plain = marks[cells[0].strip()] if cell == "□" else ()
                yield from of_second_order(names, cell.split(", "), of_plain)
                continue
            engines = marks.get(cell) or re.findall(r"`(\w+)`", cell)
            for function, engine in product(names, engines):
                yield parameters(function, kind, engine, states[engine])


def of_second_order(functions, marks, engines_of_plain):
    """Yield the same for the cell of second-order chains: one mark, or one for each function."""
    marks = marks * len(functions) if len(marks) == 1 else marks
    ready = {
        "△": fastkeras.engines("crf.second_order"),
        "□": {engine: fastkeras.engines("crf")[engine] for engine in engines_of_plain},
        "◇": {None: "ready"},
        "·": {},
    }
    for function, mark in zip(functions, marks, strict=True):
        for engine, state in ready[mark].items():
            yield parameters(function, OF_SECOND_ORDER + mark, engine, state)


def parameters(function, kind, engine, state):
    """Return the parameters of a test, which is skipped where the engine is not ready."""
    skip = [] if state == "ready" else [pytest.mark.skip(reason=state)]
    return pytest.param(function, kind, engine, marks=skip)


def rounds(engine):
    """Return whether the engine computes in float32, as JAX does unless told otherwise.

    So does the layer, which is asked for no engine.
    """
    return engine in (None, "jax_native") or (
        engine == "keras" and keras.backend.backend() == "jax"
    )


def allowed(engine):
    """Return the tolerances."""
    return {"rtol": 1e-5, "atol": 1e-5} if rounds(engine) else {"rtol": 1e-11, "atol": 1e-12}


@pytest.mark.parametrize(("function", "kind", "engine"), list(filled()))
def test_the_table_of_kinds_is_true(function, kind, engine):
    results = results_of(function, kind, engine)
    if function == "sample":
        dtype = "float32" if rounds(engine) else "float64"
        (exact,) = results_of(function, kind, "reference", dtype)
        np.testing.assert_array_equal(results[0], exact)
        return
    for result, exact in zip(results, expected(function, kind), strict=False):
        np.testing.assert_allclose(result, exact, **allowed(engine))


def other_chains():
    """Yield function and engine of what the table of other chains says there is."""
    text = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    names, rows = re.search(r"\| of other chains \|(.*)\|\n\|[-:|]+\n((?:\|.*\n)+)", text).groups()
    engines = re.findall(r"`(\w+)`", names)
    for row in rows.splitlines():
        functions, *cells = row.strip("|").split("|")
        for function in re.findall(r"`([\w.]+)`", functions):
            domain = f"crf.{function.partition('.')[0]}"
            for engine, cell in zip(engines, cells, strict=True):
                state = fastkeras.engines(domain)[engine]
                skip = [] if state == "ready" else [pytest.mark.skip(reason=state)]
                if cell.strip() == "●":
                    yield pytest.param(domain, function, engine, marks=skip)


@pytest.mark.parametrize(("domain", "function", "engine"), list(other_chains()))
def test_the_table_of_other_chains_is_true(domain, function, engine):
    module, name = function.split(".")
    emissions = EMISSIONS.astype("float32" if rounds(engine) else "float64")
    arguments = {"emissions": emissions, "transitions": transitions_of("plain")[0], **ENDS}
    if module == "semi_markov":
        arguments["durations"] = np.array([[0.5, 0, -1], [1, 0.25, 0]])
    else:
        arguments["triples"] = TRIPLES
    if re.search("score|likelihood", name):
        arguments["tags"] = np.maximum(TAGS, 0)
    results, exact = (
        [np.asarray(part) for part in keras.tree.flatten(of_engine)]
        for of_engine in (
            getattr(getattr(crf, module), name)(**arguments, engine=one)
            for one in (engine, "reference")
        )
    )
    for result, expected_result in zip(results, exact, strict=True):
        np.testing.assert_allclose(result, expected_result, **allowed(engine))


def test_the_table_of_other_chains_has_all_functions_and_engines():
    there = {param.values for param in other_chains()}
    functions = {
        f"{domain}.{name}"
        for domain in ("semi_markov", "second_order")
        for name in getattr(crf, domain).__all__
        if "engine" in getattr(getattr(getattr(crf, domain), name), "__annotations__", ())
        and name != "pair_chain"  # it hands the engine on to the functions called with it
    }
    domains = {function: f"crf.{function.partition('.')[0]}" for function in functions}
    assert there == {
        (domain, function, engine)
        for function, domain in domains.items()
        for engine in fastkeras.engines(domain)
    }


def test_the_table_has_every_function_and_kind():
    there = {(param.values[0], param.values[1]) for param in filled()}
    functions, kinds = {*EXPECTED, "sample"}, {*SHAPES, "low rank"}
    other = {(function, kind) for function, kind in there if kind not in kinds}
    assert there - other == set(product(functions, kinds))
    assert {kind for _, kind in other} == {OF_SECOND_ORDER + mark for mark in CALLS}
    assert sorted(function for function, _ in other) == sorted(functions - NOT_OF_SECOND_ORDER)


@pytest.mark.parametrize("kind", (*SHAPES, "low rank"))
def test_samples_are_as_frequent_as_they_are_probable(kind):
    more = {"num_samples": 4000, "seed": 1, "mask": MASK, "engine": "reference", **ENDS}
    tags = crf.sample(EMISSIONS, transitions_of(kind)[0], **more)
    for of in sequences(kind):
        drawn = tags[:, of.b][:, of.steps]
        frequency = (drawn[:, None] == of.paths).all(axis=2).mean(axis=0)
        np.testing.assert_allclose(frequency, of.p.astype(float), rtol=0, atol=0.03)


@pytest.mark.parametrize("engine", ("keras", "reference"))
def test_the_divergence_from_transitions_that_vary_is_that_from_the_same_plain_ones(engine):
    plain = np.random.default_rng(4).standard_normal((2, NUM_TAGS, NUM_TAGS))
    by_step = np.broadcast_to(plain[1], (STEPS - 1, NUM_TAGS, NUM_TAGS))
    emissions = EMISSIONS.astype("float32" if rounds(engine) else "float64")
    chains = {"other_emissions": OTHER["emissions"], "mask": MASK, "engine": engine}
    for function in (crf.cross_entropy, crf.kl_divergence):
        exact, result = (
            np.asarray(function(emissions, plain[0], other_transitions=other, **chains))
            for other in (plain[1], by_step)
        )
        np.testing.assert_allclose(result, exact, **allowed(engine))


@pytest.mark.parametrize("kind", ("low rank", "by step"))
def test_a_stream_decodes_like_viterbi(kind):
    transitions, full = transitions_of(kind)
    varies = kind == "by step"
    stream = crf.ViterbiStream(None if varies else transitions, **ENDS)
    for row in EMISSIONS:
        into = np.concatenate([np.full((1, NUM_TAGS, NUM_TAGS), np.nan), full]) if varies else None
        pieces = [
            stream.feed(row[at], *(() if into is None else (into[at],)))
            for at in (slice(0, 1), slice(1, 3), slice(3, 3), slice(3, 4))
        ]
        tags, score = stream.finish()
        exact, best = crf.viterbi(row[None], transitions, **ENDS, engine="reference")
        np.testing.assert_array_equal(np.concatenate([*pieces, tags]), exact[0])
        np.testing.assert_allclose(score, best[0], rtol=1e-12)


def test_a_stream_refuses_transitions_that_do_not_fit():
    for stream, into, message in (
        (crf.ViterbiStream(None), None, "got them not at all"),
        (crf.ViterbiStream(np.zeros((3, 3))), np.zeros((4, 3, 3)), "got them twice"),
        (
            crf.ViterbiStream(None),
            np.zeros((3, 3, 3)),
            r"\(steps, num_tags, num_tags\) = \(4, 3, 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            stream.feed(EMISSIONS[0], into)


@pytest.mark.parametrize("kind", (*SHAPES, "low rank"))
def test_constraints_apply_to_every_kind(kind):
    transitions, full = transitions_of(kind)
    rules = crf.Constraints(np.eye(NUM_TAGS, dtype=bool), start=np.array([True, False, True]))
    scores = rules.apply(transitions)
    np.testing.assert_array_equal(scores["transitions"], np.where(rules.transitions, full, -np.inf))
    np.testing.assert_array_equal(scores["start_transitions"], [0, -np.inf, 0])
    tags, _ = crf.viterbi(EMISSIONS, **scores)
    assert (tags == tags[:, :1]).all()


@pytest.fixture
def varying_model(rng):
    """A layer, and a model whose transitions depend on its inputs."""
    inputs = keras.Input((STEPS, 2))
    masked = keras.layers.Masking(-9.0)(inputs)
    pairs = keras.layers.Dense(NUM_TAGS**2)(inputs[:, 1:])
    pairs = keras.layers.Reshape((STEPS - 1, NUM_TAGS, NUM_TAGS))(pairs)
    rules = crf.Constraints(np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool))
    layer = CRF(constraints=rules)
    emissions = layer(keras.layers.Dense(NUM_TAGS)(masked), transitions=pairs)
    return layer, keras.Model(inputs, [emissions, pairs])


def test_the_layer_takes_transitions_that_depend_on_the_input(varying_model, rng, tmp_path):
    layer, both = varying_model
    x = rng.standard_normal((4, STEPS, 2)).astype("float32")
    x[1, 2:] = x[2, 1] = -9.0
    tags = np.ones((4, STEPS), int)
    model = keras.Model(both.input, both.outputs[0])
    emissions, pairs = (as_array(output) for output in both(x))
    scores = {name: as_array(value) for name, value in scores_of(layer).items()}
    scores["transitions"] = scores["transitions"] + pairs
    chain = {"mask": (x != -9.0).any(axis=-1), **scores}
    exact = -crf.log_likelihood(emissions, tags, **chain).mean()
    model.compile("sgd", loss=layer.loss, metrics=[layer.accuracy])
    loss, accuracy = model.evaluate(x, tags, verbose=0)
    np.testing.assert_allclose(loss, exact, rtol=1e-5)
    best, _ = crf.viterbi(emissions, **chain)
    np.testing.assert_allclose(accuracy, (best == tags)[chain["mask"]].mean(), rtol=1e-6)
    decoded, p = layer.decode(model, confidence=True, posterior=True).predict(x, verbose=0)
    exact_tags, exact_p = crf.posterior_decode(emissions, **chain)
    np.testing.assert_array_equal(decoded, exact_tags)
    np.testing.assert_allclose(p, exact_p, rtol=1e-5)
    here = layer.arguments(model(x))
    entropy = as_array(crf.entropy(**here))
    np.testing.assert_allclose(entropy, crf.entropy(emissions, **chain), rtol=1e-5, atol=1e-6)

    model.fit(x, tags, epochs=2, verbose=0)
    assert model.evaluate(x, tags, verbose=0)[0] < loss
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tagger = loaded.layers[-1].decode(loaded)
    found = tagger.predict(x, verbose=0)
    np.testing.assert_array_equal(found, layer.decode(model).predict(x, verbose=0))


def test_the_layer_refuses_transitions_that_do_not_fit():
    emissions = np.zeros((2, STEPS, NUM_TAGS), "float32")
    with pytest.raises(ValueError, match=r"with num_tags = 3, or without the batch, got \(3, 2\)"):
        CRF()(emissions, transitions=np.zeros((3, 2), "float32"))
    with pytest.raises(ValueError, match="MEMM takes no transitions with its inputs"):
        MEMM()(emissions, transitions=np.zeros((2, 3, 3, 3), "float32"))


def as_array(tensor):
    """The tensor as a NumPy array; None stays None."""
    return None if tensor is None else np.asarray(keras.ops.convert_to_numpy(tensor))
