"""A pytest plugin that gives the tests of Keras our optimizers in place of its own."""

from importlib import import_module

import keras

from fastkeras.optimizers.fused.classes import stock


def pytest_configure():
    # Not on import: pytest imports this file also to look for doctests, and all other tests would
    # then get our optimizers instead of those of Keras.
    its_own = import_module("keras.src.optimizers")
    for ours in stock.OPTIMIZERS:
        name = ours.__name__
        module = import_module(f"keras.src.optimizers.{name.lower()}")
        for place in (module, its_own, keras.optimizers):
            setattr(place, name, ours)
        if name.lower() in its_own.ALL_OBJECTS_DICT:  # Lamb is not in it
            its_own.ALL_OBJECTS_DICT[name.lower()] = ours
