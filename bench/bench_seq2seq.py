"""Beam search: one step, whole searches, and a transformer's, ours and others'; checked first.

`python -m pytest bench/bench_seq2seq.py` takes about three minutes. What is not installed is a skip
with its reason, which `-rs` shows.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import seq2seq_decoders as decoders

from fastkeras.bench import seq2seq as steps

SHAPE = (32, 4, 8192)  # sentences, beams, vocabulary
SECONDS = 2.0  # of timed rounds for a provider of a step
ROUNDS = 7  # of whole searches, in turns
LONGEST = 64  # tokens of the transformer
problems, first = {}, {}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # between peers


@pytest.mark.parametrize("provider", steps.PROVIDERS)
def test_select(benchmark, records, quick, provider):
    if "select" not in problems:
        problems["select"] = steps.draw(*SHAPE)
    problem = problems["select"]
    try:
        call = steps.PROVIDERS[provider](problem)
        found = call()  # compiles
    except ImportError as error:
        pytest.skip(str(error))
    errors = steps.check(problem, found)
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    rounds = int(np.clip(SECONDS / (10 if quick else 1) / once, 5, 400))
    benchmark.group = f"select {'×'.join(map(str, SHAPE))}"
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=3)
    row = percentiles(benchmark.stats.stats.data) | {"rounds": rounds, **errors}
    benchmark.extra_info.update(row)
    records.setdefault("select", {"shape": SHAPE})[provider] = row


def test_whole_searches(records, quick):
    """A GRU decoder: 32 steps, all providers in turns, with the same sequences."""
    problem = decoders.draw()
    calls = {name: make(problem) for name, make in decoders.PROVIDERS.items()}
    found = {name: call() for name, call in calls.items()}
    errors = {name: decoders.check(problem, of_name) for name, of_name in found.items()}
    for name, of_name in found.items():
        share = decoders.same(of_name, found["fastkeras"])
        assert share > 0.9, f"{name} finds {share:.0%} of the sequences"
        errors[name]["same"] = share
    rows = in_turns(calls, 2 if quick else ROUNDS)
    scale = len(problem.encoded) / decoders.ARTICLES
    for key in ("p20", "median", "p80"):
        rows["article"][key] *= scale
    rows["article"]["scaled_by"] = scale
    records["gru"] = {"steps": decoders.STEPS, "beams": decoders.BEAMS, "vocabulary": 8192} | {
        name: row | errors[name] for name, row in rows.items()
    }


@pytest.mark.parametrize("beams", (1, 2, 4, 8))
def test_steps_of_a_transformer(records, quick, beams):
    """The time of each step, and what reordering the caches would add to it."""
    import keras
    import tensorflow as tf

    from fastkeras.layers import TransformerDecoder
    from fastkeras.seq2seq import BeamSearch

    keras.utils.set_random_seed(0)
    batch, size = (8 if quick else 32), 256
    decoder = TransformerDecoder(8192, size, num_heads=4, num_layers=2)
    encoded = np.random.default_rng(0).standard_normal((batch, 40, size), np.float32)
    decoder(np.full((batch, 1), decoders.START), encoded)
    graph, seconds = tf.function(decoder.step), []

    def step(tokens, states, context, ancestry):
        start = time.perf_counter()
        to_come = [[0, 0], [0, 0], [0, LONGEST + 1 - ancestry.shape[2]]]
        ancestry = tf.pad(ancestry, to_come, constant_values=-1)  # one shape, so one graph
        logits, *rest = graph(tokens, states, context, ancestry)
        np.asarray(logits)
        seconds.append(time.perf_counter() - start)
        return logits, *rest

    search = BeamSearch(
        decoders.END, num_beams=beams, min_length=LONGEST, max_length=LONGEST,
        suppressed=(0, 1, decoders.START),
    )  # fmt: skip
    runs = []
    for _ in range(2 if quick else 4):  # the first compiles
        seconds.clear()
        states, context = decoder.begin(tf.constant(encoded), num_beams=beams, max_length=LONGEST)
        found = search(step, states, context, start=decoders.START)
        runs.append(seconds.copy())
    assert np.isfinite(np.asarray(found.scores)).all()
    cache = tf.zeros((batch, beams, LONGEST, size))
    parents = tf.constant(np.random.default_rng(0).integers(0, beams, (batch, beams)))
    gather = tf.function(lambda: [tf.gather(cache, parents, batch_dims=1) for _ in range(4)])
    reordering = in_turns({"gather": gather}, 5 if quick else 20)["gather"]["median"]
    records.setdefault("transformer", {})[str(beams)] = {
        "steps": np.min(runs[1:], axis=0).tolist(),  # seconds, the best of the runs
        "reordering": reordering,
    }


def test_against_generate(records, quick):
    """In a process of its own, since Keras takes one backend in a process."""
    script = Path(__file__).with_name("seq2seq_transformers.py")
    environment = os.environ | {"KERAS_BACKEND": "torch", "HF_HUB_OFFLINE": "1"}
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "1" if quick else "5"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    rows = json.loads(run.stdout.splitlines()[-1])
    assert rows["transformers"]["same"] == 1, rows
    records["generate"] = rows


def in_turns(calls, rounds):
    """Time all calls once in each round, so that other load on the machine affects all alike."""
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: percentiles(values) for name, values in seconds.items()}


def percentiles(seconds):
    values = np.percentile(seconds, (20, 50, 80)).tolist()
    return dict(zip(("p20", "median", "p80"), values, strict=True))
