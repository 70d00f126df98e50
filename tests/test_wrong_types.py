"""Flags, whole numbers and numbers of another type are refused, by name, in all that is public."""

import inspect
import re

import keras
import numpy as np
import pytest

from test_public_names import public

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WRONG = {"bool": ("no", 1), "int": (2.5, True, "2"), "float": ("0.5", True)}
ELSEWHERE = ("optimizers", "word2vec")  # whose own tests do this
BY_HAND = ("CBOW", "SkipGram", "fit_on_workers", "causal_lm", "seq_2_seq_lm")  # same

CHAIN = {"emissions": np.zeros((1, 2, 2)), "transitions": np.zeros((2, 2))}
TAGS = {"tags": np.zeros((1, 2), int)}


def layer():
    dense = keras.layers.Dense(2)
    dense.build((None, 2))
    return dense


def following(tokens, states, context, ancestry):
    return np.zeros((*tokens.shape, 3)), states, context


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])


REQUIRED = {  # the arguments that have no default
    "callbacks.Evaluate": lambda: {"fn": len},
    "callbacks.PrintSamples": lambda: {"fn": len},
    "callbacks.SampleSheet": lambda: {"path": "sheet.png", "noise": np.zeros((1, 2))},
    "callbacks.StochasticWeightAveraging": lambda: {"start": 1},
    "compat.addons.layers.crf.CRF": lambda: {"units": 2},
    "compat.addons.text.crf_wrapper.CRFModelWrapper": lambda: {"base_model": model(), "units": 2},
    "compat.bert4keras.AutoRegressiveDecoder": lambda: {"start_id": 0, "end_id": 0, "maxlen": 2},
    "compat.convert.crf_weights": lambda: {"path": "missing.npz"},
    "compat.convert.convert_crf": lambda: {"old": "missing.npz", "new": "new.weights.h5"},
    "crf.constraints.bitmap_of_tags": lambda: {**TAGS, "num_tags": 2},
    "crf.semi_markov.segment_labels": lambda: {"segmentations": [[(0, 1, 0)]]},
    "crf.span_evaluation": lambda: {
        "crf": None,
        "inputs": None,
        "true_tags": None,
        "names": ["O", "B-X"],
    },
    "metrics.CRFSpanScore": lambda: {"names": ["O", "B-X"]},
    "tagging.subword_labels": lambda: {"tags": [[0]], "word_numbers": np.zeros((1, 1), int)},
    "training.SingleLossGAN": lambda: {"generator": model(), "discriminator": model()},
    "training.adversarial_training": lambda: {"model": model()},
    "training.reestimate_batch_normalization": lambda: {"model": model(), "data": np.zeros((2, 2))},
    "layers.AttentionDecoder": lambda: {
        "vocabulary_size": 3,
        "cell": keras.layers.GRUCell(2),
        "units": 2,
    },
    "layers.CenterDistances": lambda: {"classes": 2},
    "layers.CenterLossLayer": lambda: {"classes": 2},
    "layers.EfficientGlobalPointer": lambda: {"num_types": 2},
    "layers.GlobalPointer": lambda: {"num_types": 2},
    "layers.RelativeMultiHeadAttention": lambda: {"num_heads": 2, "key_dim": 4},
    "layers.RelativePositionBias": lambda: {"num_heads": 2},
    "layers.SemiMarkovCRF": lambda: {"num_tags": 2, "max_length": 2},
    "layers.TransformerDecoder": lambda: {"vocabulary_size": 3, "units": 8},
    "ops.stop_gradient_through": lambda: {"layer": layer()},
    "seq2seq.BeamSearch": lambda: {"end": 0},
    "seq2seq.sample": lambda: {"step": following, "start": [1], "end": 0},
    "seq2seq.select": lambda: {
        "logits": np.zeros((1, 2, 3)),
        "scores": np.zeros((1, 2)),
        "history": np.zeros((1, 2, 1), int),
        "num_candidates": 2,
    },
    "seq2seq.sequence_padding": lambda: {"sequences": [[1]]},
    "tagging.decode_spans": lambda: {"scores": np.zeros((1, 1, 2, 2))},
    "tagging.document_windows": lambda: {"lengths": [3], "size": 2, "overlap": 1},
    "tagging.relative_position_buckets": lambda: {"distances": np.zeros(2, int)},
    "tagging.rotary_positions": lambda: {"x": np.zeros((1, 2, 4))},
    "training.LowRank": lambda: {"rank": 2},
}


def required(name):
    """The arguments of a call that works."""
    domain, _, function = name.rpartition(".")
    if name in REQUIRED:
        return REQUIRED[name]()
    if domain in ("crf", "crf.memm"):
        tagged = re.search("likelihood|loss|cost|score", function)
        more = {"label_smoothing": 0.1} if function == "smoothed_log_likelihood" else {}
        more |= {"k": 2} if function == "k_best" else {}
        return CHAIN | more | (TAGS if tagged else {})
    return {}


def cases():
    """Yield the name of each function or class, a parameter of it, and the type of that."""
    for name, value in public().items():
        short = name.removeprefix("fastkeras.")
        domain, _, last = short.rpartition(".")
        made_by = value.__init__ if inspect.isclass(value) else value
        is_ours = getattr(made_by, "__module__", "").startswith("fastkeras")
        is_made_by_users = not (inspect.isclass(value) and issubclass(value, tuple))
        if domain.split(".")[0] in ELSEWHERE or last in BY_HAND or not is_ours:
            continue
        if is_made_by_users:
            for parameter in inspect.signature(made_by).parameters.values():
                kind = str(parameter.annotation).removesuffix(" | None")
                if kind in WRONG:
                    yield pytest.param(name, parameter.name, kind, id=f"{short}-{parameter.name}")


@pytest.mark.parametrize(("name", "parameter", "kind"), list(cases()))
def test_a_value_of_another_type_is_refused_by_name(name, parameter, kind):
    given = required(name.removeprefix("fastkeras."))
    for wrong in WRONG[kind]:
        with pytest.raises((ValueError, TypeError), match=rf"\b{parameter}\b") as raised:
            public()[name](**(given | {parameter: wrong}))
        assert repr(wrong) in str(raised.value)
