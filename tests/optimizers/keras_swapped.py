"""A pytest plugin that gives the tests of Keras our optimizers in place of its own."""

from importlib import import_module

import keras

from fastkeras import optimizers
from fastkeras.optimizers.fused.classes import stock

MODULES = {ours: ours.__name__.lower() for ours in stock.OPTIMIZERS}
MODULES |= {optimizers.Muon: "muon", optimizers.ScheduleFreeAdamW: "schedule_free_adamw"}


def pytest_configure():
    # Not on import: pytest imports this file also to look for doctests, and all other tests would
    # then get our optimizers instead of those of Keras.
    its_own = import_module("keras.src.optimizers")
    for ours, module in MODULES.items():
        name = ours.__name__
        if not hasattr(keras.optimizers, name):  # in a Keras that does not have it yet
            continue
        for place in (import_module(f"keras.src.optimizers.{module}"), its_own, keras.optimizers):
            setattr(place, name, ours)
        if name.lower() in its_own.ALL_OBJECTS_DICT:  # Lamb is not in it
            its_own.ALL_OBJECTS_DICT[name.lower()] = ours
