"""The engines of a domain, as parameters of tests."""

import pytest

import fastkeras


def engines_of(domain):
    """Return a pytest parameter for each engine; those not ready are skipped with a reason."""
    return [
        pytest.param(name, marks=[] if state == "ready" else pytest.mark.skip(reason=state))
        for name, state in fastkeras.engines(domain).items()
    ]
