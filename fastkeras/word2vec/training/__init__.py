"""The training of `Word2Vec`: arguments, matrices, schedule, checkpoints."""
