"""The emulation of CUDA finds all planted faults, and none in a correct kernel."""

import subprocess
from pathlib import Path

import pytest

from gpu.cuda_on_cpu import WAYS, compiled, has_compiler

SOURCE = Path(__file__).with_name("planted_faults.cu")
SOUND = "1520 496 1520 496" + 124 * " 0"
MEETING = "not all threads reach the same barrier"
FOUND = {  # kernel: the build that finds its fault, and the message
    "divergent_barrier": ("plain", "__syncthreads after 24 threads have returned"),
    "divergent_shuffle": ("plain", f"{MEETING}; thread 0 waits at __shfl_xor_sync"),
    "shuffle_from_no_one": ("plain", "lane 0 reads lane 16, which takes no part"),
    "out_of_bounds": ("address", "heap-buffer-overflow"),
    "out_of_a_local_array": ("address", "stack-buffer-overflow"),
    "missing_syncwarp": ("plain", "nan"),
    "missing_syncthreads": ("thread", "data race"),
    "add_without_atomic": ("thread", "data race"),
    "two_blocks_at_one_place": ("thread", "data race"),
    "shared_memory_never_written": ("plain", "nan"),
}
pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs Linux and a C++ compiler")


def run(kernel, way, seed=0):
    program = compiled(SOURCE.read_text(), SOURCE.stem, way, program=True)
    return subprocess.run([program, kernel, str(seed)], capture_output=True, text=True)


@pytest.mark.parametrize("seed", (0, 1, 2))
@pytest.mark.parametrize("way", WAYS)
def test_a_sound_kernel_passes_in_every_order(way, seed):
    done = run("sound", way, seed)
    assert (done.returncode, done.stdout.strip()) == (0, SOUND), done.stderr


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("kernel", FOUND)
def test_a_planted_fault_is_found(kernel, seed):
    way, words = FOUND[kernel]
    done = run(kernel, way, seed)
    assert words in done.stdout + done.stderr
    assert done.returncode or words == "nan"


def test_an_order_changes_what_two_blocks_at_one_place_leave():
    assert len({run("two_blocks_at_one_place", "plain", seed).stdout for seed in range(9)}) == 2
