"""`tfa.layers`: the CRF."""

from fastkeras.compat.addons.layers.crf import CRF

__all__ = ["CRF"]
