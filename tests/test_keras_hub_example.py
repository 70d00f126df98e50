"""examples/finetune_keras_hub.py, which continues a training to the same bits."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("keras_hub", reason="keras-hub is not installed")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

# NumPy 2 warns about the way in which Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BERT = ("--model", "bert", "--dtype", "bfloat16", "--moment-bits", "8")
GPT2 = ("--model", "gpt2", "--lora", "2", "--dtype", "mixed_bfloat16")


@pytest.mark.parametrize("arguments", [BERT, GPT2])
def test_a_training_goes_on_to_the_same_bits(arguments, tmp_path, monkeypatch, capsys):
    example = import_module("finetune_keras_hub")
    monkeypatch.setattr(example, "STEPS", 2)
    monkeypatch.setattr(example, "SMALL", {**example.SMALL, "num_layers": 1})

    def run(folder, epochs):
        losses = example.main([*arguments, "--epochs", str(epochs), "--output", str(folder)])
        with np.load(folder / "state.npz") as file:
            return losses, {name: file[name].tobytes() for name in file.files}

    first, after_one = run(tmp_path / "restarted", 1)
    second, restarted = run(tmp_path / "restarted", 2)
    assert "going on after epoch 1" in capsys.readouterr().out
    losses, at_once = run(tmp_path / "at_once", 2)
    assert first + second == losses
    assert restarted == at_once
    assert sum(after_one[name] != at_once[name] for name in at_once) > 10
    assert [path.name for path in (tmp_path / "at_once").iterdir()] == ["state.npz"]
    if "--lora" in arguments:
        return
    with pytest.raises(SystemExit, match="other variables: give another --output"):
        example.main(["--model", "gpt2", "--output", str(tmp_path / "at_once")])
