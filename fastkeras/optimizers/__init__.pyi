# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.optimizers import transforms as transforms
from fastkeras.optimizers.functional import update as update
from fastkeras.optimizers.fused.classes.adam_mini import AdamMini as AdamMini
from fastkeras.optimizers.fused.classes.apollo import APOLLO as APOLLO
from fastkeras.optimizers.fused.classes.muon import Muon as Muon
from fastkeras.optimizers.fused.classes.newer import AdEMAMix as AdEMAMix
from fastkeras.optimizers.fused.classes.newer import ScheduleFreeAdamW as ScheduleFreeAdamW
from fastkeras.optimizers.fused.classes.newer import ScheduleFreeSGD as ScheduleFreeSGD
from fastkeras.optimizers.fused.classes.newer import StableAdamW as StableAdamW
from fastkeras.optimizers.fused.classes.soap import SOAP as SOAP
from fastkeras.optimizers.fused.classes.stock import SGD as SGD
from fastkeras.optimizers.fused.classes.stock import Adafactor as Adafactor
from fastkeras.optimizers.fused.classes.stock import Adagrad as Adagrad
from fastkeras.optimizers.fused.classes.stock import Adam as Adam
from fastkeras.optimizers.fused.classes.stock import AdamW as AdamW
from fastkeras.optimizers.fused.classes.stock import Lamb as Lamb
from fastkeras.optimizers.fused.classes.stock import Lion as Lion
from fastkeras.optimizers.fused.classes.stock import Nadam as Nadam
from fastkeras.optimizers.fused.classes.stock import RMSprop as RMSprop
from fastkeras.optimizers.fused.multipliers import layerwise_decay as layerwise_decay
from fastkeras.optimizers.fused.multipliers import (
    set_learning_rate_multiplier as set_learning_rate_multiplier,
)
from fastkeras.optimizers.fused.release import release_gradients as release_gradients
from fastkeras.optimizers.fused.schedules import PiecewiseLinear as PiecewiseLinear
from fastkeras.optimizers.offload import slots_on_disk as slots_on_disk
