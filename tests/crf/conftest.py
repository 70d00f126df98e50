"""The engines of the CRF."""

import pytest

from engine_parameters import engines_of


@pytest.fixture(scope="session", params=engines_of("crf"))
def engine(request):
    """Every engine of the CRF that is ready here, by name."""
    return request.param
