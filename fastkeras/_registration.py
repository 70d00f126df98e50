"""Lets `keras.saving.load_model` find our classes after `import fastkeras` alone.

Keras finds a class by its registered name, so only after the module of the class was imported. But
`import fastkeras` imports neither those modules nor Keras. Therefore a stand-in for each class is
registered as soon as Keras is imported; it imports the module when a saved model holds the class.
"""

import sys
from importlib import import_module

REGISTERED = {  # name that Keras saves: the module whose import registers the class
    f"fastkeras>{name}": f"fastkeras.{module}"
    for module, names in {
        "layers": "AttentionDecoder CBOW CRF CRFDecoder CenterDistances CenterLossLayer "
        "ConditionalLayerNormalization CopyPrior EfficientGlobalPointer "
        "GatedAttentionUnit GlobalPointer GradientReversal LossLayer MEMM MetricLayer "
        "PadRagged RelativeMultiHeadAttention RelativePositionBias Rematerialize "
        "Reparameterize SecondOrderCRF SemiMarkovCRF SequencePooling SkipGram TransformerDecoder "
        "TripletLossLayer "
        "WordEmbedding WordPooling "
        "L2Normalize LowRank Masked SpectralNorm WeightNorm WeightStandardization",
        "losses": "BatchTripletLoss CRFLoss CRFObjective CenterLoss SequenceCrossentropy "
        "MultilabelCategoricalCrossentropy SmoothedCrossentropy SpanCrossentropy",
        "metrics": "CRFAccuracy CRFExactMatch CRFSpanScore NestedSpanScore SegmentScore",
        "optimizers.fused.classes.stock": "Adafactor Adagrad Adam AdamW Lamb Lion Nadam RMSprop "
        "SGD",
        "optimizers.fused.classes.adam_mini": "AdamMini",
        "optimizers.fused.classes.apollo": "APOLLO",
        "optimizers.fused.classes.muon": "Muon",
        "optimizers.fused.classes.soap": "SOAP",
        "optimizers.fused.classes.newer": "AdEMAMix StableAdamW ScheduleFreeAdamW ScheduleFreeSGD",
        "optimizers.fused.schedules": "PiecewiseLinear",
        "training.gan": "SingleLossGAN",
        "training.gradients.adversarial": "FGM GradientPenalty PGD VirtualAdversarial",
        "training.gradients.rules": "ASAM Extragradient Heun RungeKutta4 SAM",
        "training.gradients.several_gradients": "TrainedWith",
    }.items()
    for name in names.split()
} | {
    "fastkeras.compat>bert4keras.CRF": "fastkeras.compat.bert4keras",
    "fastkeras.compat>crf_keras.CRF": "fastkeras.compat.crf_keras",
    "Addons>CRF": "fastkeras.compat.addons.layers",
    "Addons>CRFModelWrapper": "fastkeras.compat.addons.layers",
    "Addons>CrfDecodeForwardRnnCell": "fastkeras.compat.addons.layers",
}


def register_with_keras():
    """Register the stand-ins, now or after the import of Keras."""
    if sys.modules.get("keras"):  # None there means that the module is hidden
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def _register():
    try:
        from keras.saving import get_custom_objects, register_keras_serializable
    except ImportError:
        return  # older than Keras 3; that must not make the import of Keras fail
    for registered_name, module in REGISTERED.items():
        if registered_name not in get_custom_objects():
            package, _, name = registered_name.partition(">")
            attributes = {"_stands_for": (registered_name, module), "get_config": None}
            register_keras_serializable(package, name)(_StandIn(name, (), attributes))


class _StandIn(type):
    """A class that takes its attributes from a class that is not imported yet."""

    def __getattr__(cls, attribute):
        from keras.saving import get_custom_objects

        registered_name, module = cls._stands_for
        import_module(module)  # there the class is registered in place of this one
        return getattr(get_custom_objects()[registered_name], attribute)


class _KerasFinder:
    """Finds Keras through the other finders, with a loader that registers afterwards."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _KerasLoader(spec.loader)
        return spec


class _KerasLoader:
    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _register()
