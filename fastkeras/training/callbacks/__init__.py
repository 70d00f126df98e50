"""Callbacks: what they record, set, keep and put back while training."""
