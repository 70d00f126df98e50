"""`slots_on_disk`: slots in a file have the bits of slots in memory, and leave nothing behind."""

import errno
import os
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from fastkeras.optimizers import slots_on_disk, update
from fastkeras.optimizers.rules import RULES

DTYPES = (np.float64, np.float32, ml_dtypes.bfloat16)
SHAPES = ((30, 20), (), (0, 3), (7,))


@pytest.mark.parametrize("rule", [name for name, row in RULES.items() if row.has_kernel])
def test_the_bits_are_those_of_slots_in_memory(rule, rng, tmp_path):
    ours = [rng.normal(size=shape).astype(dtype) for shape in SHAPES for dtype in DTYPES]
    theirs = [parameter.copy() for parameter in ours]
    on_disk = slots_on_disk(rule, ours, tmp_path)
    names, starts = RULES[rule].slots, RULES[rule].starts
    in_memory = [
        tuple(
            parameter.astype(slot.dtype) if name in starts else np.zeros_like(slot)
            for name, slot in zip(names, slots, strict=True)
        )
        for parameter, slots in zip(ours, on_disk, strict=True)
    ]
    for one, another in zip(on_disk, in_memory, strict=True):
        assert [slot.tobytes() for slot in one] == [slot.tobytes() for slot in another]
    more = {"u_product": 0.9} if rule == "nadam" else {}
    for step in (1, 2):
        gradients = [rng.normal(size=p.shape).astype(p.dtype) for p in ours]
        for parameters, slots in ((ours, on_disk), (theirs, in_memory)):
            update(rule, parameters, gradients, slots, learning_rate=0.1, step=step, **more)
    for one, another in zip(ours, theirs, strict=True):
        assert one.tobytes() == another.tobytes()
    for one, another in zip(on_disk, in_memory, strict=True):
        assert [slot.tobytes() for slot in one] == [slot.tobytes() for slot in another]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bits", "narrow"), [(16, ["bfloat16"] * 2), (8, ["uint8", "float32"] * 2)]
)
def test_narrow_slots_on_disk(bits, narrow, rng, tmp_path):
    ours = [rng.normal(size=s).astype(d) for s in ((80, 60), (7,)) for d in DTYPES]
    theirs = [parameter.copy() for parameter in ours]
    on_disk = slots_on_disk("adam", ours, tmp_path, moment_bits=bits)
    wide = ["float32"] * 2
    expected = [["float64"] * 2, narrow, narrow, ["float64"] * 2, wide, wide]
    assert [[slot.dtype.name for slot in slots] for slots in on_disk] == expected
    in_memory = [tuple(np.zeros_like(slot) for slot in slots) for slots in on_disk]
    gradients = [rng.normal(size=p.shape).astype(p.dtype) for p in ours]
    for parameters, slots in ((ours, on_disk), (theirs, in_memory)):
        update("adam", parameters, gradients, slots, learning_rate=0.1, step=1)
    for one, another in zip((ours, *on_disk), (theirs, *in_memory), strict=True):
        assert [array.tobytes() for array in one] == [array.tobytes() for array in another]


def test_a_full_disk_is_an_error_before_anything_is_trained(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"folder: 8,192 bytes are needed.*No space left"):
        slots_on_disk("adam", [np.ones(1024, "float32")], tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"rule must be one of sgd, .*got 'adm'"):
        slots_on_disk("adm", [], tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        slots_on_disk("adam", [np.ones(3)], tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"moment_bits=8 is for the rules .* not adagrad"):
        slots_on_disk("adagrad", [np.ones(3)], tmp_path, moment_bits=8)
    assert slots_on_disk("sgd", [np.ones(3)], tmp_path) == [()]


def test_a_killed_process_leaves_no_file(tmp_path):
    program = (
        "import os, signal, sys, numpy as np; from fastkeras.optimizers import slots_on_disk\n"
        "slots = slots_on_disk('adam', [np.ones(9999)], sys.argv[1])\n"
        "slots[0][0][:] = 1; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())
