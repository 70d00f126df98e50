"""What the host does for the kernels: allocate, and launch, on a device of any kind.

A device allocates by `empty(shape, dtype)` and `zeros(shape, dtype)`, and starts a kernel by
`launch(kernels, name, blocks, threads, *arguments)`. Here it gets arrays of its own kind, on the
GPU and contiguous. Their values are never read, so that calls can be recorded and run later.
"""

from fastkeras._arrays import dtype_of
from fastkeras._ops.cupy import Kernels, source

ROOMS = (32, 128)  # up to so many tags, a column of weights fits in registers
CHUNKS = {32: 64, 128: 256, 0: 256}  # by room, the kChunk of chain.cu
FILES = ("chain.cu", "sweeps.cu", "gradient.cu", "exact.cu", "viterbi.cu", "paths.cu")
CODE = source(__package__, FILES)
CODE_FOR_FEW_TAGS = source(__package__, (*FILES, "sections.cu"))
KERNELS = {
    (dtype, room): Kernels(
        CODE_FOR_FEW_TAGS if room == 32 else CODE, FASTKERAS_REAL=real, FASTKERAS_TAGS=room
    )
    for dtype, real in (("float32", "float"), ("float64", "double"))
    for room in (*ROOMS, 0)
}


def steps_of_section(batch, steps, num_tags):
    """How many steps one block sweeps: all, unless there are so few sequences, and so many steps,
    that the sections of a chain, computed at once, gain more than their products cost.
    """
    if steps < 1024 or num_tags > 32 or batch * num_tags > 256:
        return max(steps, 1)
    return 128 if steps < 16384 else 256


def log_partition(device, chain):
    problem = _Problem(device, chain)
    problem.sweep(backward=False)
    return problem.value()


def sequence_score(device, chain, tags):
    problem = _Problem(device, chain)
    value = problem.empty(problem.batch)
    problem.score(tags, value=value)
    return value


def log_likelihood(device, chain, tags):
    problem = _Problem(device, chain)
    problem.score(tags)
    problem.sweep(backward=False)
    return problem.value(tags)


def log_likelihood_and_gradients(device, chain, tags, weights):
    """The value, and the gradients by the scores in the order of `Gradients`."""
    problem = _Problem(device, chain)
    problem.score(tags, weights)
    problem.sweep(backward=True)
    unary, pairs = problem.gradient(tags)
    likelihood = problem.value(tags, unary, pairs)
    return likelihood, *problem.sums(unary, pairs)


def gradients_of_log_likelihood(device, chain, tags, weights):
    return log_likelihood_and_gradients(device, chain, tags, weights)[1:]


def gradients_of_log_partition(device, chain, weights):
    return log_likelihood_and_gradients(device, chain, None, weights)[1:]


def gradients_of_sequence_score(device, chain, tags, weights):
    problem = _Problem(device, chain)
    problem.score(tags, weights, value=problem.empty(problem.batch))
    return problem.sums(*problem.gradient(tags))


def marginals(device, chain):
    problem = _Problem(device, chain)
    problem.sweep(backward=True)
    unary, pairs = problem.gradient()
    problem.value(None, unary, pairs)
    return unary, problem.sum_of_pairs(pairs)


def viterbi(device, chain):
    return _viterbi(_Problem(device, chain))


