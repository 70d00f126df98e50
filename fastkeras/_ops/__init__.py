"""Loads the compiled libraries and makes them ops of TensorFlow, JAX and torch, for all domains."""
