"""Random texts, and the two ways to count and to encode them."""

import sys

import pytest
from hypothesis import strategies as st

WORDS = st.text("ab é世\u00a0\u2003\x00\x1c", max_size=3)
LINES = st.lists(st.lists(WORDS, max_size=5).map(" \t".join), max_size=6)


def with_and_without_compiled_part(call):
    """Return the results of `call` with the compiled part, if there is one, and without it."""
    results = [call()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fastkeras._core", None)
        results.append(call())
    return results
