"""The engines: a file each, of plain functions; fastkeras/_engines.py chooses."""
