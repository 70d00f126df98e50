"""`SemiMarkovCRF` on the backend of the environment: JAX or torch, by the tests of tests/crf."""

from test_semi_markov_layer import *  # noqa: F403
