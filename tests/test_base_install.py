"""With NumPy and Numba alone, every domain loads and works, and nothing imports Keras.

`make test-base` runs this without Keras and TensorFlow; where they are installed, they are hidden.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastkeras
from fastkeras._engines import AUTOMATIC, DOMAINS

HIDE = """
import sys
for name in ("keras", "tensorflow", "jax", "torch", "ml_dtypes"):
    sys.modules[name] = None
"""


def ran(code):
    """The lines that the code prints in a new process."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(fastkeras.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=900,  # since Numba compiles
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_domains_import_neither_keras_nor_tensorflow():
    code = "import sys; from fastkeras import crf, optimizers, word2vec; print(*sys.modules)"
    (modules,) = ran(code)
    assert "fastkeras.crf" in modules.split()
    assert not {"keras", "tensorflow", "jax", "torch", "numba"} & set(modules.split())


@pytest.mark.parametrize("domain", DOMAINS)
def test_reasons_name_what_is_missing(domain):
    code = f"import fastkeras\nfor e in fastkeras.engines({domain!r}).items(): print(*e, sep=': ')"
    states = dict(line.split(": ", 1) for line in ran(HIDE + code))
    assert list(states) == list(DOMAINS[domain])
    for engine, state in states.items():
        if engine in AUTOMATIC["numpy"]:
            assert state == "ready"
        else:
            named = "No module named '(keras|tensorflow|jax|torch|cupy)': it takes `pip"
            assert re.search(named, state)


CALLS = {
    "crf": """
from fastkeras import crf
x = np.random.default_rng(0).standard_normal((2, 5, 3))
A, y, n = x[0, :3], np.array([[0, 1, 2, 1, 0]] * 2), np.array([5, 3])
show(crf.log_partition(x, A, n, engine=engine))
show(crf.log_likelihood_and_gradients(x, y, A, n, engine=engine)[1].emissions)
show(crf.marginals(x, A, n, engine=engine)[0])
show(crf.viterbi(x, A, n, engine=engine)[0])
show(crf.sample(x, A, n, num_samples=3, seed=1, engine=engine))
show(crf.k_best(x, A, 2, n, engine=engine)[0])
show(crf.entropy(x, A, n, engine=engine))
show(crf.posterior_decode(x, A, n, engine=engine)[0])
show(crf.smoothed_log_likelihood(x, y, A, n, label_smoothing=0.1, engine=engine))
allowed = crf.constraints.allowed("BIO", ["O", "B", "I"]).start
show(crf.log_partition(crf.constraints.restrict(x, allowed), A, n, engine=engine))
show(crf.memm.viterbi(x, A, n)[0])
""",
    "crf.semi_markov": """
from fastkeras.crf import semi_markov
x = np.random.default_rng(0).standard_normal((2, 5, 3))
chain = x, x[0, :3], np.zeros((2, 3)), np.array([5, 3])
show(semi_markov.log_partition(*chain, engine=engine))
show(semi_markov.viterbi(*chain, engine=engine)[0])
""",
    "crf.second_order": """
from fastkeras.crf import constraints, second_order
x = np.random.default_rng(0).standard_normal((2, 5, 3))
rules = constraints.allowed("BIO", ["O", "B", "I"])
chain = x, x[0, :3], np.zeros((3, 3, 3)), np.array([5, 3])
show(second_order.log_partition(*chain, constraints=rules, engine=engine))
show(second_order.viterbi(*chain, engine=engine)[0])
""",
    "optimizers": """
from fastkeras.optimizers import transforms, update
p, g, m, v = (np.full((3, 4), value, "float32") for value in (1, 0.5, 0, 0))
update("adam", [p], [g], [(m, v)], learning_rate=0.1, engine=engine,
       transforms=[transforms.clip_by_global_norm(1.0)])
show(p)
""",
    "word2vec": """
from fastkeras.word2vec import Word2Vec
text = [["red", "green", "blue"] * 3, ["one", "two", "three"] * 3] * 20
options = dict(vector_size=8, min_count=1, sample=0, num_threads=1, seed=3, epochs=2)
model = Word2Vec(engine=engine, **options).fit(text, progress=False)
print(sorted(word for word, _ in model.vectors.most_similar("red", topn=2)))
""",
}


EACH = """
import numpy as np
def show(values):
    print((np.asarray(values).round(6) + 0).tolist())  # + 0: no negative zero
for engine in {engines}:
    print("engine", engine)
    exec({code!r})
"""


@pytest.mark.parametrize("domain", CALLS)
def test_every_engine_for_numpy_arrays_answers(domain):
    engines = [engine for engine in AUTOMATIC["numpy"] if engine in DOMAINS[domain]]
    engines = ["reference", None, *(e for e in engines if e != "reference")]
    printed = "\n".join(ran(HIDE + EACH.format(engines=engines, code=CALLS[domain])))
    _, *answers = re.split(r"engine \w+\n", printed + "\n")
    assert len(answers) == len(engines)
    assert set(answers) == {answers[0]}


def test_doctor_runs():
    code = "from fastkeras.cli import main; status = main(['doctor']); print(status)"
    *printed, status = ran(HIDE + code)
    assert status == "0"
    assert any(line.split() == ["numba", "ready"] for line in printed)
