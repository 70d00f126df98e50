"""The compiled libraries, loaded and given to TensorFlow, JAX and torch; for all domains."""
