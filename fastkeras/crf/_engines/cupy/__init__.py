"""CUDA kernels on arrays of CuPy, on the current stream; the host never waits for them.

Tags and lengths are not checked, since the host does not see them: a sequence with a tag out of
range has NaN results, and lengths are clipped to the number of steps.
"""

from functools import partial

import cupy

from fastkeras._ops.cupy import Kernels, source
from fastkeras.crf.chain import Chain, Gradients

ROOMS = (32, 128)  # up to so many tags, a column of weights fits in registers
CHUNKS = {32: 64, 128: 256, 0: 256}  # by room, the kChunk of chain.cu
CODE = source(
    __name__, ("chain.cu", "sweeps.cu", "gradient.cu", "exact.cu", "viterbi.cu", "paths.cu")
)
KERNELS = {
    (dtype, room): Kernels(CODE, FASTKERAS_REAL=real, FASTKERAS_TAGS=room)
    for dtype, real in (("float32", "float"), ("float64", "double"))
    for room in (*ROOMS, 0)
}


def log_partition(chain):
    return _answer(chain, _log_partition)


def sequence_score(chain, tags):
    return _answer(chain, _sequence_score, tags)


def log_likelihood(chain, tags):
    return _answer(chain, _log_likelihood, tags)


def log_likelihood_and_gradients(chain, tags, weights):
    likelihood, *gradients = _answer(chain, _gradients, tags, weights)
    return likelihood, Gradients(*gradients)


def marginals(chain):
    return _answer(chain, _marginals)


def viterbi(chain):
    return _answer(chain, _viterbi)


def sample(chain, uniforms):
    return _answer(chain, _sample, uniforms)


def k_best(chain, k):
    return _answer(chain, partial(_k_best, k=k))


def _log_partition(problem):
    problem.sweep(keep=False)
    return problem.value()


def _sequence_score(problem, tags):
    value = problem.empty(problem.batch)
    problem.score(tags, value=value)
    return value


def _log_likelihood(problem, tags):
    problem.score(tags)
    problem.sweep(keep=False)
    return problem.value(tags)


