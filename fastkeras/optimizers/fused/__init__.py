"""The optimizers of Keras, with one step for all variables, and their settings by variable."""
