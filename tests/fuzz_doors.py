"""Make mutated calls of every function of `fastkeras._core`; each must return, or raise an error.

    python tests/fuzz_doors.py [--cases 100000] [--seconds 240] [--seed 0] [--only NAME]

A case is a correct, small call in which one to three arguments were changed: in shape, dtype,
strides, values or type. Its result does not matter, but the process must survive, and under the
address sanitizer (`make sanitize`) nothing outside an array may be accessed. A case depends on the
seed and its number only, so that a failure can be repeated alone: `--first NUMBER --cases 1`.
"""

import argparse
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress

import numpy as np

from fastkeras import _core
from fuzzing import crf, machine, optimizers, seq2seq, word2vec
from fuzzing.mutations import mutated

A_CHUNK = 500  # cases for one child process
CHUNK_SECONDS = 60  # after which a child is considered to hang

CALLS = {
    name: call
    for module in (crf, optimizers, seq2seq, word2vec, machine)
    for name, call in module.CALLS.items()
}
COVERED = {"set_worth_a_thread", "set_instruction_set", "Word2VecTables"}  # called by the others
WITHOUT_ARGUMENTS = {"instruction_set", "num_threads", "optimizer_rules", "optimizer_transforms"}


# What NumPy raises if a mutation does not fit an earlier one; RuntimeError for dates.
UNFIT = (TypeError, ValueError, OverflowError, RuntimeError)


def case(seed, number, only=None):
    """Return the function and the arguments of a case, from the seed and the number."""
    rng = np.random.default_rng((seed, number))
    name = only or list(CALLS)[number % len(CALLS)]
    function, arguments = CALLS[name](rng)
    names = list(arguments)
    for _ in range(rng.integers(1, 4)):
        chosen = names[rng.integers(len(names))]
        with suppress(*UNFIT):
            arguments[chosen] = mutated(rng, arguments[chosen], arguments)
    return name, function, arguments


def run(seed, numbers, only, at):
    """Run cases; the number of the current one is written to the file `at`."""
    outcomes = Counter()
    warnings.simplefilter("ignore")
    for number in numbers:
        os.pwrite(at, struct.pack("q", number), 0)
        name, function, arguments = case(seed, number, only)
        try:
            function(**arguments)
            outcomes[name, "returned"] += 1
        except Exception as error:
            outcomes[name, type(error).__name__] += 1
    return outcomes


def in_child(seed, numbers, only, at):
    """Run cases in a forked child; return their outcomes, or how the child ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(CHUNK_SECONDS)
        outcomes = run(seed, numbers, only, at)
        with os.fdopen(writing, "w") as pipe:
            pipe.write(repr(dict(outcomes)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        printed = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (Counter(eval(printed)), 0) if status == 0 else (Counter(), status)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=CALLS)
    arguments = parser.parse_args()

    names = [name for name in dir(_core) if not name.startswith("__")]
    doors = {name for name in names if callable(getattr(_core, name))}
    left_out = doors - CALLS.keys() - COVERED - WITHOUT_ARGUMENTS
    assert not left_out, f"no calls of {sorted(left_out)}"
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # the sanitizer sets its own limit
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
    _core.set_worth_a_thread(0)
    _core.set_num_threads(2)

    outcomes, failures, done, start = Counter(), [], 0, time.monotonic()
    with tempfile.TemporaryFile() as file:
        at = file.fileno()
        number, last = arguments.first, arguments.first + arguments.cases
        while number < last and time.monotonic() - start < arguments.seconds:
            numbers = range(number, min(number + A_CHUNK, last))
            found, status = in_child(arguments.seed, numbers, arguments.only, at)
            outcomes += found
            number = numbers.stop
            if status:
                bad = struct.unpack("q", os.pread(at, 8, 0))[0]
                failures.append(bad)
                name, _, values = case(arguments.seed, bad, arguments.only)
                print(f"case {bad} of seed {arguments.seed} ended with {status}: {name}({values})")
                if len(failures) == 20:
                    break
                number = bad + 1
            done = number - arguments.first
    for name in CALLS:
        of_name = {what: count for (n, what), count in outcomes.items() if n == name}
        print(f"{name:26}", *(f"{what} {count}" for what, count in sorted(of_name.items())))
    seconds = time.monotonic() - start
    print(f"{done} cases in {seconds:.0f} s, {len(failures)} ended the process")
    return 1 if failures or not done else 0


if __name__ == "__main__":
    sys.exit(main())
