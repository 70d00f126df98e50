"""The engines: a file or folder each, of plain functions; fastkeras/_engines.py chooses."""
