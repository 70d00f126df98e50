"""What a model of Keras ends with: the layers CRF and MEMM, their loss, metrics and decoding."""
