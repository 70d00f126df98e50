"""The C++ kernels as TensorFlow ops on CPUs: eager, in graphs and under XLA.

Batch and number of steps may be unknown.

The values are differentiable once, with respect to all scores; see csrc/crf/doors/tensorflow.cc.
"""

from ctypes import CDLL, c_char_p

import tensorflow as tf
from tensorflow.python.eager.record import could_possibly_record

from fastkeras import _build
from fastkeras._ops.tensorflow import library
from fastkeras.crf.chain import Gradients

VARYING_TRANSITIONS = True  # this engine takes transitions that vary with the step


def _numbers_of(*quantities):
    """The numbers of these quantities in the compiled library, `kQuantities` in csrc/crf/crf.h."""
    path = _build.FOLDER / "libfastkeras_tf_ops.so"
    try:
        name_of = CDLL(str(path)).fastkeras_crf_quantity
    except AttributeError as error:
        raise ImportError(f"{path.name} was compiled from other sources: build it again") from error
    name_of.restype = c_char_p
    numbers = {name_of(number): number for number in range(len(quantities))}
    return [numbers[quantity.encode()] for quantity in quantities]


LOG_PARTITION, SEQUENCE_SCORE, LOG_LIKELIHOOD = _numbers_of(
    "log_partition", "sequence_score", "log_likelihood"
)


def log_partition(chain):
    return _value(_inputs(chain), tf.zeros((0, 0), tf.int32), LOG_PARTITION)


def sequence_score(chain, tags):
    return _value(_inputs(chain), tf.convert_to_tensor(tags), SEQUENCE_SCORE)


def log_likelihood(chain, tags):
    return _value(_inputs(chain), tf.convert_to_tensor(tags), LOG_LIKELIHOOD)


def log_likelihood_and_gradients(chain, tags, weights):
    inputs = (*_inputs(chain), tf.convert_to_tensor(tags))
    if _varies(inputs):
        value, *gradients = library.fastkeras_crf_varying_value(
            *inputs, quantity=LOG_LIKELIHOOD, num_threads=_num_threads()
        )
        return value, Gradients(*_weighed(inputs, value, gradients, tf.convert_to_tensor(weights)))
    value, workspace = library.fastkeras_crf_value(
        *inputs, quantity=LOG_LIKELIHOOD, num_threads=_num_threads()
    )
    gradients = library.fastkeras_crf_gradient(
        *inputs,
        value,
        workspace,
        tf.convert_to_tensor(weights),
        quantity=LOG_LIKELIHOOD,
        num_threads=_num_threads(),
    )
    return value, Gradients(*gradients)


def weighted_log_likelihood(chain, tags, weights):
    return library.fastkeras_crf_weighted_value(
        *_inputs(chain),
        tf.convert_to_tensor(tags),
        tf.convert_to_tensor(weights),
        keep_workspace=could_possibly_record(),
        num_threads=_num_threads(),
    ).value


def entropy(chain):
    return library.fastkeras_crf_entropy(
        *_inputs(chain), keep_workspace=could_possibly_record(), num_threads=_num_threads()
    ).value


def entropy_and_gradients(chain, weights):
    inputs = _inputs(chain)
    value, workspace = library.fastkeras_crf_entropy(*inputs, num_threads=_num_threads())
    gradients = library.fastkeras_crf_entropy_gradient(
        *inputs, value, workspace, tf.convert_to_tensor(weights), num_threads=_num_threads()
    )
    return value, Gradients(*gradients)


def marginals(chain):
    return tuple(library.fastkeras_crf_marginals(*_inputs(chain), num_threads=_num_threads()))


def viterbi(chain):
    return tuple(library.fastkeras_crf_viterbi(*_inputs(chain), num_threads=_num_threads()))


def sample(chain, uniforms):
    uniforms = tf.convert_to_tensor(uniforms)
    return library.fastkeras_crf_sample(*_inputs(chain), uniforms, num_threads=_num_threads())


def k_best(chain, k):
    tags, scores = library.fastkeras_crf_k_best(*_inputs(chain), k=k, num_threads=_num_threads())
    batch, steps, _ = chain.emissions.shape
    tags.set_shape((batch, k, steps))
    scores.set_shape((batch, k))
    return tags, scores


def _inputs(chain):
    """The six inputs every op begins with; an empty mask stands for none."""
    mask = tf.zeros((0, 0), tf.bool) if chain.mask is None else chain.mask
    inputs = (
        chain.emissions,
        chain.transitions,
        chain.start_transitions,
        chain.end_transitions,
        chain.lengths,
        mask,
    )
    return [tf.convert_to_tensor(tensor) for tensor in inputs]


