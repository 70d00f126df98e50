# For type checkers and editors: what __init__.py loads on first use.
from fastkeras.word2vec.documents import Doc2Vec as Doc2Vec
from fastkeras.word2vec.layers.embedding import to_keras_embedding as to_keras_embedding
from fastkeras.word2vec.layers.embedding import vectors_of as vectors_of
from fastkeras.word2vec.training.trainer import Word2Vec as Word2Vec
from fastkeras.word2vec.vectors.vectors import Vectors as Vectors
from fastkeras.word2vec.vocabulary import Vocabulary as Vocabulary
from fastkeras.word2vec.windows import Windows as Windows
