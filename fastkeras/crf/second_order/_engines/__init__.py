"""The engines, each a file of plain functions; fastkeras/_engines.py chooses one."""
