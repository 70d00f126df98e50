"""Callbacks that record, set, keep and restore values while training."""
