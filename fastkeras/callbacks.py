"""Keras callbacks."""

from fastkeras.training.averages import ExponentialMovingAverage
from fastkeras.training.evaluate import Evaluate, PrintSamples
from fastkeras.training.norms import Norms
from fastkeras.training.progress import RichProgress
from fastkeras.training.sample_sheet import SampleSheet
from fastkeras.training.scheduled import PiecewiseLinearRate, ScheduleScalar, Warmup

__all__ = [
    "Evaluate",
    "ExponentialMovingAverage",
    "Norms",
    "PiecewiseLinearRate",
    "PrintSamples",
    "RichProgress",
    "SampleSheet",
    "ScheduleScalar",
    "Warmup",
]
