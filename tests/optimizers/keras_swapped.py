"""A pytest plugin that puts our optimizers where the tests of Keras look for its own."""

from importlib import import_module

import keras

from fastkeras.optimizers.fused import stock


def pytest_configure():
    # Not at import: pytest imports this file too when it looks for doctests, and every other test
    # would then find our optimizers where it expects those of Keras.
    its_own = import_module("keras.src.optimizers")
    for ours in stock.OPTIMIZERS:
        name = ours.__name__
        module = import_module(f"keras.src.optimizers.{name.lower()}")
        for place in (module, its_own, keras.optimizers):
            setattr(place, name, ours)
        if name.lower() in its_own.ALL_OBJECTS_DICT:  # has no Lamb
            its_own.ALL_OBJECTS_DICT[name.lower()] = ours
