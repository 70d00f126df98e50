"""Which modules' doctests cannot be collected here: those of frameworks that are not installed."""

from importlib.util import find_spec

_OF = {"torch": ("compat/torch*.py",), "jax": (), "cupy": ("*/_engines/cupy/*.py",)}
collect_ignore_glob = [
    f"fastkeras/{pattern}"
    for name, more in _OF.items()
    if not find_spec(name)
    for pattern in (f"_ops/{name}.py", f"*/_engines/{name}_native.py", *more)
]
