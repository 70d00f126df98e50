"""The kernels compile for real GPUs with NVRTC, which CuPy uses and which needs no GPU."""

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastkeras

if fastkeras.engines("crf")["cupy"] != "ready":
    pytest.skip(fastkeras.engines("crf")["cupy"], allow_module_level=True)

from fastkeras.crf._engines.cupy.host import KERNELS as CRF
from fastkeras.optimizers._engines.cupy import tables as optimizers
from fastkeras.optimizers.rules import RULES
from fastkeras.word2vec._engines.cupy import KERNELS as WORD2VEC

KERNELS = {f"crf-{dtype}-{room}": kernels for (dtype, room), kernels in CRF.items()}
for (objective, wide), kernels in WORD2VEC.items():
    KERNELS[f"word2vec-{objective}{'-wide' if wide else ''}"] = kernels
KERNELS |= {
    f"{rule}-float32": optimizers.step_kernels(rule, "float32", "float32", "Plain", 200)
    for rule, row in RULES.items()
    if row.has_kernel
}
KERNELS |= {
    f"adam-{parameter}-{gradient}-{slots}": optimizers.step_kernels(
        "adam", parameter, gradient, slots, 200
    )
    for parameter, gradient, slots in (
        ("float64", "float64", "Plain"),
        ("bfloat16", "bfloat16", "Plain"),
        ("float16", "float32", "Plain"),
        ("float32", "float32", "Codes"),
        ("bfloat16", "bfloat16", "Codes"),
        ("float32", "float32", "Bfloat16"),
    )
}
KERNELS |= {f"norms-{x}": optimizers.norm_kernels(x, x, 200) for x in ("float32", "bfloat16")}
KERNELS["factors"] = optimizers.factor_kernels(200)
CASES = [
    (name, "sm_90") for name in KERNELS
]  # for other GPUs, the kernels that need the most registers, and those that are used most
FOR_MORE = (
    *("crf-float32-32", "crf-float64-128", "word2vec-window", "word2vec-pairs-wide"),
    *("adam-float32", "centered_rmsprop_momentum-float32", "adam-float64-float64-Plain"),
    *("adam-bfloat16-bfloat16-Codes", "norms-float32"),
)
CASES += [(name, sm) for name in FOR_MORE for sm in ("sm_80", "sm_100")]
MOST_REGISTERS = 255


def nvrtc():
    """The library from the wheel nvidia-cuda-nvrtc, or None."""
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.1[0-9]")):
            return ctypes.CDLL(str(path))
    return None


NVRTC = nvrtc()


def compiled(code, options):
    """The log of the compiler; if it fails, raise an error with the log."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    NVRTC.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    texts = [option.encode() for option in options]
    failed = NVRTC.nvrtcCompileProgram(program, len(texts), (ctypes.c_char_p * len(texts))(*texts))
    NVRTC.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    NVRTC.nvrtcGetProgramLog(program, log)
    NVRTC.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
    return log.value.decode()


@pytest.mark.skipif(NVRTC is None, reason="pip install nvidia-cuda-nvrtc, for Linux")
@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_the_kernels_compile_and_spill_no_register(name, architecture):
    kernels = KERNELS[name]
    log = compiled(kernels.code, (*kernels.options, f"-arch={architecture}", "--ptxas-options=-v"))
    used = {}
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found[1]
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            assert found.groups() == ("0", "0"), f"{kernel} spills registers: {line}"
        elif found := re.search(r"Used (\d+) registers", line):
            used[kernel] = int(found[1])
    print(name, architecture, used)  # shown by pytest -s
    defined = set(re.findall(r"FASTKERAS_KERNEL\((\w+)\);", kernels.code))
    assert set(used) == defined and max(used.values()) < MOST_REGISTERS
