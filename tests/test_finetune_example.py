"""The encoder and the data of examples/finetune_minilm.py, without its downloads."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import health_tweets
import minilm

# NumPy 2 warns when Keras on TensorFlow saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CONFIG = minilm.Config(vocabulary=50, positions=12, width=24, heads=3, inner=40, depth=2)
TOKENS = np.array([[7, 3, 49, 12, 5], [9, 9, 1, 0, 0], [4, 0, 0, 0, 0]], np.int32)


def random_weights(config, seed=0):
    """Random weights with the names and the layout of BERT's: (outputs, inputs)."""
    random = np.random.default_rng(seed)
    width, inner = config.width, config.inner
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocabulary, width),
        "embeddings.position_embeddings.weight": (config.positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm": (width,),
    }
    for i in range(config.depth):
        of = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            shapes[f"{of}.attention.self.{name}"] = (width, width)
        shapes[f"{of}.attention.output.dense"] = (width, width)
        shapes[f"{of}.attention.output.LayerNorm"] = (width,)
        shapes[f"{of}.intermediate.dense"] = (inner, width)
        shapes[f"{of}.output.dense"] = (width, inner)
        shapes[f"{of}.output.LayerNorm"] = (width,)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            weights[name] = random.normal(size=shape)
        else:
            scale = 0.3 if len(shape) == 2 else 1.0
            weights[f"{name}.weight"] = random.normal(scale=scale, size=shape)
            weights[f"{name}.bias"] = random.normal(scale=0.3, size=shape[:1])
    return {name: value.astype("float32") for name, value in weights.items()}


def reference(tokens, weights, config):
    """The embedding of each text on its own, in float64, without padding: with loops, no masks."""
    w = {name: value.astype("float64") for name, value in weights.items()}

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    size = config.width // config.heads
    embeddings = []
    for text in tokens:
        text = text[text != 0]
        x = w["embeddings.word_embeddings.weight"][text]
        x = x + w["embeddings.position_embeddings.weight"][: len(text)]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(config.depth):
            of = f"encoder.layer.{i}"
            q, k, v = (dense(x, f"{of}.attention.self.{n}") for n in ("query", "key", "value"))
            mixed = np.zeros_like(x)
            for head in range(config.heads):
                at = slice(head * size, (head + 1) * size)
                scores = np.exp(q[:, at] @ k[:, at].T / math.sqrt(size))
                mixed[:, at] = scores / scores.sum(-1, keepdims=True) @ v[:, at]
            attended = dense(mixed, f"{of}.attention.output.dense")
            x = norm(x + attended, f"{of}.attention.output.LayerNorm")
            y = dense(gelu(dense(x, f"{of}.intermediate.dense")), f"{of}.output.dense")
            x = norm(x + y, f"{of}.output.LayerNorm")
        embeddings.append(x.mean(0))
    return np.array(embeddings)


@pytest.fixture(scope="module")
def model():
    model = minilm.encoder(CONFIG)
    minilm.load_weights(model, random_weights(CONFIG))
    return model


def embed(model, tokens):
    return keras.ops.convert_to_numpy(model(tokens))


def test_the_encoder_is_that_of_bert(model):
    expected = reference(TOKENS, random_weights(CONFIG), CONFIG)
    np.testing.assert_allclose(embed(model, TOKENS), expected, atol=5e-6)


def test_padding_changes_nothing(model):
    padded = np.pad(TOKENS, [(0, 0), (0, 6)])
    np.testing.assert_allclose(embed(model, padded), embed(model, TOKENS), atol=2e-6)


def test_every_weight_is_loaded(model):
    other = minilm.encoder(CONFIG)
    for variable in other.variables:
        if "seed" not in variable.path:
            variable.assign(np.full(variable.shape, np.nan))
    minilm.load_weights(other, random_weights(CONFIG))
    np.testing.assert_array_equal(embed(other, TOKENS), embed(model, TOKENS))


def test_a_classifier_comes_back_from_its_file(model, tmp_path):
    classifier = minilm.classifier(model, 16)
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(embed(loaded, TOKENS), embed(classifier, TOKENS))
    assert embed(loaded, TOKENS).shape == (3, 16)


def test_the_settings_of_the_layered_run_reach_the_variables_they_mean(model):
    training = pytest.importorskip("finetune_training", reason="needs TensorFlow")
    classifier = minilm.classifier(model, 16)
    optimizer = training.optimizer("layered", classifier, 100)
    optimizer.build(classifier.trainable_variables)
    rates, decays, chains = {}, {}, {}
    for i, variable in enumerate(classifier.trainable_variables):
        rates[variable.path] = optimizer.learning_rate_multipliers[i]
        decays[variable.path] = optimizer._decay_of(i, variable)
        chains[variable.path] = optimizer._settings.chains[i]
    assert rates["embeddings/word/embeddings"] == pytest.approx(0.81)
    assert rates["layer_0/query/kernel"] == pytest.approx(0.9)
    assert (rates["layer_1/outer_norm/beta"], rates["head/bias"]) == (1.0, 10.0)
    without = {path.rpartition("/")[2] for path, decay in decays.items() if decay == 0}
    assert without == {"bias", "gamma", "beta"}
    assert {path.partition("/")[0] for path, chain in chains.items() if chain} == {"embeddings"}


@pytest.mark.parametrize(
    ("tweet", "left"),
    [
        ("RT @KHNews: What to know\xa0now http://khne.ws/1g", "What to know now"),
        ("Tests &amp; costs http… via @cnnhealth #GetFit", "Tests & costs via"),
        ("VIDEO: NHS 'must change' bbc.in/1abcD", "VIDEO: NHS 'must change'"),
        ("Reuters: the BBC's cnn.com report", "the report"),
        ("http://t.co/x", ""),
    ],
)
def test_links_handles_tags_and_names_are_taken_out(tweet, left):
    assert health_tweets.clean(tweet) == left


def test_no_text_is_in_two_splits_and_more_training_leaves_the_others_alone():
    outlets = list(health_tweets.OUTLETS)
    tweets = [(str(i), outlets[i % 16], f"Study number {i // 2}: sleep helps") for i in range(600)]
    small = health_tweets.split(tweets, 50, validation=30, test=40)
    large = health_tweets.split(tweets, 100, validation=30, test=40)
    assert [len(part.texts) for part in small] == [50, 30, 40]
    texts = [text for part in large for text in part.texts]
    assert len(set(texts)) == len(texts)
    assert small[1:] == large[1:]
    assert small[0].texts == large[0].texts[:50]
    with pytest.raises(SystemExit, match="1,000 tweets to train on: there are 230"):
        health_tweets.split(tweets, 1000, validation=30, test=40)


def test_another_file_is_refused_with_what_is_wrong(tmp_path):
    path = tmp_path / "healthtweets.zip"
    with pytest.raises(SystemExit, match="is missing"):
        health_tweets.read_tweets(path)
    path.write_bytes(b"PK")
    assert hashlib.sha256(b"PK").hexdigest() != health_tweets.SHA256
    with pytest.raises(SystemExit, match="2 bytes, expected 3,056,910"):
        health_tweets.read_tweets(path)


def test_weights_that_give_other_cosines_are_refused():
    def one_direction(tokens):
        return np.ones((len(tokens), 4))

    with pytest.raises(SystemExit, match=r"1\.000 \(not 0\.257\) for 'Today is a sunny day'"):
        minilm.check(one_direction, lambda texts, length: texts)


def test_help_works_without_the_downloads():
    script = Path(minilm.__file__).with_name("finetune_minilm.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--tweets" in done.stdout and "--epochs" in done.stdout
