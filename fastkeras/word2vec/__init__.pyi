# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.word2vec.embedding import to_keras_embedding as to_keras_embedding
from fastkeras.word2vec.embedding import vectors_of as vectors_of
from fastkeras.word2vec.pipeline import Windows as Windows
from fastkeras.word2vec.trainer import Word2Vec as Word2Vec
from fastkeras.word2vec.vocabulary import Vocabulary as Vocabulary
