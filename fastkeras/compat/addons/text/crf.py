"""`tfa.text.crf` on the functions of `fastkeras.crf`.

In all of them: inputs of float16, bfloat16, float32 or float64, shape (batch, steps, num_tags),
give results of the same dtype, but 16-bit floats are computed in float32; tags and lengths may have
any dtype and are cast to int32; a length below 0 counts as 0; scores, log-norms and best scores of
an empty sequence are 0; tags past the length are not read.

Source: tensorflow_addons.text.crf, 0.23.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from fastkeras import crf
from fastkeras._keras_private import is_exporting
from fastkeras.compat.addons.text.second_order import differentiable
from fastkeras.crf._engines.keras.recursions import FLOOR, IMPOSSIBLE, log_sum_exp, scan
from fastkeras.crf.constraints import restrict

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import Tensor

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "fastkeras.compat.addons needs the TensorFlow backend of Keras (KERAS_BACKEND=tensorflow), "
        f"got {keras.backend.backend()!r}; fastkeras.layers.CRF works with every backend"
    )


def crf_filtered_inputs(inputs: Tensor, tag_bitmap: Tensor) -> Tensor:
    """Return the inputs with −inf where the bitmap is False.

    Args:
        inputs: potentials, float, shape (batch, steps, num_tags).
        tag_bitmap: bool, of the same shape: the tags that are allowed.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> tfa.text.crf_filtered_inputs([[[1.0, 2.0]]], [[[True, False]]]).numpy()
        array([[[  1., -inf]]], dtype=float32)
    """
    return restrict(tf.convert_to_tensor(inputs), tf.cast(tag_bitmap, tf.bool))


def crf_sequence_score(
    inputs: Tensor, tag_indices: Tensor, sequence_lengths: Tensor, transition_params: Tensor
) -> Tensor:
    """Return the scores of tag sequences, shape (batch,).

    Args:
        inputs, tag_indices, sequence_lengths, transition_params: as in `crf_log_likelihood`.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> inputs, transitions = [[[1.0, 2.0], [3.0, 4.0]]], [[0.0, 0.0], [10.0, 0.0]]
        >>> tfa.text.crf_sequence_score(inputs, [[1, 0]], [2], transitions).numpy()
        array([15.], dtype=float32)
    """
    inputs, lengths, transitions = _chain(inputs, sequence_lengths, transition_params)
    return _of_tags(crf.sequence_score, inputs, tag_indices, lengths, transitions)


def crf_multitag_sequence_score(
    inputs: Tensor, tag_bitmap: Tensor, sequence_lengths: Tensor, transition_params: Tensor
) -> Tensor:
    """Log-sum of the scores of all sequences that `tag_bitmap` (batch, steps, num_tags) allows.

    Args:
        inputs, sequence_lengths, transition_params: as in `crf_log_likelihood`.
        tag_bitmap: bool, shape (batch, steps, num_tags).

    Returns:
        Shape (batch,). An empty sequence has 0 for any number of steps, whereas TensorFlow Addons
        gives another value if there is one step.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> inputs, transitions = [[[1.0, 2.0], [3.0, 4.0]]], [[0.0, 0.0], [10.0, 0.0]]
        >>> allowed = [[[False, True], [True, False]]]
        >>> tfa.text.crf_multitag_sequence_score(inputs, allowed, [2], transitions).numpy()
        array([15.], dtype=float32)
    """
    filtered = crf_filtered_inputs(inputs, tag_bitmap)
    return crf_log_norm(filtered, sequence_lengths, transition_params)


def crf_log_norm(inputs: Tensor, sequence_lengths: Tensor, transition_params: Tensor) -> Tensor:
    """Return the log-sum of the scores of all tag sequences, (batch,); −inf where none is possible.

    Args:
        inputs, sequence_lengths, transition_params: as in `crf_log_likelihood`.

    Example:
        >>> import numpy as np
        >>> import fastkeras.compat.addons as tfa
        >>> tfa.text.crf_log_norm(np.zeros((1, 3, 4)), [3], np.zeros((4, 4))).numpy()
        array([4.15888308])
    """
    inputs, lengths, transitions = _chain(inputs, sequence_lengths, transition_params)

    def value(inputs, transitions, engine):
        return crf.log_partition(inputs, transitions, lengths, engine=engine)

    return differentiable(value, inputs, transitions, _engine())


def crf_log_likelihood(
    inputs: Tensor, tag_indices: Tensor, sequence_lengths: Tensor, transition_params: Tensor = None
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of tag sequences, and the transitions.

    Args:
        inputs: unary potentials, float, shape (batch, steps, num_tags).
        tag_indices: shape (batch, steps).
        sequence_lengths: shape (batch,).
        transition_params: shape (num_tags, num_tags), cast to the dtype of the inputs; None makes
            a tf.Variable, Glorot uniform, which works only in eager mode.

    Returns:
        Log-likelihoods, shape (batch,), and the transitions in the dtype of the inputs. An
        impossible sequence has −inf and no gradient.

    Raises:
        ValueError: the inputs have no steps, or shapes do not fit.
        tf.errors.InvalidArgumentError: a tag before the length is out of range, or a length exceeds
            the steps. Graphs with the engine `keras` cannot raise it; they return NaN.

    Example:
        >>> import numpy as np
        >>> import fastkeras.compat.addons as tfa
        >>> log_likelihood, _ = tfa.text.crf_log_likelihood(
        ...     np.zeros((1, 2, 3)), [[0, 2]], [2], np.zeros((3, 3))
        ... )
        >>> float(np.exp(log_likelihood[0]).round(6))  # one of 3² equal sequences
        0.111111
    """
    inputs = tf.convert_to_tensor(inputs)
    if transition_params is None:
        shape = (inputs.shape[-1],) * 2
        initial = keras.initializers.GlorotUniform()(shape, dtype="float32")
        transition_params = tf.Variable(initial, name="transitions")
    transition_params = tf.cast(transition_params, inputs.dtype)
    inputs, lengths, transitions = _chain(inputs, sequence_lengths, transition_params)
    value = _of_tags(crf.log_likelihood, inputs, tag_indices, lengths, transitions)
    return value, transition_params