def _value(inputs, tags, quantity):
    # Without a tape there is no gradient, except of a function that was traced here and is
    # differentiated from outside: then `_value_gradient` has to compute the workspace itself.
    recorded = could_possibly_record()
    if recorded and _varies(inputs) and quantity != SEQUENCE_SCORE:
        return library.fastkeras_crf_varying_value(
            *inputs, tags, quantity=quantity, num_threads=_num_threads()
        ).value
    return library.fastkeras_crf_value(
        *inputs,
        tags,
        quantity=quantity,
        keep_workspace=recorded,
        num_threads=_num_threads(),
    ).value


def _num_threads():
    return tf.config.threading.get_intra_op_parallelism_threads()  # 0: all processors


@tf.RegisterGradient("Fastkeras>CrfValue")
def _value_gradient(op, d_value, _):
    chain_and_tags = op.inputs
    value, workspace = op.outputs
    attributes = {"quantity": op.get_attr("quantity"), "num_threads": op.get_attr("num_threads")}
    if not op.get_attr("keep_workspace"):
        value, workspace = library.fastkeras_crf_value(*chain_and_tags, **attributes)
    d_emissions, d_transitions, d_start, d_end = library.fastkeras_crf_gradient(
        *chain_and_tags, value, workspace, d_value, **attributes
    )
    return d_emissions, d_transitions, d_start, d_end, None, None, None


@tf.RegisterGradient("Fastkeras>CrfVaryingValue")
def _varying_value_gradient(op, d_value, *_):
    value, *gradients = op.outputs
    return *_weighed(op.inputs, value, gradients, d_value), None, None, None


def _varies(inputs):
    """Whether transitions vary: then the value's op computes gradients, whose weights come later.

    Each is as large as the transitions, and a second op that reads these again takes twice as long.
    """
    return inputs[1].shape.rank == 4


def _weighed(inputs, value, gradients, weights):
    lengths, mask = inputs[4:6]
    return library.fastkeras_crf_weigh(
        *gradients, value, lengths, mask, weights, num_threads=_num_threads()
    )


@tf.RegisterGradient("Fastkeras>CrfWeightedValue")
def _weighted_value_gradient(op, d_value, *_):
    value, log_p, workspace = op.outputs
    num_threads = op.get_attr("num_threads")
    if not op.get_attr("keep_workspace"):
        value, log_p, workspace = library.fastkeras_crf_weighted_value(
            *op.inputs, num_threads=num_threads
        )
    d_emissions, d_transitions, d_start, d_end = library.fastkeras_crf_weighted_gradient(
        *op.inputs, value, workspace, d_value, num_threads=num_threads
    )
    factors = d_value[:, None]
    d_weights = tf.where(factors == 0, tf.zeros_like(log_p), factors * log_p)
    return d_emissions, d_transitions, d_start, d_end, None, None, None, d_weights


@tf.RegisterGradient("Fastkeras>CrfEntropy")
def _entropy_gradient(op, d_value, _):
    value, workspace = op.outputs
    num_threads = op.get_attr("num_threads")
    if not op.get_attr("keep_workspace"):
        value, workspace = library.fastkeras_crf_entropy(*op.inputs, num_threads=num_threads)
    d_emissions, d_transitions, d_start, d_end = library.fastkeras_crf_entropy_gradient(
        *op.inputs, value, workspace, d_value, num_threads=num_threads
    )
    return d_emissions, d_transitions, d_start, d_end, None, None


def _not_differentiable(what, advice):
    def gradient(op, *_):
        raise NotImplementedError(
            f"{what} cannot be differentiated by engine='tensorflow_native'; {advice}"
        )

    return gradient


KERAS = "engine='keras' can, named in the call or as FASTKERAS_ENGINE"
GOLD = "take the sequence_score of its tags instead"
tf.RegisterGradient("Fastkeras>CrfGradient")(_not_differentiable("the gradient of a CRF", KERAS))
tf.RegisterGradient("Fastkeras>CrfWeigh")(_not_differentiable("the gradient of a CRF", KERAS))
tf.RegisterGradient("Fastkeras>CrfWeightedGradient")(
    _not_differentiable("the gradient of a CRF", KERAS)
)
tf.RegisterGradient("Fastkeras>CrfEntropyGradient")(
    _not_differentiable("the gradient of an entropy", KERAS)
)
tf.RegisterGradient("Fastkeras>CrfMarginals")(_not_differentiable("marginals", KERAS))
tf.RegisterGradient("Fastkeras>CrfViterbi")(_not_differentiable("the score of viterbi", GOLD))
tf.RegisterGradient("Fastkeras>CrfKBest")(_not_differentiable("the scores of k_best", GOLD))
