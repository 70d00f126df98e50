# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.compat.addons import layers as layers
from fastkeras.compat.addons import text as text
