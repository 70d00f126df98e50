"""`fastkeras.training` on the backend of the environment: JAX or torch.

Its tests are the same on every backend, so they are those of tests/training.
"""

import pytest

from test_batch_triplets import *  # noqa: F403
from test_callback_choices import *  # noqa: F403
from test_callback_counts import *  # noqa: F403
from test_callback_messages import *  # noqa: F403
from test_callback_state import *  # noqa: F403
from test_callbacks import *  # noqa: F403
from test_gan import *  # noqa: F403
from test_losses import *  # noqa: F403
from test_rematerialize import *  # noqa: F403
from test_reparameterize import *  # noqa: F403
from test_round_trips import *  # noqa: F403
from test_saved_rules import *  # noqa: F403
from test_several_gradients import *  # noqa: F403
from test_statistics import *  # noqa: F403

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