def crf_unary_score(tag_indices: Tensor, sequence_lengths: Tensor, inputs: Tensor) -> Tensor:
    """Return the part of `crf_sequence_score` that comes from the inputs, shape (batch,).

    Args:
        tag_indices, sequence_lengths, inputs: as in `crf_log_likelihood`.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> tfa.text.crf_unary_score([[1, 0]], [2], [[[1.0, 2.0], [3.0, 4.0]]]).numpy()
        array([5.], dtype=float32)
    """
    inputs = tf.convert_to_tensor(inputs)
    transitions = tf.zeros((inputs.shape[-1],) * 2, inputs.dtype)
    return crf_sequence_score(inputs, tag_indices, sequence_lengths, transitions)


def crf_binary_score(
    tag_indices: Tensor, sequence_lengths: Tensor, transition_params: Tensor
) -> Tensor:
    """Return the part of `crf_sequence_score` that comes from the transitions, shape (batch,).

    Args:
        tag_indices, sequence_lengths, transition_params: as in `crf_log_likelihood`.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> tfa.text.crf_binary_score([[1, 0]], [2], [[0.0, 0.0], [10.0, 0.0]]).numpy()
        array([10.], dtype=float32)
    """
    transitions = tf.convert_to_tensor(transition_params)
    tags = tf.cast(tag_indices, tf.int32)
    inputs = tf.zeros((*tf.unstack(tf.shape(tags)), transitions.shape[0]), transitions.dtype)
    return crf_sequence_score(inputs, tags, sequence_lengths, transitions)


def crf_forward(
    inputs: Tensor, state: Tensor, transition_params: Tensor, sequence_lengths: Tensor
) -> Tensor:
    """Log-sums of the scores of all sequences that end in each tag: the forward variables.

    Args:
        inputs: potentials of all steps but the first, shape (batch, steps − 1, num_tags).
        state: potentials of the first step, shape (batch, num_tags).
        transition_params: shape (num_tags, num_tags).
        sequence_lengths: shape (batch,), the first step included.

    Returns:
        Shape (batch, num_tags), at the last step of each sequence.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> transitions = [[0.0, 0.0], [10.0, 0.0]]
        >>> tfa.text.crf_forward([[[3.0, 4.0]]], [[1.0, 2.0]], transitions, [2]).numpy().round(3)
        array([[15.   ,  6.313]], dtype=float32)
    """
    inputs, lengths, transitions, state = _forward_arguments(
        inputs, sequence_lengths, transition_params, state
    )
    dtype = inputs.dtype
    wide = tf.float64 if dtype == tf.float64 else tf.float32
    inputs, transitions, state = (
        tf.maximum(tf.cast(scores, wide), FLOOR) for scores in (inputs, transitions, state)
    )

    def step(alpha, at):
        x, valid = at
        return tf.where(valid, x + log_sum_exp(alpha[:, :, None] + transitions, axis=1), alpha)

    steps = tf.transpose(inputs, (1, 0, 2)), _valid_steps(inputs, lengths - 1)
    alpha = tf.foldl(step, steps, initializer=state)
    return tf.cast(tf.where(alpha > IMPOSSIBLE, alpha, -np.inf), dtype)


