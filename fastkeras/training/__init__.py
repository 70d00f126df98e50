"""What Keras lacks around `fit`: losses, metrics, weights, callbacks, gradients, a GAN.

All in plain `keras.ops`, for every backend. docs/training.md tells when to use which tool, and when
Keras itself has one.
"""

from importlib import import_module

_WHERE = {
    **dict.fromkeys(("LossLayer", "add_loss"), "losses.loss_layers"),
    **dict.fromkeys(("MetricLayer", "add_metric", "watch"), "metric_layers"),
    **dict.fromkeys(("CenterDistances", "CenterLoss", "CenterLossLayer"), "losses.center_loss"),
    "Objective": "gradients.objective",
    "train_with": "gradients.several_gradients",
    **dict.fromkeys(("ASAM", "Extragradient", "Heun", "RungeKutta4", "SAM"), "gradients.rules"),
    **dict.fromkeys(
        ("FGM", "GradientPenalty", "PGD", "VirtualAdversarial", "adversarial_training"),
        "gradients.adversarial",
    ),
    **dict.fromkeys(("Evaluate", "PrintSamples"), "callbacks.evaluate"),
    **dict.fromkeys(("PiecewiseLinearRate", "ScheduleScalar", "Warmup"), "callbacks.scheduled"),
    **dict.fromkeys(("Norms", "gradients_of"), "callbacks.norms"),
    "ExponentialMovingAverage": "callbacks.averages",
    "StochasticWeightAveraging": "callbacks.weight_averaging",
    "reestimate_batch_normalization": "statistics",
    "RichProgress": "callbacks.progress",
    "intermediate_outputs": "intermediate",
    "SampleSheet": "callbacks.sample_sheet",
    "SingleLossGAN": "gan",
    "Reparameterize": "weights.reparameterize",
    **dict.fromkeys(
        (
            "L2Normalize",
            "LowRank",
            "Masked",
            "SpectralNorm",
            "WeightNorm",
            "WeightStandardization",
            "WeightTransform",
        ),
        "weights.transforms",
    ),
    **dict.fromkeys(
        ("GradientReversal", "gradient_after_loss", "gradient_reversal", "stop_gradient_through"),
        "gradients.reversal",
    ),
    "SmoothedCrossentropy": "losses.smoothed_crossentropy",
    "BatchTripletLoss": "losses.batch_triplets",
    "TripletLossLayer": "losses.triplet_loss",
    "fit_on_workers": "workers",
}

__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module 'fastkeras.training' has no attribute {name!r}")
    return getattr(import_module(f"fastkeras.training.{_WHERE[name]}"), name)


def __dir__():
    return __all__
