"""Which modules' doctests cannot be collected here: those of frameworks that are not installed."""

from importlib.util import find_spec

_OF = {"torch": ("*/_torch_*.py", "*/compat/torch*.py"), "jax": ("*/_jax_*.py",)}
collect_ignore_glob = [
    f"fastkeras{pattern}" for name, patterns in _OF.items() if not find_spec(name)
    for pattern in patterns
]  # fmt: skip
