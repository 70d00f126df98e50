"""The network of the segmentation example, its batches, and a training that can be interrupted."""

import json
import os
import time

import keras
import numpy as np
import peoples_daily as corpus
from keras import layers, ops

from fastkeras.layers import CRF

PAIRS = 131072  # rows of the embedding of character pairs, which are hashed
HEADS = ("softmax", "crf")


def network(vocabulary_size, head, engine=None):
    """Character numbers (batch, steps) → scores of b, m, e, s (batch, steps, 4).

    Padding is set to zero after every layer, so that a sentence gets the same scores in any batch.
    """
    characters = layers.Input((None,), dtype="int32", name="characters")
    mask = ops.not_equal(characters, corpus.PADDING)
    valid = ops.cast(mask, "float32")[..., None]
    before = ops.pad(characters, [[0, 0], [1, 0]])[:, :-1]
    pairs = (before * 7919 + characters) % PAIRS
    x = layers.Embedding(vocabulary_size + 2, 128, name="character")(characters)
    pair = layers.Embedding(PAIRS, 32, name="pair")(pairs)
    pair = layers.Dropout(0.5, noise_shape=(None, None, 1))(pair)  # new text has pairs never seen
    x = layers.Dropout(0.2)(layers.Concatenate()([x, pair])) * valid
    for _ in range(3):
        x = layers.Conv1D(128, 3, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(x) * valid
    x = layers.Dense(len(corpus.TAG_NAMES), name="scores")(x)
    if head == "crf":
        x = CRF(learning_rate_multiplier=10, engine=engine, name="crf")(x, mask=mask)
    return keras.Model(characters, x, name=head)


def compiled(vocabulary_size, head, steps, engine=None, jit_compile="auto"):
    """The network, ready for `fit`; the learning rate falls to zero over `steps`."""
    model = network(vocabulary_size, head, engine)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))
    optimizer.build(model.trainable_variables)  # so that an interrupted training can restore it
    if head == "crf":
        crf = model.get_layer("crf")
        model.compile(optimizer, loss=crf.loss, jit_compile=jit_compile)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss, jit_compile=jit_compile)
    return model


class Batches(keras.utils.PyDataset):
    """Batches of sentences of similar length, padded with 0, in a new order every epoch.

    A batch is (characters, tags, weights). The softmax head takes a weight for each character, 0 at
    padding. The CRF takes one for each sentence, 1 / length; else long ones would dominate.
    """

    def __init__(self, characters, tags, head, characters_in_batch=3200):
        super().__init__()
        self.characters, self.tags, self.head = characters, tags, head
        self.lengths = np.array([len(sentence) for sentence in characters])
        longest_first = np.argsort(-self.lengths, kind="stable")
        self.bounds = batch_bounds(self.lengths[longest_first], characters_in_batch)
        self.random = np.random.default_rng(0)
        self.on_epoch_end()

    def on_epoch_end(self):
        jitter = self.random.uniform(0, 4, len(self.lengths))
        batches = np.split(np.argsort(jitter - self.lengths), self.bounds)
        longest = np.array([self.lengths[members].max() for members in batches])
        order = two_lengths_first(self.random.permutation(len(batches)), longest)
        self.batches = [batches[i] for i in order]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        members = self.batches[index]
        characters = padded([self.characters[i] for i in members])
        tags = padded([self.tags[i] for i in members])
        weights = (characters != corpus.PADDING).astype("float32")
        if self.head == "crf":
            weights = 1 / weights.sum(axis=1)
        return characters, tags, weights


def two_lengths_first(order, lengths):
    """The order of batches, with one of another length than the first as the second.

    Keras takes what the first two batches have in common for the shape of all: if these were
    equally long, it would refuse the first that is not.
    """
    (others,) = np.nonzero(lengths[order] != lengths[order[0]])
    if len(others):
        order[[1, others[0]]] = order[[others[0], 1]]
    return order


def batch_bounds(lengths, characters_in_batch):
    """Where to cut the sentences, longest first, into batches of so many padded characters."""
    bounds, start = [], 0
    for i in range(len(lengths)):
        if i > start and (i - start + 1) * lengths[start] > characters_in_batch:
            bounds.append(i)
            start = i
    return bounds


