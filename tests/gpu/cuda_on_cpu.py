"""Compiles a file of CUDA kernels for the CPU, plain or under a sanitizer (cuda_on_cpu.h)."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
FOLDER = Path(__file__).parents[2] / "build" / "cuda_on_cpu"
WAYS = {  # -O1 compiles the kernels in a second each, and is fast enough for the small tests
    "plain": ("-O1",),
    "address": ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-g1", "-fsanitize=thread"),
}
COMPILER = os.environ.get("CXX", "g++").split()
WAY = os.environ.get("CUDA_ON_CPU", "plain")  # for the libraries


def has_compiler():
    return sys.platform == "linux" and shutil.which(COMPILER[0]) is not None


def compiled(source, name, way=WAY, options=(), program=False):
    """The path of the library, or program, for a source text; compiles it if it is not cached."""
    command = [
        *COMPILER,
        *(
            "-std=gnu++17",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-pthread",
            *WAYS[way],
            *options,
        ),
        *(() if program else ("-shared", "-fPIC", "-fvisibility=hidden")),
    ]
    key = hashlib.sha256(repr((command, source, HEADER.read_text())).encode()).hexdigest()[:16]
    target = FOLDER / f"{name}-{way}-{key}{'' if program else '.so'}"
    if not target.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        text = target.with_suffix(f".{os.getpid()}.cu")
        made = target.with_suffix(f".{os.getpid()}.o")
        text.write_text(source)
        try:
            subprocess.run(
                [*command, "-include", HEADER, "-x", "c++", text, "-o", made],
                check=True,
                capture_output=True,
                text=True,
            )
            made.replace(target)  # another process may be compiling the same
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{name} does not compile:\n{error.stderr}") from None
        finally:
            text.unlink()
    return target


class Library:
    """The kernels of one file; they are launched with the addresses of their arguments."""

    def __init__(self, source, name, options=()):
        self._launch = ctypes.CDLL(str(compiled(source, name, options=options))).launch_on_cpu
        self._launch.restype = ctypes.c_char_p

    def has(self, kernel):
        return self._launch(kernel.encode(), None, 0, None) is None

    def launch(self, kernel, grid, block, seed, arguments):
        """Raise RuntimeError if threads do not meet at barriers and exchanges as they must."""
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self.launch_at(kernel, grid, block, seed, addresses)

    def launch_at(self, kernel, grid, block, seed, addresses):
        """The same for an array of the arguments' addresses, as cuLaunchKernel takes it."""
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        error = self._launch(kernel.encode(), sizes, seed, addresses)
        if error is not None:
            raise RuntimeError(f"{kernel}: {error.decode()}")
