"""The network that writes headlines, its training, and its search for titles."""

import keras
import numpy as np
from headline_pairs import Words
from keras import layers
from rouge_score.rouge_scorer import RougeScorer

from fastkeras.callbacks import Evaluate, PrintSamples, RichProgress
from fastkeras.layers import AttentionDecoder
from fastkeras.losses import SequenceCrossentropy
from fastkeras.optimizers import AdamW
from fastkeras.seq2seq import BeamSearch, sequence_padding
from fastkeras.seq2seq.vocabulary import END, PADDING, START, UNKNOWN

BATCH, RATE, SMOOTHING = 32, 3e-3, 0.1
NEVER = (PADDING, UNKNOWN, START)
GREEDY = BeamSearch(END, num_beams=1, max_length=40, suppressed=NEVER)
BEAMS = BeamSearch(
    END, num_beams=4, max_length=40, length_penalty=1.0, no_repeat_ngram=2, suppressed=NEVER
)


def network(vocabulary_size, size, copy_prior):
    """A functional model: (body, title from the start token on) → logits of the next characters."""
    body = keras.Input((None,), dtype="int32", name="body")
    title = keras.Input((None,), dtype="int32", name="title")
    # as large as the numbers inside of the network; Keras' own initial ones are much smaller
    initial = keras.initializers.RandomNormal(stddev=1.0)
    embedding = layers.Embedding(vocabulary_size, size, initial, mask_zero=True, name="characters")
    x = layers.Dropout(0.2)(embedding(body))
    reader = layers.GRU(size, return_sequences=True)
    x = layers.Bidirectional(reader, name="reader")(x)
    x = layers.Dropout(0.2, name="encoded")(x)
    cell = layers.GRUCell(2 * size, dropout=0.2)
    decoder = AttentionDecoder(
        vocabulary_size, cell, 2 * size, embedding, copy_prior, name="decoder"
    )
    return keras.Model([body, title], decoder(title, x, body if copy_prior else None))


class Writer:
    """A trained model with its vocabulary: it writes titles, and shows what it looked at."""

    def __init__(self, model, vocabulary, longest):
        self.model, self.vocabulary, self.longest = model, vocabulary, longest
        self.decoder = model.get_layer("decoder")
        self.encoder = keras.Model(model.inputs[0], model.get_layer("encoded").output)

    def titles(self, bodies, search=BEAMS):
        """Return a title for each text."""
        found = []
        for i in range(0, len(bodies), BATCH):
            tokens, encoded, source = self._read(bodies[i : i + BATCH])
            begun = self.decoder.begin(encoded, source, encoded_mask=tokens != PADDING)
            hypotheses = search(self.decoder.step, *begun, start=START)
            pairs = zip(hypotheses.tokens, hypotheses.lengths, strict=True)
            found += [self.vocabulary.decode(t[0, : n[0]]) for t, n in pairs]
        return found

    def attention(self, body, title):
        """Return the weights (characters of the title and the end, characters of the body)."""
        tokens, encoded, source = self._read([body])
        given = self.vocabulary.encode(title, ends=True)[None, :-1]
        return np.asarray(self.decoder.attention(given, encoded, source, tokens != PADDING))[0]

    def _read(self, bodies):
        cut = [self.vocabulary.encode(body[: self.longest]) for body in bodies]
        tokens = sequence_padding(cut)
        encoded = self.encoder(tokens, training=False)
        return tokens, encoded, tokens if self.decoder.copy_prior is not None else None


def train(phases, validation, vocabulary, size, longest, copy_prior, shown):
    """Return (a `Writer`, the ROUGE-L of the validation articles by epoch of the last phase).

    Args:
        phases: (pairs, epochs) one after the other; each has a rate of its own that falls to zero.
            The weights are those of the last phase's best epoch.
        copy_prior: that of `AttentionDecoder`.
        shown: texts whose titles are printed after each epoch.
    """
    keras.utils.set_random_seed(0)
    model = network(len(vocabulary), size, copy_prior)
    writer = Writer(model, vocabulary, longest)

    def score(_, pairs):
        found = writer.titles([pair.body for pair in pairs], GREEDY)
        return rouge_l(found, [pair.title for pair in pairs])

    samples = PrintSamples(lambda _: [f"    {title}" for title in writer.titles(shown)])
    evaluate = Evaluate(score, validation, monitor="rouge_l", keep_best=True)
    for number, (pairs, epochs) in enumerate(phases, 1):
        bodies = sequence_padding([vocabulary.encode(pair.body[:longest]) for pair in pairs])
        titles = sequence_padding([vocabulary.encode(pair.title, ends=True) for pair in pairs])
        steps = epochs * -(-len(bodies) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
        model.compile(AdamW(rate, global_clipnorm=1.0), SequenceCrossentropy(SMOOTHING))
        history = model.fit(
            [bodies, titles[:, :-1]],
            titles[:, 1:],
            batch_size=BATCH,
            epochs=epochs,
            callbacks=[*([evaluate] if number == len(phases) else []), samples, RichProgress()],
            verbose=0,
        ).history
    return writer, history["rouge_l"]


def copied(found, bodies):
    """The share of titles that stand in their articles as they are."""
    return float(np.mean([title in body for title, body in zip(found, bodies, strict=True)]))


def rouge_l(found, titles):
    """The mean F of ROUGE-L."""
    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    pairs = zip(titles, found, strict=True)
    return float(np.mean([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs]))
