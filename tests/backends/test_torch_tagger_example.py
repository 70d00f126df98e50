"""examples/torch_tagger.py on a made-up text, and without Keras."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the example is in torch")
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

WORDS = ["我们", "在", "图书馆", "看", "书", "和", "人民日报", "他们", "学习"]


def test_both_heads_learn_to_cut_words(monkeypatch, rng, capsys):
    import peoples_daily
    import torch_tagger

    paragraphs = [[*rng.choice(WORDS, 8).tolist(), "。"] for _ in range(120)]
    monkeypatch.setattr(peoples_daily, "read_paragraphs", lambda: paragraphs)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # in so small a network more would wait for each other
    found = torch_tagger.main(["--paragraphs", "90", "--epochs", "12"])
    torch.set_num_threads(before)
    assert min(found.values()) > 0.9
    assert "word F1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        torch_tagger.main(["--epochs", "0"])


def test_a_step_imports_no_keras():
    code = """
import sys
import numpy as np
import torch_tagger
row = np.array([2, 3, 4], np.int32)
model, _ = torch_tagger.train([row] * 3, [row - 2] * 3, 4, True, 1)
torch_tagger.f1(model, [["我们"]], "我们")
sys.exit("keras" in sys.modules)
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXAMPLES, env=env)
