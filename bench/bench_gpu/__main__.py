"""Measure the kernels on this machine's GPU: python bench/bench_gpu [--json FILE] [DOMAIN ...]."""

import argparse
import importlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # this folder as a package

DOMAINS = ("crf", "optimizers", "word2vec")
PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "pytorch-crf", "numpy")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domains", nargs="*", default=DOMAINS, choices=DOMAINS)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    results = {"machine": machine(), "rows": []}
    for domain in options.domains:
        for row in importlib.import_module(f"bench_gpu.{domain}").rows():
            print(line(row), flush=True)
            results["rows"].append({"domain": domain, **row})
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")


def line(row):
    def text(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return "  ".join(f"{name} {text(value)}" for name, value in row.items() if name != "domain")


def machine():
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(),
        "multiprocessors": properties["multiProcessorCount"],
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "copy_gigabytes_per_second": round(copy_rate()),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := version_of(name))},
    }


def copy_rate():
    """The bytes read and written by a copy within the GPU's memory, 10^9 a second."""
    import cupy

    from bench_gpu.clock import milliseconds

    source = cupy.random.default_rng(0).random(2**28, "float32")
    target = cupy.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: cupy.copyto(target, source)) / 1e6


def version_of(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
