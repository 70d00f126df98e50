"""The engines, each a file or folder of plain functions; fastkeras/_engines.py chooses one."""
