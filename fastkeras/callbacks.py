"""Keras callbacks."""

from fastkeras.training.callbacks.averages import ExponentialMovingAverage
from fastkeras.training.callbacks.evaluate import Evaluate, PrintSamples
from fastkeras.training.callbacks.norms import Norms
from fastkeras.training.callbacks.progress import RichProgress
from fastkeras.training.callbacks.sample_sheet import SampleSheet
from fastkeras.training.callbacks.scheduled import PiecewiseLinearRate, ScheduleScalar, Warmup
from fastkeras.training.callbacks.weight_averaging import StochasticWeightAveraging

__all__ = [
    "Evaluate",
    "ExponentialMovingAverage",
    "Norms",
    "PiecewiseLinearRate",
    "PrintSamples",
    "RichProgress",
    "SampleSheet",
    "ScheduleScalar",
    "StochasticWeightAveraging",
    "Warmup",
]
