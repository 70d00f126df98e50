"""The optimizers of Keras, with one step for all variables, and settings by variable."""
