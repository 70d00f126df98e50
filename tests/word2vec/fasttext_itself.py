"""fastText's own training, which sets only as many tenths of its first vectors as it has threads.

(`DenseMatrix::uniform` of version 0.9.3; the rest is memory as it was, often nan.)
"""

THREADS = 10


def trained(train, *arguments, **named):
    """What a function of fastText returns, with first vectors that are all set."""
    return train(*arguments, verbose=0, thread=THREADS, **named)
