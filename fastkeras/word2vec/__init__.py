"""Word vectors: Word2Vec with hand-derived gradients, and what is around its training."""
