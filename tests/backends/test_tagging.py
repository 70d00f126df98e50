"""`fastkeras.tagging` on the backend of the environment: JAX or torch.

Its tests are the same on every backend, so they are those of tests/tagging.
"""

from test_dtypes import *  # noqa: F403
from test_encoders import *  # noqa: F403
from test_masked_steps import *  # noqa: F403
from test_nested_spans import *  # noqa: F403
from test_subwords import *  # noqa: F403