def viterbi_decode(score: NDArray[Any], transition_params: NDArray[Any]) -> tuple[list[int], float]:
    """The best sequence of one array of potentials, in NumPy.

    Args:
        score: NumPy array (steps, num_tags).
        transition_params: NumPy array (num_tags, num_tags).

    Returns:
        The tags as a list of int, and their score.

    Raises:
        ValueError: an array has another shape.

    Example:
        >>> import numpy as np
        >>> import fastkeras.compat.addons as tfa
        >>> tags, score = tfa.text.viterbi_decode(
        ...     np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [10.0, 0.0]])
        ... )
        >>> tags, float(score)
        ([1, 0], 15.0)
    """
    score = np.asarray(score)
    if score.ndim != 2 or not len(score):
        raise ValueError(f"score must have shape (steps >= 1, num_tags), got {score.shape}")
    tags, best = crf.viterbi(score[None], transition_params)
    return tags[0].tolist(), best[0]


def crf_decode(
    potentials: Tensor, transition_params: Tensor, sequence_length: Tensor
) -> tuple[Tensor, Tensor]:
    """The best tag sequences and their scores.

    Args:
        potentials: float, shape (batch, steps, num_tags).
        transition_params: shape (num_tags, num_tags).
        sequence_length: shape (batch,).

    Returns:
        int32 tags, shape (batch, steps), 0 past the length; among equal scores the lowest tag wins;
        and their scores, shape (batch,). An empty sequence has tags 0 and score 0, whereas
        TensorFlow Addons decodes its first step.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> transitions = [[0.0, 0.0], [10.0, 0.0]]
        >>> tags, score = tfa.text.crf_decode([[[1.0, 2.0], [3.0, 4.0]]], transitions, [2])
        >>> tags.numpy(), score.numpy()
        (array([[1, 0]], dtype=int32), array([15.], dtype=float32))
    """
    potentials, lengths, transitions = _chain(potentials, sequence_length, transition_params)
    return crf.viterbi(potentials, transitions, lengths, engine=_engine())


