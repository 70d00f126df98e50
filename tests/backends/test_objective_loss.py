"""`CRFObjective` on the backend of the environment: JAX or torch, by the tests of tests/crf."""

from test_objective_loss import *  # noqa: F403
