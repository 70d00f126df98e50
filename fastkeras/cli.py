"""The command `fastkeras`."""

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import fastkeras
from fastkeras._engines import DOMAINS, FORCED, UNDER_XLA, engines


def main(arguments=None):
    """Run one command.

    Args:
        arguments: list of strings; None takes those of the process.

    Returns:
        The exit status: 0, or 1 if `doctor` finds that nothing compiled can run here; that of
        the other commands' own `main`.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    parser = argparse.ArgumentParser(
        prog="fastkeras",
        description="Native kernels for Keras 3: structured layers, faster and more exact.",
        epilog="In Python: `from fastkeras.layers import CRF`; `from fastkeras.crf import viterbi`",
    )
    parser.add_argument("--version", action="version", version=f"fastkeras {fastkeras.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "doctor",
        help="tell what is installed, which engines can run here, and why the others cannot",
        description="Tell what is installed, which engines can run here, and why the others "
        "cannot. Put the output into a bug report. The exit status is 1 if nothing compiled runs.",
    )
    commands.add_parser("word2vec", help="train word vectors, and ask and evaluate them")
    commands.add_parser("convert-crf", help="take over the weights of another library's CRF")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["word2vec"]:
        from fastkeras.word2vec.cli import main as word2vec

        return word2vec(arguments[1:])
    if arguments[:1] == ["convert-crf"]:
        from fastkeras.compat.cli import main as convert_crf

        return convert_crf(arguments[1:])
    given = parser.parse_args(arguments)
    if given.command == "doctor":
        return doctor()
    parser.print_help()
    return 0


def doctor():
    """Print versions, the processor's means, and each domain's engines; return the exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its greetings are not the report
    print(f"fastkeras     {fastkeras.__version__}")
    print(f"Python        {platform.python_version()}, {platform.system()} {platform.machine()}")
    for title, names in {
        "NumPy": ["numpy"],
        "Numba": ["numba"],
        "Keras": ["keras"],
        "TensorFlow": ["tensorflow", "tensorflow-cpu", "tf-nightly"],
        "JAX": ["jax"],
        "PyTorch": ["torch"],
    }.items():
        print(f"{title:13} {_version(names) or 'not installed'}")
    states = {domain: engines(domain) for domain in DOMAINS}
    if sys.modules.get("keras"):  # only if an engine could load it
        print(f"Keras backend {sys.modules['keras'].backend.backend()}")
    instruction_set, num_threads = _compiled()
    print(f"instructions  {instruction_set}")
    print(f"threads       {num_threads}")
    if os.environ.get(FORCED):
        print(f"{FORCED}={os.environ[FORCED]}")
    for domain, of_domain in states.items():
        print(f"\n{domain}")
        for engine, state in of_domain.items():
            print(f"  {engine:18} {state}")
    loaded = {domain: sys.modules.get(module) for domain, module in UNDER_XLA.items()}
    if any(loaded.values()):
        print("\ntensorflow_native under XLA, on CPUs")
        for domain, module in loaded.items():
            print(f"  {domain:18} {module.XLA if module else 'not ready outside of it either'}")
    compiled = {"native", "tensorflow_native"}
    return 0 if any(s[e] == "ready" for s in states.values() for e in compiled & s.keys()) else 1


def _version(names):
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _compiled():
    try:
        from fastkeras import _core
    except ImportError:
        return "unknown, fastkeras._core is missing", os.cpu_count()
    return _core.instruction_set(), _core.num_threads()
