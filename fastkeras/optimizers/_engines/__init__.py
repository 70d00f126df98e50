"""The engines: plain functions, one file or folder for each; fastkeras/_engines.py chooses."""
