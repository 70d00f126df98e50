"""What can happen to the kernels' threads: exceptions, forks, exits, refused memory and threads.

Each case runs in a process of its own, since such a fault ends the process or makes it hang.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

core = pytest.importorskip("fastkeras._core")

CALLS = """
import ctypes, os, signal, sys, threading, time
import numpy as np
from fastkeras import _core

rng = np.random.default_rng(0)
batch, steps, tags = 24, 60, 7
emissions = rng.standard_normal((batch, steps, tags)).astype("f4")
transitions = rng.standard_normal((tags, tags)).astype("f4")
lengths = np.full(batch, steps, "i4")
ends = rng.standard_normal((2, tags)).astype("f4")
path = rng.integers(0, tags, (batch, steps)).astype("i4")
far = transitions.copy(); far[0, 1:] = -1e4  # for the exact path, which allocates
weights = np.ones(batch, "f4")
durations = np.zeros((4, tags), "f4")
uniforms = rng.random((3, batch, steps)).astype("f4")
text = b" ".join(b"%d" % number for number in rng.integers(0, 999, 20_000))
spare = None

def words():
    counter = _core.WordCounter() if spare is None else spare
    counter.add(text, _core.num_threads())
    return counter.words(1)

chain = lengths, None, *ends
calls = {
    "likelihood": lambda: _core.crf_value_and_gradient(
        emissions, path, transitions, *chain, weights, 2
    ),
    "exact likelihood": lambda: _core.crf_value_and_gradient(
        100 * emissions, path, far, *chain, weights, 2
    ),
    "marginals": lambda: _core.crf_marginals(emissions, transitions, *chain),
    "viterbi": lambda: _core.crf_viterbi(emissions, transitions, *chain),
    "k best": lambda: _core.crf_k_best(emissions, transitions, *chain, 3),
    "sample": lambda: _core.crf_sample(emissions, transitions, *chain, uniforms),
    "segments": lambda: _core.semi_markov_marginals(
        emissions, transitions, durations, lengths, *ends
    ),
    "words": words,
}

def same(result, expected):
    if isinstance(expected, tuple):
        return all(map(same, result, expected))
    return np.array_equal(result, expected)

def all_as(expected):
    return all(same(call(), expected[name]) for name, call in calls.items())

def threads():
    return len(os.listdir("/proc/self/task"))

_core.set_worth_a_thread(0)
_core.set_num_threads(1)
expected = {name: call() for name, call in calls.items()}
_core.set_num_threads(3)
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and LD_PRELOAD are Linux's")


def run(script, seconds=60, preload=None):
    """Run `CALLS` and then the script; return what it printed."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    if preload:
        environment["LD_PRELOAD"] = str(preload)
    done = subprocess.run(
        [sys.executable, "-c", CALLS + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Compile the library that refuses memory and threads on demand."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("preload") / "refusals.so"
    source = Path(__file__).parent / "csrc" / "refusals.cc"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    return library


@linux
def test_a_thousand_forks_while_threads_are_in_kernels_leave_every_child_able_to_compute():
    printed = run(
        """
def work():
    while True:
        for call in calls.values():
            call()

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
names = list(calls)
for fork in range(1000):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs
        name = names[fork % len(names)]
        os._exit(0 if same(calls[name](), expected[name]) and threads() > 1 else 1)
    assert os.waitpid(child, 0)[1] == 0, fork
print("forked")
sys.stdout.flush()
os._exit(0)
""",
        seconds=120,
    )
    assert printed == "forked\n"


@pytest.mark.parametrize("attempt", range(3))
def test_python_ends_quietly_while_daemon_threads_are_in_kernels(attempt):
    printed = run(
        """
def work(call):
    while True:
        call()

for call in calls.values():
    threading.Thread(target=work, args=(call,), daemon=True).start()
time.sleep(0.2)
print("ends")
"""
    )
    assert printed == "ends\n"


@linux
def test_wherever_memory_ends_a_call_raises_memory_error_and_the_next_is_right(refusals):
    printed = run(
        """
machine = ctypes.CDLL(os.environ["LD_PRELOAD"])
machine.stop_refusing_memory.restype = ctypes.c_bool
raised = dict.fromkeys(calls, 0)
for name, call in calls.items():
    for allocation in range(10_000):
        spare = _core.WordCounter()  # to make one without memory is a matter of pybind11
        machine.refuse_memory(ctypes.c_long(allocation))
        try:
            result = call()
        except (MemoryError, RuntimeError):  # pybind11 says so of a bytes object
            result = None
        refused = machine.stop_refusing_memory()
        spare = None
        if result is None:
            raised[name] += 1
        else:
            assert same(result, expected[name]), (name, allocation)
        if not refused:
            break
        if allocation % 50 == 0:
            assert same(call(), expected[name]), (name, allocation)
    assert not refused
    assert same(call(), expected[name]), name
assert all_as(expected)
print(*(count > 2 for count in raised.values()))
""",
        preload=refusals,
    )
    assert set(printed.split()) == {"True"}


@linux
def test_without_threads_the_caller_does_all_and_later_gets_those_there_are(refusals):
    printed = run(
        """
machine = ctypes.CDLL(os.environ["LD_PRELOAD"])
machine.refuse_threads(ctypes.c_bool(True))
before = threads()
assert all_as(expected)
assert threads() == before
machine.refuse_threads(ctypes.c_bool(False))
time.sleep(1.1)
assert all_as(expected)
assert threads() == before + 2
machine.refuse_threads(ctypes.c_bool(True))
_core.set_num_threads(8)
assert all_as(expected)
assert threads() == before + 2
print("right")
""",
        preload=refusals,
    )
    assert printed == "right\n"


@linux
def test_no_address_space_is_a_memory_error_or_a_right_result_and_no_crash():
    printed = run(
        """
import resource
_, most = resource.getrlimit(resource.RLIMIT_AS)
used = 4096 * int(open("/proc/self/statm").read().split()[0])
for mebibytes in (400, 64, 8, 3, 1, 0):
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), most))
    for name, call in calls.items():
        try:
            assert same(call(), expected[name]), name
        except MemoryError:
            assert mebibytes < 400
resource.setrlimit(resource.RLIMIT_AS, (most, most))
assert all_as(expected)
print("right")
"""
    )
    assert printed == "right\n"


@linux
def test_a_process_on_one_processor_starts_no_thread():
    printed = run(
        """
_core.set_num_threads(0)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before = threads()
assert _core.num_threads() == 1
assert all_as(expected)
assert threads() == before
print("right")
"""
    )
    assert printed == "right\n"


@linux
def test_a_problem_that_one_thread_solves_sooner_starts_no_other():
    printed = run(
        """
def viterbi(batch, steps, tags):
    scores = rng.standard_normal((batch, steps, tags)).astype("f4")
    none = np.zeros(tags, "f4")
    _core.crf_viterbi(
        scores, np.zeros((tags, tags), "f4"), np.full(batch, steps, "i4"), None, none, none
    )
    return threads()

_core.set_worth_a_thread(100e3)
_core.set_num_threads(2)
before = threads()
assert viterbi(32, 128, 9) == before
assert viterbi(64, 4096, 9) == before + 1
print("right")
"""
    )
    assert printed == "right\n"
