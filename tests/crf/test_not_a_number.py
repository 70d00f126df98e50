"""Scores that are NaN or infinite: the sequences that use them tell so, and no others do."""

import numpy as np
import pytest

from fastkeras import crf

NOT_NUMBERS = (np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_tags_stay_in_range(engine, dtype, value, rng):
    for num_tags in (1, 3, 5, 9, 17):
        emissions = rng.standard_normal((4, 35, num_tags)).astype(dtype)
        emissions[rng.random(emissions.shape) < 0.2] = value
        transitions = rng.standard_normal((num_tags, num_tags)).astype(dtype)
        for tags, _ in (
            crf.viterbi(emissions, transitions, engine=engine),
            crf.k_best(emissions, transitions, 4, engine=engine),
        ):
            assert np.min(tags) >= 0 and np.max(tags) < num_tags
