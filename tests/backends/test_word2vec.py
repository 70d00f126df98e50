"""The Keras layers of Word2Vec on the backend of the environment: JAX or torch.

Their tests are the same on every backend, so they are those of tests/word2vec.
"""

import pytest

from word2vec.test_layers import *  # noqa: F403
from word2vec.test_windows import *  # noqa: F403

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
