"""A pytest plugin that puts our optimizers where the tests of Keras look for its own."""

from importlib import import_module

import keras

from fastkeras.optimizers import stock

ITS_OWN = import_module("keras.src.optimizers")

for ours in stock.OPTIMIZERS:
    name = ours.__name__
    for place in (import_module(f"keras.src.optimizers.{name.lower()}"), ITS_OWN, keras.optimizers):
        setattr(place, name, ours)
    if name.lower() in ITS_OWN.ALL_OBJECTS_DICT:  # has no Lamb
        ITS_OWN.ALL_OBJECTS_DICT[name.lower()] = ours
