"""The parts of a model: made for a vocabulary, grown by new words, trained by an engine."""

from fastkeras.word2vec.training import engine as engines
from fastkeras.word2vec.training import growth, loop, matrices, settings
from fastkeras.word2vec.training.inputs import bags


def begin(model, vocabulary):
    """Give a model a vocabulary and new matrices."""
    of_words = bags(vocabulary, model.config)
    size, seed = model.config["vector_size"], model.config["seed"]
    made = matrices.new(*rows_of(model, vocabulary, of_words), size, seed)
    # Only now, so that if memory runs out the model stays as it was.
    model.vocabulary, model._bags, model._matrices = vocabulary, of_words, made
    model._state = loop.new_state(model.config["epochs"], loop.new_schedule(model.config))


def rows_of(model, vocabulary, of_words):
    """Return how many rows the input matrix has, and the output matrix."""
    words = len(vocabulary.words)
    input_rows = words if of_words is None else of_words.num_rows
    return input_rows, settings.output_rows(words, model._settings)


def add_words(model, found):
    """Give the new words of a vocabulary rows; those known count more often."""
    known = model.vocabulary
    if model._settings.loss in (settings.TREE, settings.BOTH):
        growth.check_tree(model._settings.loss, known, found)
        return  # then the counts stay too
    vocabulary, order = growth.merged(known, found)
    orders, of_words = [order, order], bags(vocabulary, model.config)
    if of_words is not None:
        orders[0] = growth.with_buckets(order, model._bags, of_words)
    size, seed = model.config["vector_size"], model.config["seed"] + len(known)
    made = growth.grown(model._matrices, orders, size, seed)
    model.vocabulary, model._bags, model._matrices = vocabulary, of_words, made


def check_size(model, ids):
    """Raise ValueError if a corpus is not as long as the one of the training."""
    if len(ids) != model._corpus_size:
        raise ValueError(
            f"corpus has {len(ids)} positions, that of the training had {model._corpus_size}"
        )


def tables_of(model):
    """Return the `Tables` that its engine needs."""
    c = model.config
    return settings.tables_of(
        model.vocabulary.counts, model._settings,
        sample_of(model), c["ns_exponent"], c["sampling_correction"], model._bags,
    )  # fmt: skip


def sample_of(model):
    """Return its `sample`, where None depends on how many words there are."""
    return settings.sample_of(model.config["sample"], len(model.vocabulary.words))


def train(model, ids, threads=None, documents=None, shown=None, **options):
    """Train; `shown` is the model that callbacks get, and that checkpoints keep."""
    model._corpus_size = len(ids)
    c = {**model.config, "sample": sample_of(model)}
    if threads is not None:
        c["num_threads"] = threads
    of_training = model._matrices, tables_of(model), model._settings, documents
    try:
        model._elsewhere, train_slice = engines.begin(model._engine, ids, *of_training)
        block = getattr(model._elsewhere, "block", None)
        loop.train(train_slice, ids, model._state, c, shown or model, block=block, **options)
    finally:
        model._fetch()
        model._elsewhere = None
