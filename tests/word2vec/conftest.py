"""Stand-ins for what a test does without, for all tests of Word2Vec."""

import sys

import pytest


@pytest.fixture
def stand_in(monkeypatch):
    """Put a stand-in in the place of what is installed, or is not."""

    def replaced(kind, **of_it):
        made = kind(**of_it)
        for name, module in made.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        return made

    return replaced
