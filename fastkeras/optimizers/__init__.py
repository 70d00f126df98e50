"""Fused optimizers: transforms, layered learning rates and the update in one pass over memory.

`AdamW` and the others replace those of `keras.optimizers`; all take `transforms` and learning rate
multipliers. docs/optimizers.md has the formulas and the sources.
"""

from importlib import import_module

_WHERE = {
    **dict.fromkeys(
        ("SGD", "Adam", "AdamW", "Nadam", "Lion", "Lamb", "Adafactor", "RMSprop", "Adagrad"),
        "fastkeras.optimizers.fused.classes.stock",
    ),
    **dict.fromkeys(
        ("AdEMAMix", "StableAdamW", "ScheduleFreeAdamW", "ScheduleFreeSGD"),
        "fastkeras.optimizers.fused.classes.newer",
    ),
    "APOLLO": "fastkeras.optimizers.fused.classes.apollo",
    "AdamMini": "fastkeras.optimizers.fused.classes.adam_mini",
    "SOAP": "fastkeras.optimizers.fused.classes.soap",
    "Muon": "fastkeras.optimizers.fused.classes.muon",
    "layerwise_decay": "fastkeras.optimizers.fused.multipliers",
    "set_learning_rate_multiplier": "fastkeras.optimizers.fused.multipliers",
    "PiecewiseLinear": "fastkeras.optimizers.fused.schedules",
    "release_gradients": "fastkeras.optimizers.fused.release",
    "slots_on_disk": "fastkeras.optimizers.offload",
    "update": "fastkeras.optimizers.functional",
    "transforms": "fastkeras.optimizers.transforms",
}

__all__ = sorted(_WHERE)


def __getattr__(name):  # imported on use, since the kernels work without Keras
    if name not in _WHERE:
        raise AttributeError(f"module 'fastkeras.optimizers' has no attribute {name!r}")
    module = import_module(_WHERE[name])
    return module if name == "transforms" else getattr(module, name)


def __dir__():
    return __all__
