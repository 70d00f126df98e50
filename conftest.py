"""Which modules' doctests cannot be collected here."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["fastkeras/compat/torchcrf.py"]
