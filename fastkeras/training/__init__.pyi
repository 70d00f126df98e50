# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.training.callbacks.averages import (
    ExponentialMovingAverage as ExponentialMovingAverage,
)
from fastkeras.training.callbacks.evaluate import Evaluate as Evaluate
from fastkeras.training.callbacks.evaluate import PrintSamples as PrintSamples
from fastkeras.training.callbacks.norms import Norms as Norms
from fastkeras.training.callbacks.norms import gradients_of as gradients_of
from fastkeras.training.callbacks.progress import RichProgress as RichProgress
from fastkeras.training.callbacks.sample_sheet import SampleSheet as SampleSheet
from fastkeras.training.callbacks.scheduled import PiecewiseLinearRate as PiecewiseLinearRate
from fastkeras.training.callbacks.scheduled import ScheduleScalar as ScheduleScalar
from fastkeras.training.callbacks.scheduled import Warmup as Warmup
from fastkeras.training.callbacks.weight_averaging import (
    StochasticWeightAveraging as StochasticWeightAveraging,
)
from fastkeras.training.gan import SingleLossGAN as SingleLossGAN
from fastkeras.training.gradients.adversarial import FGM as FGM
from fastkeras.training.gradients.adversarial import PGD as PGD
from fastkeras.training.gradients.adversarial import GradientPenalty as GradientPenalty
from fastkeras.training.gradients.adversarial import VirtualAdversarial as VirtualAdversarial
from fastkeras.training.gradients.adversarial import adversarial_training as adversarial_training
from fastkeras.training.gradients.objective import Objective as Objective
from fastkeras.training.gradients.reversal import GradientReversal as GradientReversal
from fastkeras.training.gradients.reversal import gradient_after_loss as gradient_after_loss
from fastkeras.training.gradients.reversal import gradient_reversal as gradient_reversal
from fastkeras.training.gradients.reversal import stop_gradient_through as stop_gradient_through
from fastkeras.training.gradients.rules import ASAM as ASAM
from fastkeras.training.gradients.rules import SAM as SAM
from fastkeras.training.gradients.rules import Extragradient as Extragradient
from fastkeras.training.gradients.rules import Heun as Heun
from fastkeras.training.gradients.rules import RungeKutta4 as RungeKutta4
from fastkeras.training.gradients.several_gradients import train_with as train_with
from fastkeras.training.intermediate import intermediate_outputs as intermediate_outputs
from fastkeras.training.losses.batch_triplets import BatchTripletLoss as BatchTripletLoss
from fastkeras.training.losses.center_loss import CenterDistances as CenterDistances
from fastkeras.training.losses.center_loss import CenterLoss as CenterLoss
from fastkeras.training.losses.center_loss import CenterLossLayer as CenterLossLayer
from fastkeras.training.losses.loss_layers import LossLayer as LossLayer
from fastkeras.training.losses.loss_layers import add_loss as add_loss
from fastkeras.training.losses.smoothed_crossentropy import (
    SmoothedCrossentropy as SmoothedCrossentropy,
)
from fastkeras.training.losses.triplet_loss import TripletLossLayer as TripletLossLayer
from fastkeras.training.metric_layers import MetricLayer as MetricLayer
from fastkeras.training.metric_layers import add_metric as add_metric
from fastkeras.training.metric_layers import watch as watch
from fastkeras.training.statistics import (
    reestimate_batch_normalization as reestimate_batch_normalization,
)
from fastkeras.training.weights.reparameterize import Reparameterize as Reparameterize
from fastkeras.training.weights.transforms import L2Normalize as L2Normalize
from fastkeras.training.weights.transforms import LowRank as LowRank
from fastkeras.training.weights.transforms import Masked as Masked
from fastkeras.training.weights.transforms import SpectralNorm as SpectralNorm
from fastkeras.training.weights.transforms import WeightNorm as WeightNorm
from fastkeras.training.weights.transforms import WeightStandardization as WeightStandardization
from fastkeras.training.weights.transforms import WeightTransform as WeightTransform
from fastkeras.training.workers import fit_on_workers as fit_on_workers