def crf_constrained_decode(
    potentials: Tensor, tag_bitmap: Tensor, transition_params: Tensor, sequence_length: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `crf_decode` returns, among the tags that a bitmap allows.

    Args:
        potentials, transition_params, sequence_length: as in `crf_decode`.
        tag_bitmap: bool, shape (batch, steps, num_tags): the tags that are allowed.

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> inputs, transitions = [[[1.0, 2.0], [3.0, 4.0]]], [[0.0, 0.0], [10.0, 0.0]]
        >>> allowed = [[[True, False], [True, True]]]
        >>> tags, score = tfa.text.crf_constrained_decode(inputs, allowed, transitions, [2])
        >>> tags.numpy(), score.numpy()
        (array([[0, 1]], dtype=int32), array([5.], dtype=float32))
    """
    filtered = crf_filtered_inputs(potentials, tag_bitmap)
    return crf_decode(filtered, transition_params, sequence_length)


def crf_decode_forward(
    inputs: Tensor, state: Tensor, transition_params: Tensor, sequence_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The forward half of Viterbi's algorithm.

    Args:
        inputs: potentials of all steps but the first, shape (batch, steps − 1, num_tags).
        state: potentials of the first step, shape (batch, num_tags).
        transition_params: shape (num_tags, num_tags).
        sequence_lengths: shape (batch,), minus one: the first step does not count.

    Returns:
        Back-pointers, int32 (batch, steps − 1, num_tags), 0 past the length, and the scores of the
        best sequences that end in each tag, (batch, num_tags).

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> transitions = [[0.0, 0.0], [10.0, 0.0]]
        >>> pointers, scores = tfa.text.crf_decode_forward(
        ...     [[[3.0, 4.0]]], [[1.0, 2.0]], transitions, [1]
        ... )
        >>> pointers.numpy(), scores.numpy()
        (array([[[1, 1]]], dtype=int32), array([[15.,  6.]], dtype=float32))
    """
    inputs, lengths, transitions, state = _forward_arguments(
        inputs, sequence_lengths, transition_params, state
    )
    cell = CrfDecodeForwardRnnCell(transitions, dtype=inputs.dtype.name)

    def step(state, at):
        x, valid = at
        pointers, after = cell.call(x, state)
        return tf.where(valid, after, state), (tf.where(valid, pointers, 0),)

    steps = tf.transpose(inputs, (1, 0, 2)), _valid_steps(inputs, lengths)
    like = tf.zeros_like(state, tf.int32)
    last_score, (pointers,) = scan(step, state, steps, (like,))
    return tf.transpose(pointers, (1, 0, 2)), last_score


def crf_decode_backward(inputs: Tensor, state: Tensor) -> Tensor:
    """The backward half of Viterbi's algorithm.

    Args:
        inputs: back-pointers, int32 (batch, steps − 1, num_tags), each sequence reversed.
        state: the last tag of each sequence, int32 (batch, 1).

    Returns:
        The tags of the steps before, last first, int32 (batch, steps − 1, 1).

    Example:
        >>> import fastkeras.compat.addons as tfa
        >>> tfa.text.crf_decode_backward([[[1, 1]]], [[0]]).numpy()
        array([[[1]]], dtype=int32)
    """
    state = tf.cast(state, tf.int32)

    def step(tag, at):
        before = tf.gather(at[0], tag, batch_dims=1)
        return before, (before,)

    pointers = tf.transpose(tf.cast(inputs, tf.int32), (1, 0, 2))
    _, (tags,) = scan(step, state, (pointers,), (state,))
    return tf.transpose(tags, (1, 0, 2))


@keras.saving.register_keras_serializable(package="Addons")
class CrfDecodeForwardRnnCell(keras.layers.Layer):
    """One step of `crf_decode_forward`, as a cell of keras.layers.RNN.

    Args:
        transition_params: shape (num_tags, num_tags).
        **kwargs: of keras.layers.Layer.

    Example:
        >>> import numpy as np
        >>> import fastkeras.compat.addons as tfa
        >>> cell = tfa.text.CrfDecodeForwardRnnCell([[0.0, 0.0], [10.0, 0.0]])
        >>> pointers, state = cell(np.float32([[3, 4]]), [np.float32([[1, 2]])])
        >>> pointers.numpy(), state.numpy()
        (array([[1, 1]], dtype=int32), array([[15.,  6.]], dtype=float32))
    """

    def __init__(self, transition_params: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._transition_params = tf.convert_to_tensor(transition_params, self.compute_dtype)
        self._num_tags = self._transition_params.shape[0]

    @property
    def state_size(self) -> int:
        """The number of tags."""
        return self._num_tags

    @property
    def output_size(self) -> int:
        """The number of tags."""
        return self._num_tags

    def call(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Back-pointers, int32 (batch, num_tags), and the new state, (batch, num_tags)."""
        state = state[0] if isinstance(state, (list, tuple)) else state
        joined = state[:, :, None] + self._transition_params
        pointers = tf.argmax(joined, axis=1, output_type=tf.int32)
        return pointers, inputs + tf.reduce_max(joined, axis=1)

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the transitions as lists."""
        return {
            **super().get_config(),
            "transition_params": self._transition_params.numpy().tolist(),
        }


def _of_tags(function, inputs, tag_indices, lengths, transitions):
    tags = tf.cast(tag_indices, tf.int32)

    def value(inputs, transitions, engine):
        return function(inputs, tags, transitions, lengths, engine=engine)

    return differentiable(value, inputs, transitions, _engine())


def _chain(inputs, sequence_lengths, transition_params):
    inputs = tf.convert_to_tensor(inputs)
    if inputs.shape.rank is not None and inputs.shape.rank > 1 and inputs.shape[1] == 0:
        raise ValueError(f"inputs must have one step at least, got shape {tuple(inputs.shape)}")
    transitions = tf.convert_to_tensor(transition_params)
    _expect_one_dtype(inputs, transition_params=transitions)
    return inputs, tf.maximum(tf.cast(sequence_lengths, tf.int32), 0), transitions


def _forward_arguments(inputs, sequence_lengths, transition_params, state):
    inputs, transitions, state = (
        tf.convert_to_tensor(scores) for scores in (inputs, transition_params, state)
    )
    _expect_one_dtype(inputs, transition_params=transitions, state=state)
    return inputs, tf.cast(sequence_lengths, tf.int32), transitions, state


def _expect_one_dtype(inputs, **others):
    for name, scores in others.items():
        if scores.dtype != inputs.dtype:
            raise TypeError(
                f"{name} must have the dtype of the inputs, {inputs.dtype.name}, "
                f"got {scores.dtype.name}"
            )


def _valid_steps(inputs, lengths):
    """Bool (steps, batch, 1)."""
    valid = tf.sequence_mask(lengths, tf.shape(inputs)[1])
    return tf.transpose(valid)[..., None]


def _engine():
    """The engine; exported models get one that does not need our ops."""
    return "keras" if is_exporting() else None