def _gradients(problem, tags, weights):
    problem.score(tags, weights)
    problem.sweep(keep=True)
    unary, pairs = problem.gradient(tags)
    likelihood = problem.value(tags, unary, pairs)
    d_transitions = problem.sum_of_pairs(pairs)
    ends = problem.empty(2, problem.num_tags)
    problem.launch(
        *("sum_of_ends", (-(-problem.num_tags // 32), 2), 256, unary, problem.counts),
        *(problem.step_index, problem.batch, problem.steps, problem.num_tags, ends),
    )
    return likelihood, unary, d_transitions, ends[0], ends[1]


def _marginals(problem):
    problem.sweep(keep=True)
    unary, pairs = problem.gradient()
    problem.value(None, unary, pairs)
    return unary, problem.sum_of_pairs(pairs)


def _viterbi(problem):
    batch, steps, num_tags = problem.batch, problem.steps, problem.num_tags
    tags, value = cupy.zeros((batch, steps), "int32"), problem.empty(batch)
    rows = None if problem.room else problem.empty(batch, 2, num_tags)
    pointers = cupy.empty((batch, steps, num_tags), "uint8" if problem.room else "int32")
    problem.launch(
        *("viterbi", batch, problem.sweep_threads, *problem.scores, problem.facts),
        *(rows, pointers, tags, value),
    )
    return tags, value


def _sample(problem, uniforms):
    num_samples = uniforms.shape[0]
    tags = cupy.zeros(uniforms.shape, "int32")
    problem.sweep(keep=True)
    problem.value()  # replaces the rows that were inexact
    problem.launch(
        *("draw", problem.batch * -(-num_samples // 64), 64, problem.scores[1]),
        *(problem.counts, problem.step_index, problem.batch, problem.steps, problem.num_tags),
        *(problem.weights, problem.rows, problem.state, num_samples, uniforms, tags),
    )
    return tags


def _k_best(problem, k):
    batch, steps, num_tags = problem.batch, problem.steps, problem.num_tags
    _, best = _viterbi(problem)
    tags, scores = cupy.zeros((batch, k, steps), "int32"), problem.empty(batch, k)
    problem.launch(
        *("k_best", batch, 128, *problem.scores, k, best),
        cupy.empty((batch, 2, num_tags, k), "float64"),
        cupy.empty((batch, num_tags, num_tags), "int32"),
        cupy.empty((batch, steps, num_tags, k), "int32"),
        *(tags, scores),
    )
    return tags, scores


class _Problem:
    """A chain on the device, and the arrays that its kernels pass to each other."""

    def __init__(self, chain):
        x, transitions, lengths, mask, start, end = chain
        self.batch, self.steps, self.num_tags = x.shape
        self.dtype = x.dtype.name
        self.room = next((room for room in ROOMS if self.num_tags <= room), 0)
        self.sweep_threads = 32 if self.room == 32 else 256
        self.launch = KERNELS[self.dtype, self.room].launch
        self.counts, self.state = (cupy.empty(self.batch, "int32") for _ in range(2))
        self.step_index = None if mask is None else cupy.empty((self.batch, self.steps), "int32")
        self.weights = self.empty(2, self.num_tags, self.num_tags)
        self.facts = cupy.empty(4, "float64")
        self.scores = (x, transitions, start, end, self.counts, self.step_index)
        self.scores += (self.steps, self.num_tags)
        self.log_z, self.of_path, self.factors = (
            cupy.empty(self.batch, "float64") for _ in range(3)
        )
        self.has_factors = False
        self.exponentials = self.rows = self.exponents = self.kept = None
        self.chunks = max(1, -(-(self.steps - 1) // CHUNKS[self.room]))
        self.launch(
            *("prepare", self.batch + 1, 256, transitions, start, end, lengths, mask),
            *(self.steps, self.num_tags, self.counts, self.step_index),
            *(self.state, self.weights, self.facts),
        )

    def empty(self, *shape):
        return cupy.empty(shape, self.dtype)

    def blocks_of_steps(self):
        return self.batch * -(-self.steps // 8)

    def exponentiate(self):
        """Compute E, and whether each sequence is sound, if that has not been done yet."""
        if self.exponentials is not None:
            return
        x, _, start, end, *more = self.scores
        self.exponentials = cupy.zeros(x.shape, self.dtype)  # steps that are not valid stay 0
        self.peaks = self.empty(self.batch, self.steps)
        self.launch(
            *("exponentials_of_emissions", self.blocks_of_steps(), 256, x, start, end, *more),
            *(self.facts, self.exponentials, self.peaks, self.state),
        )

    def score(self, tags, weights=None, value=None):
        if value is None:
            self.exponentiate()
        self.has_factors = weights is not None
        x, *more = self.scores
        self.launch(
            *("path_scores", self.batch, 128, x, tags, *more, weights),
            *(self.state, self.of_path, value, self.factors),
        )

    def sweep(self, keep):
        self.exponentiate()
        self.kept = self.steps if keep else 2
        self.rows = self.empty(self.batch, 2, self.kept, self.num_tags)
        self.exponents = cupy.empty((self.batch, self.steps), "int32")
        self.launch(
            *("sweeps", (self.batch, 2 if keep else 1), self.sweep_threads, *self.scores),
            *(self.weights, self.facts, self.exponentials, self.peaks, self.rows, self.kept),
            *(self.exponents, self.log_z, self.state),
        )

    def gradient(self, tags=None):
        """By the emissions, and by pairs of tags for each chunk; `value` replaces inexact ones."""
        shape = (self.batch, self.chunks, self.num_tags, self.num_tags)
        unary, pairs = self.exponentials, self.empty(*shape)
        factors = self.factors if self.has_factors else None
        self.launch(
            *("marginals", self.blocks_of_steps(), 256, tags, *self.scores[4:]),
            *(self.rows, self.exponents, factors, unary, self.state),
        )
        tiles = -(-self.num_tags // (32 if self.room == 32 else 64))
        self.launch(
            *("pairs_of_chunks", (self.batch * self.chunks, tiles, tiles), 256, tags),
            *(*self.scores[4:], self.weights, self.rows, factors, self.state),
            *(self.chunks, pairs),
        )
        return unary, pairs

    def value(self, tags=None, unary=None, pairs=None):
        """Log Z, or with tags the likelihood; redoes exactly what the sweeps could not hold."""
        scratch = cupy.empty((self.batch, 2, self.num_tags), "float64")
        value = self.empty(self.batch)
        x, *more = self.scores
        threads = -(-min(max(self.num_tags**2 // 8, 32), 512) // 32) * 32
        self.launch(
            *("exact", self.batch, threads, x, tags, *more, self.rows, self.kept, scratch),
            *(self.factors if self.has_factors else None, self.chunks, unary, pairs, self.log_z),
            *(None if tags is None else self.of_path, self.state, value),
        )
        return value

    def sum_of_pairs(self, pairs):
        """The sum over chunks; with factors, over the batch too."""
        area = (self.num_tags, self.num_tags)
        sums = self.empty(*(area if self.has_factors else (self.batch, *area)))
        self.launch(
            *("sum_of_pairs", -(-(self.num_tags**2) // 32) * (sums.size // self.num_tags**2), 256),
            *(pairs, self.counts, self.factors if self.has_factors else None, self.state),
            *(self.batch, self.chunks, self.num_tags, sums),
        )
        return sums


def _answer(chain, function, *more):
    """The results of a function of the problem; NumPy arrays for a chain of NumPy arrays."""
    on_host = chain.family == "numpy"
    if on_host:
        chain = Chain(*(None if x is None else cupy.asarray(x) for x in chain))
        more = tuple(map(cupy.asarray, more))
    more = tuple(map(cupy.ascontiguousarray, more))
    if 0 in chain.emissions.shape:
        results = _of_nothing(chain, function, *more)
    else:
        results = function(_Problem(chain), *more)
    if not on_host:
        return results
    return (
        tuple(map(cupy.asnumpy, results)) if isinstance(results, tuple) else cupy.asnumpy(results)
    )


def _of_nothing(chain, function, *more):
    """The results without sequences or steps, since CUDA cannot launch an empty grid."""
    batch, steps, num_tags = chain.emissions.shape
    dtype = chain.emissions.dtype
    if function is _sample:
        return cupy.zeros(more[0].shape, "int32")
    if isinstance(function, partial):
        k = function.keywords["k"]
        scores = cupy.full((batch, k), -float("inf"), dtype)
        scores[:, :1] = 0  # the score of the empty sequence
        return cupy.zeros((batch, k, steps), "int32"), scores
    zeros = {
        _gradients: ((batch,), (batch, steps, num_tags), 2 * (num_tags,), *2 * ((num_tags,),)),
        _marginals: ((batch, steps, num_tags), (batch, num_tags, num_tags)),
        _viterbi: ((batch, steps), (batch,)),
    }
    if function not in zeros:
        return cupy.zeros(batch, dtype)
    results = [cupy.zeros(shape, dtype) for shape in zeros[function]]
    if function is _viterbi:
        results[0] = results[0].astype("int32")
    return tuple(results)
