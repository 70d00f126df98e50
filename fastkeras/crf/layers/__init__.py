"""The last layer of a Keras tagger, CRF or MEMM, with its loss, metrics and decoding."""
