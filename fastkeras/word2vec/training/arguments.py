"""The arguments of `Word2Vec`, checked once."""

import os

from fastkeras._files import check_writable
from fastkeras.word2vec import subwords
from fastkeras.word2vec.arguments import LARGEST, choice, flag, integer, number
from fastkeras.word2vec.training.settings import LOSSES, OBJECTIVES, TREE, Settings

# Default learning rates, for skip-gram and for each gradient of CBOW, by the gradient of subwords
# (None: no subwords). They are those of word2vec.c and fastText, but larger for exact gradients,
# which are smaller.
LEARNING_RATES = {
    "skipgram": {None: 0.025, "fasttext": 0.05, "exact": 0.18},
    "deterministic": {None: 0.025, "fasttext": 0.05, "exact": 0.1},  # of skip-gram; it sums changes
    "word2vec": {None: 0.05, "fasttext": 0.05, "exact": 0.2},
    "exact": {None: 0.25, "fasttext": 0.25, "exact": 0.5},
}


# Arguments that have no effect without subwords, and their defaults.
SUBWORDS = {"min_n": 3, "max_n": 6, "buckets": 2_000_000, "subword_gradient": "exact"}


def checked(config):
    """Check a dict of the arguments; return it with the defaults that depend on others."""
    config = dict(config)
    for name, lowest in _LOWEST.items():
        if name == "window" and config[name] is None:
            continue  # the whole sentence
        # The seed has no limit, being taken modulo 2⁶⁴; `subwords.check` checks the buckets.
        highest = {"seed": None, "buckets": None, "negative": LARGEST - 1}.get(name, LARGEST)
        config[name] = integer(name, config[name], lowest, highest)
    for name in _FLAGS:
        config[name] = flag(name, config[name])
    for name, allowed in _CHOICES.items():
        choice(name, config[name], allowed)
    if config["max_vocab"] is not None:
        config["max_vocab"] = _max_vocab(config["max_vocab"])
    _check_subwords(config)
    if config["learning_rate"] is None:
        config["learning_rate"] = default_rate(config)
    for name in ("learning_rate", "end_learning_rate", "sample"):
        if name != "sample" or config[name] is not None:
            config[name] = number(name, config[name], 0)
    config["ns_exponent"] = number("ns_exponent", config["ns_exponent"])
    if config["early_stopping"] is not None:
        config["early_stopping"] = number("early_stopping", config["early_stopping"])
    if config["negative"] == 0 and config["loss"] != TREE:
        raise ValueError(f"negative=0 must be at least 1 with loss={config['loss']!r}")
    return config


def default_rate(config):
    """Return the learning rate that a model with these arguments begins with."""
    kind = "deterministic" if config["deterministic"] else "skipgram"
    rates = LEARNING_RATES[config["cbow_gradient"] if config["objective"] == "cbow" else kind]
    return rates[config["subword_gradient"] if config["subwords"] else None]


def _max_vocab(value):
    try:
        return integer("max_vocab", value, 1, None)
    except (TypeError, ValueError) as error:
        raise type(error)(f"max_vocab={value!r} must be None or at least 1, an int") from None


def _check_subwords(config):
    if config["subwords"]:
        subwords.check(config["buckets"], config["min_n"], config["max_n"])
        return
    for name, default in SUBWORDS.items():
        if config[name] != default:
            raise ValueError(f"{name}={config[name]!r} changes nothing without subwords=True")


_LOWEST = {
    "vector_size": 1,
    "window": 1,
    "min_count": 1,
    "negative": 0,
    "epochs": 1,
    "min_n": 1,
    "max_n": 1,
    "buckets": 1,
    "num_threads": 0,
    "seed": 0,
}
_FLAGS = ("deterministic", "sampling_correction", "shrink_windows", "subwords")
_CHOICES = {
    "objective": OBJECTIVES,
    "loss": LOSSES,
    "shared_negatives": ("window", None),
    "cbow_gradient": ("exact", "word2vec"),
    "subword_gradient": ("exact", "fasttext"),
    "dtype": ("float32",),
}


def settings_of(config):
    """Return the part of the arguments that an engine needs."""
    tree = config["loss"] == TREE
    skipgram = config["objective"] == "skipgram"
    whole_sentences = config["window"] is None
    return Settings(
        objective=config["objective"],
        loss=config["loss"],
        window=LARGEST if whole_sentences else config["window"],
        negative=0 if tree else config["negative"],
        shared_negatives=skipgram and not tree and config["shared_negatives"] == "window",
        exact_cbow=config["cbow_gradient"] == "exact",
        shrink_windows=config["shrink_windows"] and not whole_sentences,
        exact_subwords=config["subword_gradient"] == "exact",
    )


OPTIONS = ("progress", "callbacks", "epoch_callbacks", "checkpoint", "checkpoint_minutes")
LATER = ("learning_rate", "end_learning_rate", "num_threads")


def check_later(options):
    """Check the options of `resume` and `partial_fit`.

    Returns:
        (options of `loop.train`, number of threads or None, dict of the rates that were given).
    """
    check_options(options, (*OPTIONS, *LATER))
    options = dict(options)
    *rates, threads = (options.pop(name, None) for name in LATER)
    rates = {
        name: number(name, rate, 0)
        for name, rate in zip(LATER[:2], rates, strict=True)
        if rate is not None
    }
    if threads is not None:
        threads = integer("num_threads", threads, 0, LARGEST)
    return options, threads, rates


def check_options(options, known=OPTIONS):
    """Check the options of `fit`, `resume` and `partial_fit`."""
    for name in options:
        if name not in known:
            raise TypeError(f"{name}={options[name]!r} is unknown; allowed are {', '.join(known)}")
    flag("progress", options.get("progress", True))
    number("checkpoint_minutes", options.get("checkpoint_minutes", 1), 0)
    for name in ("callbacks", "epoch_callbacks"):
        given = options.get(name, ())
        if not isinstance(given, list | tuple) or not all(map(callable, given)):
            raise TypeError(f"{name}={given!r} must be a list of functions, such as [function]")
    checkpoint = options.get("checkpoint")
    if checkpoint is None:
        return
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint={checkpoint!r} must be a path")
    check_writable(checkpoint, "checkpoint")  # fail now rather than after hours
