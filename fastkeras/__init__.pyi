# For type checkers and editors: what __init__.py loads on first use.
from typing import Any as Any

from fastkeras import callbacks as callbacks
from fastkeras import crf as crf
from fastkeras import layers as layers
from fastkeras import losses as losses
from fastkeras import metrics as metrics
from fastkeras import ops as ops
from fastkeras import optimizers as optimizers
from fastkeras import seq2seq as seq2seq
from fastkeras import tagging as tagging
from fastkeras import training as training
from fastkeras import typing as typing
from fastkeras import word2vec as word2vec
from fastkeras._engines import engines as engines

__version__: str
_core: Any