def padded(arrays):
    result = np.full((len(arrays), max(map(len, arrays))), corpus.PADDING, np.int32)
    for row, array in zip(result, arrays, strict=True):
        row[: len(array)] = array
    return result


def train(head, data, epochs, folder):
    """Return (model with its best weights, list of measurements after every epoch).

    All progress is saved in `folder`: an interrupted training goes on after its last whole epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves_file, best_file = folder / "curves.json", folder / "best.weights.h5"
    curves = json.loads(curves_file.read_text()) if curves_file.exists() else []
    batches = Batches(data.characters, data.tags, head)
    model = compiled(len(data.vocabulary), head, epochs * len(batches))
    decode = decoder(model)

    def keep(epoch, logs):
        segmented, _ = segment(data.validation_texts, data.vocabulary, decode)
        logs["val_f1"] = corpus.score(data.validation, segmented)[2]
        earlier = curves[:epoch]  # an epoch that was interrupted after this point is repeated
        curves[:] = [*earlier, {"loss": float(logs["loss"]), "val_f1": logs["val_f1"]}]
        if logs["val_f1"] >= max(point["val_f1"] for point in curves):
            write(best_file, model.save_weights)
        write(curves_file, lambda path: path.write_text(json.dumps(curves)))

    if len(curves) < epochs:
        keeping = keras.callbacks.LambdaCallback(on_epoch_end=keep)
        backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
        model.fit(batches, epochs=epochs, callbacks=[keeping, backup])
    model.load_weights(best_file)
    return model, curves


def decoder(model):
    """Return a function from character numbers (batch, steps) to tags (batch, steps)."""
    if model.name == "crf":
        decoding = model.get_layer("crf").decode(model)
        return lambda characters: np.asarray(decoding.predict_on_batch(characters))
    return lambda characters: model.predict_on_batch(characters).argmax(-1)


def segment(texts, vocabulary, decode, batch=128):
    """Return (the words of each text, the tags of each sentence)."""
    cut = [corpus.sentences(text) for text in texts]
    numbers = corpus.encode([piece for pieces in cut for piece in pieces], vocabulary)
    tags = [None] * len(numbers)
    by_length = np.argsort([len(sentence) for sentence in numbers])
    for start in range(0, len(by_length), batch):
        members = by_length[start : start + batch]
        for i, row in zip(members, decode(padded([numbers[i] for i in members])), strict=True):
            tags[i] = row[: len(numbers[i])].tolist()
    of_sentences = iter(tags)
    words = [
        corpus.words_of(text, [tag for _ in pieces for tag in next(of_sentences)])
        for text, pieces in zip(texts, cut, strict=True)
    ]
    return words, tags


def step_times(data):
    """Return ({name: median seconds of a training step}, shape of the batch that was timed).

    All get the same batch, of median length. The composites are the CRF made of Keras operations,
    run by TensorFlow, and with the whole model compiled by XLA.
    """
    batch = {head: median_batch(data, head) for head in HEADS}

    def timed(turns, kinds):
        models = {
            name: compiled(len(data.vocabulary), head, 1000, *how)
            for name, (head, *how) in kinds.items()
        }
        seconds = {name: [] for name in kinds}
        for turn in range(turns + 2):  # the first two trace and compile
            for name, (head, *_) in kinds.items():
                start = time.perf_counter()
                models[name].train_on_batch(*batch[head])
                if turn >= 2:
                    seconds[name].append(time.perf_counter() - start)
        return {name: float(np.median(of)) for name, of in seconds.items()}

    taking_turns = {
        "softmax": ("softmax", None, False),
        "fastkeras": ("crf", None, False),
        "composite": ("crf", "keras", False),
    }
    seconds = timed(40, taking_turns) | timed(5, {"composite under XLA": ("crf", "keras", True)})
    return seconds, batch["crf"][0].shape


def median_batch(data, head):
    batches = Batches(data.characters, data.tags, head)
    by_size = sorted(range(len(batches)), key=lambda index: len(batches.batches[index]))
    return batches[by_size[len(by_size) // 2]]


def write(path, save):
    """Call `save` with a temporary name beside `path`, then rename: write all or nothing."""
    temporary = path.with_name(f"partial-{path.name}")
    save(temporary)
    os.replace(temporary, path)
