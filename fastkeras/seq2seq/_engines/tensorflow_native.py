"""The C++ kernel as a TensorFlow op: eager, in graphs and under XLA, any batch, on CPUs."""

import tensorflow as tf

from fastkeras._ops.tensorflow import library


def select(step, num_candidates):
    history = tf.zeros((0, 0, 0), tf.int32) if step.history is None else step.history
    allowed = tf.zeros((0, 0, 0), tf.bool) if step.allowed is None else step.allowed
    results = library.fastkeras_seq2seq_select(
        *map(tf.convert_to_tensor, (step.logits, step.scores, history, allowed)),
        tf.constant(step.repetition_penalty, tf.float64),
        num_candidates=num_candidates,
        no_repeat_ngram=step.no_repeat_ngram,
        num_threads=tf.config.threading.get_intra_op_parallelism_threads(),  # 0: all processors
    )
    shape = (step.logits.shape[0], num_candidates)
    return tuple(tf.ensure_shape(result, shape) for result in results)


@tf.RegisterGradient("Fastkeras>Seq2seqSelect")
def _no_gradient(op, *_):
    raise NotImplementedError(
        "engine='tensorflow_native' cannot differentiate the scores of select; engine='keras' can"
    )
