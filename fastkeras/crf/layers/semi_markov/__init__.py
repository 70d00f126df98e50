"""The semi-Markov CRF as the last layer of a Keras tagger."""
