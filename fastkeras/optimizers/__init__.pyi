# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.optimizers import transforms as transforms
from fastkeras.optimizers.functional import update as update
from fastkeras.optimizers.fused.adam_mini import AdamMini as AdamMini
from fastkeras.optimizers.fused.apollo import APOLLO as APOLLO
from fastkeras.optimizers.fused.multipliers import layerwise_decay as layerwise_decay
from fastkeras.optimizers.fused.multipliers import (
    set_learning_rate_multiplier as set_learning_rate_multiplier,
)
from fastkeras.optimizers.fused.muon import Muon as Muon
from fastkeras.optimizers.fused.newer import AdEMAMix as AdEMAMix
from fastkeras.optimizers.fused.newer import ScheduleFreeAdamW as ScheduleFreeAdamW
from fastkeras.optimizers.fused.newer import ScheduleFreeSGD as ScheduleFreeSGD
from fastkeras.optimizers.fused.newer import StableAdamW as StableAdamW
from fastkeras.optimizers.fused.release import release_gradients as release_gradients
from fastkeras.optimizers.fused.schedules import PiecewiseLinear as PiecewiseLinear
from fastkeras.optimizers.fused.soap import SOAP as SOAP
from fastkeras.optimizers.fused.stock import SGD as SGD
from fastkeras.optimizers.fused.stock import Adafactor as Adafactor
from fastkeras.optimizers.fused.stock import Adagrad as Adagrad
from fastkeras.optimizers.fused.stock import Adam as Adam
from fastkeras.optimizers.fused.stock import AdamW as AdamW
from fastkeras.optimizers.fused.stock import Lamb as Lamb
from fastkeras.optimizers.fused.stock import Lion as Lion
from fastkeras.optimizers.fused.stock import Nadam as Nadam
from fastkeras.optimizers.fused.stock import RMSprop as RMSprop
from fastkeras.optimizers.offload import slots_on_disk as slots_on_disk
