"""Documents as ids, each with the number of its document."""

import numpy as np

from fastkeras.word2vec.corpus.encoding import END, encoder_of

MARK = "\udcff"  # ends a document; half a surrogate pair, so that no text has it


def document_ids(corpus, words, num_threads):
    """Encode a corpus of documents.

    Args:
        corpus: a `Corpus`, with a document in each line of a file, or in each item.
        words: list of the strings of the vocabulary.
        num_threads: of the compiled part.

    Returns:
        `(ids, numbers, count)`: int32 arrays (positions,), the ids of all words that are known with
        −1 after each document that has one, and the numbers of their documents; and how many
        documents there are.
    """
    if corpus.is_text:
        encoder, mark = encoder_of([*words, MARK]), MARK.encode("utf-8", "surrogatepass")
        blocks = corpus.document_blocks(mark)
        parts = [encoder.encode(block, num_threads) for block in blocks]
    else:
        index = {word: i for i, word in enumerate(words)}
        parts = [_of_list(words_of, index) for words_of in corpus.token_lists()]
    ids = np.concatenate([np.empty(0, np.int32), *parts])
    ids = ids[ids != END]
    ends = ids == len(words)  # the marks
    ids[ends] = END
    numbers = (np.cumsum(ends) - ends).astype(np.int32)
    after_an_end = np.concatenate([[True], ends[:-1]])
    kept = ~(ends & after_an_end[: len(ends)])  # all but the ends of documents without words
    return ids[kept], numbers[kept], int(ends.sum())


def _of_list(words, index):
    known = [id for id in map(index.get, words) if id is not None]
    return np.array([*known, len(index)], np.int32)
