"""Native kernels for Keras 3: structured layers, faster and more exact.

Names load on first use, so `import fastkeras` loads little more than this file; yet it is enough
for `keras.saving.load_model` to find the classes of fastkeras in a saved model.
"""

from importlib import import_module

from fastkeras._registration import register_with_keras

__version__ = "0.1.0"

_LAZY = {  # public name: the module that holds it, or the module itself
    "engines": "fastkeras._engines",
    "callbacks": "fastkeras.callbacks",
    "crf": "fastkeras.crf",
    "layers": "fastkeras.layers",
    "losses": "fastkeras.losses",
    "metrics": "fastkeras.metrics",
    "ops": "fastkeras.ops",
    "tagging": "fastkeras.tagging",
    "training": "fastkeras.training",
    "optimizers": "fastkeras.optimizers",
    "seq2seq": "fastkeras.seq2seq",
    "typing": "fastkeras.typing",
    "word2vec": "fastkeras.word2vec",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name):
    if name == "_core":  # the compiled kernels, or an error that says why they are missing
        return import_module("fastkeras._build").core()
    if name not in _LAZY:
        raise AttributeError(f"module 'fastkeras' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value = getattr(module, name, module)
    globals()[name] = value
    return value


def __dir__():
    return __all__


register_with_keras()
