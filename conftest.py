"""Where no doctests are looked for: in what is not installed, and in programs that tests start."""

from importlib.util import find_spec

_OF = {"torch": ("compat/*torch*.py",), "jax": (), "cupy": ("*/_engines/cupy/*.py",)}
_OF["gensim"] = ("word2vec/vectors/gensim_vectors.py",)
collect_ignore_glob = [
    f"fastkeras/{pattern}"
    for name, more in _OF.items()
    if not find_spec(name)
    for pattern in (f"_ops/{name}*.py", f"*/_engines/{name}_*.py", *more)
]
collect_ignore_glob += [
    "tests/backends/four_*.py",
    "tests/backends/two_*.py",
    "tests/backends/without_*.py",
    "tests/compat/two_*.py",
    "tests/gpu/one_case_each.py",
    "tests/type_checkers/*.py",
    "fastkeras/*_cuda.py",
]  # GPUs are on few machines
