"""Models of words in files, and put together from what files have."""

from fastkeras.word2vec.training import checkpoint, matrices
from fastkeras.word2vec.training.engine import engine_of
from fastkeras.word2vec.training.inputs import bags
from fastkeras.word2vec.training.parts import rows_of
from fastkeras.word2vec.vocabulary import Vocabulary


def write(model, path, more=None, **members):
    """Write a `Word2Vec` with all that `resume` needs; `more` and `members` are added."""
    state = {**model._state, "corpus_size": model._corpus_size}
    about = {"config": model.config, "state": state, **(more or {})}
    of_words = model.vocabulary.words, model.vocabulary.counts
    embeddings = model.input_embeddings, model.output_embeddings
    checkpoint.save(path, about, *of_words, embeddings, **members)


def read(cls, path, engine, members=None):
    """Return the model, what the file says about it, and its further members."""
    about, *parts, arrays = checkpoint.load(path, members or {})
    place = f"path={str(path)!r}"
    model = put_together(cls, about["config"], about["state"], *parts, engine, place)
    return model, about, arrays


def put_together(cls, config, state, words, counts, embeddings, engine, place):
    """Return a trained model.

    Args:
        cls: `Word2Vec`.
        config: dict of its arguments.
        state: of the schedule, from `checkpoint.load`; None for one that has ended.
        words, counts: of the vocabulary.
        embeddings: the input matrix and the output matrix, which are copied.
        engine: its name, or None.
        place: what messages begin with.
    """
    engine_of(config, engine)  # whose errors are not about the file
    try:
        model = cls(**config, engine=engine)
        model.vocabulary = Vocabulary(words, counts)
        model._bags = bags(model.vocabulary, model.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is not a Word2Vec model: {error}") from error
    of_model = rows_of(model, model.vocabulary, model._bags)
    expected = [(rows, model.config["vector_size"]) for rows in of_model]
    shapes = [matrix.shape for matrix in embeddings]
    if shapes != expected or not words:
        raise ValueError(
            f"{place} has matrices of shapes {shapes[0]} and {shapes[1]}; its "
            f"{len(words)} words and arguments need {expected[0]} and {expected[1]}"
        )
    if state is None:
        model._state["epoch"], model._corpus_size = model.config["epochs"], 0
    else:
        model._corpus_size = state.pop("corpus_size")
        model._state = state
    model._matrices = [matrices.padded_copy(matrix) for matrix in embeddings]
    return model
