"""Tag sequences: the best one, the k best, and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._arrays import array_functions, dtype_of
from fastkeras.crf.arguments import chain_of, engine_of, like
from fastkeras.training.arguments import integer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.crf.chain import LowRank
    from fastkeras.typing import ArrayLike, Tensor


def viterbi(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The best tag sequence and its score.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.

    Returns:
        tags: int32, shape (batch, steps); in a tie the lowest tag; 0 at steps that are not valid.
        score: shape (batch,), dtype of `emissions`; 0 where no step is valid, −inf where no
            sequence is possible, NaN or +inf where such a score is used (the tags then mean
            nothing).

    Raises:
        ValueError, ImportError: as `log_partition`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import viterbi
        >>> emissions = np.array([[[1.0, 2.0], [3.0, 4.0]]])
        >>> viterbi(emissions, np.array([[0.0, 0.0], [10.0, 0.0]]))
        (array([[1, 0]], dtype=int32), array([15.]))

    Source: Viterbi, 1967; Forney, 1973, "The Viterbi algorithm".
    """
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    tags, score = engine_of(chain, engine).viterbi(chain)
    return tags, like(score, emissions)


def sample(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    lengths: ArrayLike | None = None,
    *,
    num_samples: int = 1,
    seed: Any = None,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> Tensor:
    """Tag sequences drawn from their distribution, exactly and independently of each other.

    Forward filtering, backward sampling: the last tag is drawn first, and then each tag before,
    given the tag that follows it.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        num_samples: how many samples to draw for each sequence of the batch, at least 1.
        seed: an integer, which gives the same samples every time and, up to rounding, in every
            engine for the same family of arrays; or a NumPy `Generator` for arrays, or a
            `keras.random.SeedGenerator` for tensors, which advance with each call; or a key of
            `jax.random` for JAX; or None for a random seed. In a compiled graph only a
            SeedGenerator or a key gives new samples at each call. Under XLA, TensorFlow draws
            other numbers from the same seed.

    Returns:
        int32 tags, shape (num_samples, batch, steps); 0 at steps that are not valid, and where no
        sequence is possible.

    Raises:
        ValueError: as `log_partition`, and for `num_samples` below 1.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import sample
        >>> emissions = np.log([[[0.2, 0.8], [0.5, 0.5]]])
        >>> tags = sample(emissions, np.zeros((2, 2)), num_samples=1000, seed=0)
        >>> tags.shape, tags[:, 0].mean(axis=0).round(1)
        ((1000, 1, 2), array([0.8, 0.5]))

    Source: Scott, 2002, "Bayesian methods for hidden Markov models", section 2.
    """
    num_samples = integer("num_samples", num_samples, 1)
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    return engine_of(chain, engine).sample(chain, _uniforms(chain, num_samples, seed))


def k_best(
    emissions: ArrayLike,
    transitions: ArrayLike | LowRank,
    k: int,
    lengths: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    start_transitions: ArrayLike | None = None,
    end_transitions: ArrayLike | None = None,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best tag sequences and their scores, exactly.

    Takes O(n · num_tags · (num_tags + k)) time in the native engines, O(n · num_tags² · k) in the
    others.

    Args:
        emissions, transitions, lengths, mask, start_transitions, end_transitions, engine: as in
            `log_partition`.
        k: number of sequences, at least 1.

    Returns:
        tags: int32, shape (batch, k, steps), best first. In a tie the sequence with the lower last
            tag comes first; if these are equal, the one with the lower tag before it, and so on, as
            in `viterbi` (except in the `keras` engine on torch, whose `topk` leaves ties open). 0
            at steps that are not valid, and in rows beyond the last possible sequence.
        scores: shape (batch, k), dtype of `emissions`; −inf where there are fewer than k sequences.
            With no valid step there is one, the empty one, of score 0. Where a score of NaN or
            +inf is used, the first score is that of `viterbi` and the others are NaN.

    Raises:
        ValueError: as `log_partition`, and for `k` below 1.
        ImportError: the named engine is not ready here.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import k_best
        >>> tags, scores = k_best(np.array([[[1.0, 2.0], [3.0, 5.0]]]), np.zeros((2, 2)), 3)
        >>> tags[0], scores[0]
        (array([[1, 1],
               [0, 1],
               [1, 0]], dtype=int32), array([7., 6., 5.]))

    Source: Seshadri & Sundberg, 1994, "List Viterbi decoding algorithms with applications"; Huang &
    Chiang, 2005, "Better k-best parsing", algorithm 3.
    """
    k = integer("k", k, 1)
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    tags, scores = engine_of(chain, engine).k_best(chain, k)
    return tags, like(scores, emissions)


def _uniforms(chain, num_samples, seed):
    """Numbers in 0 ≤ u < 1, (num_samples, batch, steps)."""
    dtype = dtype_of(chain.emissions)
    # so far below 1 that its product with a sum, rounded, is always below the sum
    largest = 1 - 2 * float(np.finfo(dtype).eps)
    array = array_functions(chain.emissions)
    if chain.family in ("numpy", "cupy"):  # which get the same numbers
        shape = (num_samples, *chain.emissions.shape[:2])
        uniforms = np.random.default_rng(seed).random(shape, dtype)
        return array.asarray(np.minimum(uniforms, largest, out=uniforms))
    if chain.family.startswith("torch") and (seed is None or isinstance(seed, (int, np.integer))):
        shape = (num_samples, *chain.emissions.shape[:2])
        return array.uniform(shape, dtype, seed).clamp(max=largest)
    if array.__name__.endswith("jax_arrays") and not hasattr(seed, "next"):
        shape = (num_samples, *chain.emissions.shape[:2])
        return array.minimum(array.uniform(shape, dtype, seed), largest)
    from keras import ops, random

    shape = (num_samples, *ops.shape(chain.emissions)[:2])
    uniforms = random.uniform(shape, dtype=dtype, seed=seed)
    return ops.clip(uniforms, 0, largest)  # on torch `ops.minimum` would make float32 of float64
