"""The CRF of TensorFlow Addons 0.23 for Keras 3, on TensorFlow.

    import fastkeras.compat.addons as tfa

    log_likelihood, transitions = tfa.text.crf_log_likelihood(inputs, tags, lengths)
    crf = tfa.layers.CRF(num_tags)

Signatures, orders, dtypes and edge cases are those of TensorFlow Addons, except for what
docs/crf.md lists under "Coming from another CRF".
"""

from importlib import import_module

__all__ = ["layers", "text"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: of TensorFlow Addons there is the "
            "CRF, in `text` and `layers`"
        )
    return import_module(f"{__name__}.{name}")


def __dir__():
    return __all__