def sample(device, chain, uniforms):
    problem = _Problem(device, chain)
    num_samples = uniforms.shape[0]
    tags = device.zeros(uniforms.shape, "int32")
    problem.sweep(backward=True)
    problem.value()  # replaces the rows that were inexact
    problem.launch(
        *("draw", problem.batch * -(-num_samples // 64), 64, problem.scores[1]),
        *(problem.counts, problem.step_index, problem.batch, problem.steps, problem.num_tags),
        *(problem.weights, problem.rows, problem.state, num_samples, uniforms, tags),
    )
    return tags


def k_best(device, chain, k):
    problem = _Problem(device, chain)
    batch, steps, num_tags = problem.batch, problem.steps, problem.num_tags
    _, best = _viterbi(problem)
    tags, scores = device.zeros((batch, k, steps), "int32"), problem.empty(batch, k)
    problem.launch(
        *("k_best", batch, 128, *problem.scores, k, best),
        device.empty((batch, 2, num_tags, k), "float64"),
        device.empty((batch, num_tags, num_tags), "int32"),
        device.empty((batch, steps, num_tags, k), "int32"),
        *(tags, scores),
    )
    return tags, scores


def _viterbi(problem):
    batch, steps, num_tags = problem.batch, problem.steps, problem.num_tags
    device = problem.device
    tags, value = device.zeros((batch, steps), "int32"), problem.empty(batch)
    rows = None if problem.room else problem.empty(batch, 2, num_tags)
    pointers = device.empty((batch, steps, num_tags), "uint8" if problem.room else "int32")
    problem.launch(
        *("viterbi", batch, problem.sweep_threads, *problem.scores, problem.facts),
        *(rows, pointers, tags, value),
    )
    return tags, value


class _Problem:
    """A chain on the device, and the arrays that its kernels pass to each other."""

    def __init__(self, device, chain):
        x, transitions, lengths, mask, start, end = chain
        self.device = device
        self.batch, self.steps, self.num_tags = x.shape
        self.dtype = dtype_of(x)
        self.room = next((room for room in ROOMS if self.num_tags <= room), 0)
        self.sweep_threads = 32 if self.room == 32 else 256
        self.kernels = KERNELS[self.dtype, self.room]
        self.counts, self.state = (device.empty((self.batch,), "int32") for _ in range(2))
        of_steps = (self.batch, self.steps)
        self.step_index = None if mask is None else device.empty(of_steps, "int32")
        self.weights = self.empty(2, self.num_tags, self.num_tags)
        self.facts = device.empty((4,), "float64")
        self.scores = (x, transitions, start, end, self.counts, self.step_index)
        self.scores += (self.steps, self.num_tags)
        self.log_z, self.of_path = (device.empty((self.batch,), "float64") for _ in range(2))
        self.factors = device.empty((max(self.batch, 1),), "float64")  # null has a meaning
        self.has_factors = False
        self.exponentials = self.rows = self.exponents = None
        self.chunks = max(1, -(-(self.steps - 1) // CHUNKS[self.room]))
        self.launch(
            *("prepare", self.batch + 1, 256, transitions, start, end, lengths, mask),
            *(self.steps, self.num_tags, self.counts, self.step_index),
            *(self.state, self.weights, self.facts),
        )

    def empty(self, *shape):
        return self.device.empty(shape, self.dtype)

    def launch(self, name, blocks, threads, *arguments):
        self.device.launch(self.kernels, name, blocks, threads, *arguments)

    def blocks_of_steps(self):
        return self.batch * -(-self.steps // 8)

    def exponentiate(self):
        """Compute E, and whether each sequence is sound, if that has not been done yet."""
        if self.exponentials is not None:
            return
        x, _, start, end, *more = self.scores
        # steps that are not valid stay 0
        self.exponentials = self.device.zeros((self.batch, self.steps, self.num_tags), self.dtype)
        self.peaks = self.empty(self.batch, self.steps)
        self.launch(
            *("exponentials_of_emissions", self.blocks_of_steps(), 256, x, start, end, *more),
            *(self.facts, self.exponentials, self.peaks, self.state),
        )

    def score(self, tags, weights=None, value=None):
        """The scores of paths, and with weights the factors of sequences in the gradient.

        They are for the recursion, and depend on all scores, unless `value` asks for the scores.
        """
        if value is None:
            self.exponentiate()
        self.has_factors = weights is not None
        x, *more = self.scores
        self.launch(
            *("path_scores", self.batch, 128 if self.steps < 4096 else 1024, x, tags, *more),
            weights,
            *(self.state if value is None else None, self.of_path, value, self.factors),
        )

    def sweep(self, backward):
        self.exponentiate()
        self.rows = self.empty(self.batch, 2, self.steps, self.num_tags)
        self.exponents = self.device.empty((self.batch, self.steps), "int32")
        scaled = self.device.empty((self.batch,), "float64")
        of_section = steps_of_section(self.batch, self.steps, self.num_tags)
        sections = max(1, -(-self.steps // of_section))
        before = self.before_sections(sections, of_section, backward)
        self.launch(
            *("sweeps", (self.batch * sections, 1 + backward), self.sweep_threads),
            *(*self.scores[4:], self.weights, self.facts, self.exponentials, self.peaks),
            *(sections, of_section, *before),
            *(self.rows, self.exponents, scaled, self.log_z, self.state),
        )
        self.launch(
            *("watch", self.blocks_of_steps(), 256, *self.scores, self.facts, self.peaks),
            *(self.rows, self.exponents, scaled, self.state),
        )

    def before_sections(self, sections, of_section, backward):
        """The borders of sections, their levels, and the peaks of sections, if there are some."""
        if sections == 1:
            return None, None, None
        of_sections = (self.batch, sections)
        products = self.empty(*of_sections, 2, self.num_tags, self.num_tags)
        levels = self.device.empty((*of_sections, self.num_tags), "int32")
        borders = self.empty(self.batch, 2, sections, self.num_tags)
        levels_of_borders = self.device.empty(of_sections, "int32")
        peaks = self.device.empty(of_sections, "float64")
        self.launch(
            *("products_of_sections", (self.batch * sections, -(-self.num_tags // 4)), 128),
            *(*self.scores[4:], self.weights, self.exponentials, self.peaks),
            *(sections, of_section, int(backward), products, levels, peaks),
        )
        self.launch(
            *("borders_of_sections", (self.batch, 1 + backward), 32, *self.scores[4:]),
            *(self.exponentials, products, levels, sections, of_section),
            *(borders, levels_of_borders),
        )
        return borders, levels_of_borders, peaks

    def gradient(self, tags=None):
        """By the emissions, and by pairs of tags for each chunk; `value` replaces inexact ones."""
        unary = self.exponentials
        if unary is None:
            unary = self.device.zeros((self.batch, self.steps, self.num_tags), self.dtype)
        pairs = self.empty(self.batch, self.chunks, self.num_tags, self.num_tags)
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
        scratch = self.device.empty((self.batch, 2, self.num_tags), "float64")
        value = self.empty(self.batch)
        x, *more = self.scores
        threads = -(-min(max(self.num_tags**2 // 8, 32), 512) // 32) * 32
        self.launch(
            *("exact", self.batch, threads, x, tags, *more, self.rows, scratch),
            *(self.factors if self.has_factors else None, self.chunks, unary, pairs, self.log_z),
            *(None if tags is None else self.of_path, self.state, value),
        )
        return value

    def sums(self, unary, pairs):
        """The gradients by all scores."""
        d_transitions = self.sum_of_pairs(pairs)
        d_start, d_end = (self.empty(self.num_tags) for _ in range(2))
        self.launch(
            *("sum_of_ends", (-(-self.num_tags // 32), 2), 256, unary, self.counts),
            *(self.step_index, self.batch, self.steps, self.num_tags, d_start, d_end),
        )
        return unary, d_transitions, d_start, d_end

    def sum_of_pairs(self, pairs):
        """The sum over chunks; with factors, over the batch too."""
        area = (self.num_tags, self.num_tags)
        sums = self.empty(*(area if self.has_factors else (self.batch, *area)))
        blocks = -(-(self.num_tags**2) // 32) * (1 if self.has_factors else self.batch)
        self.launch(
            *("sum_of_pairs", blocks, 1024, pairs, self.counts, self.factors),
            *(int(self.has_factors), self.state, self.batch, self.chunks, self.num_tags, sums),
        )
        return sums
