"""The classes: those that Keras has too, newer ones of one rule, and those of matrices."""
