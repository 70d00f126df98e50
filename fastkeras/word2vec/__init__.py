"""Word2Vec with hand-derived gradients, and all that is around its training."""
