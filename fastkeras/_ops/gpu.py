"""What `fastkeras doctor` tells of GPUs: what there is, what answers, and what mends the rest."""

import sys
from ctypes import CDLL, byref, c_int, create_string_buffer
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pkgutil import iter_modules

from fastkeras._engines import engine_of_family, name_of

LEAST_CAPABILITY = (8, 0)  # for which the kernels are written
CAPABILITY = 75, 76  # the driver's numbers of these attributes of a device
FAMILIES = {  # arrays on a GPU: their family, and the package that has to be installed
    "CuPy arrays": ("cupy", "cupy"),
    "torch tensors": ("torch_elsewhere", "torch"),
    "JAX arrays": ("jax_elsewhere", "jax"),
    "TensorFlow tensors": ("tensorflow", "tensorflow"),
}


def has_cuda_plugin():
    """Whether JAX's part for CUDA is installed, without asking JAX, which would take the GPU."""
    spec = find_spec("jax_plugins")  # a folder that packages share
    folders = spec.submodule_search_locations if spec else ()
    names = [module.name for module in iter_modules(folders)]
    return any("cuda" in name for name in names) or any(
        find_spec(f"jax_cuda{version}_plugin") for version in (12, 13, 14)
    )


def report():
    """A dict of what is there, one of what answers in `crf`, and a list of problems."""
    driver = _driver()
    found = {"driver": driver["state"]}
    for number, (name, capability) in enumerate(driver["gpus"]):
        found[f"GPU {number}"] = f"{name}, compute capability {'.'.join(map(str, capability))}"
    cupy = _cupy()
    found |= {"CuPy": cupy["state"], "NVRTC": cupy["nvrtc"]}
    answers = {} if not driver["gpus"] else {title: _answering(title) for title in FAMILIES}
    return found, answers, list(_problems(driver, cupy))


def _driver():
    """What NVIDIA's driver says, which needs no other package."""
    found = {"state": "none: libcuda.so.1 is not found", "cuda": None, "gpus": []}
    try:
        library = CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return found
    number, count = c_int(), c_int()
    error = library.cuInit(0)
    library.cuDriverGetVersion(byref(number))
    found["cuda"] = number.value // 1000, number.value % 1000 // 10
    found["state"] = f"for CUDA {found['cuda'][0]}.{found['cuda'][1]}"
    if error or library.cuDeviceGetCount(byref(count)):
        found["state"] += f"; it finds no GPU (error {error} of cuInit)"
        return found
    for device in range(count.value):
        name, handle = create_string_buffer(100), c_int()
        library.cuDeviceGet(byref(handle), device)
        library.cuDeviceGetName(name, len(name), handle)
        capability = []
        for attribute in CAPABILITY:
            library.cuDeviceGetAttribute(byref(number), attribute, handle)
            capability.append(number.value)
        found["gpus"].append((name.value.decode(errors="replace"), tuple(capability)))
    return found


def _cupy():
    """CuPy's state, the CUDA that it is compiled for, and its compiler's version."""
    found = {"state": "not installed", "distribution": None, "cuda": None, "nvrtc": "unknown"}
    found["finds_gpus"] = False
    if find_spec("cupy") is None:
        return found
    names = packages_distributions().get("cupy", ["cupy"])
    found["distribution"] = names[0]
    try:
        found["state"] = f"{version(names[0])} ({', '.join(sorted(set(names)))})"
    except PackageNotFoundError:
        found["state"] = "installed"
    try:
        import cupy

        found["cuda"] = cupy.cuda.runtime.runtimeGetVersion() // 1000
        found["finds_gpus"] = cupy.cuda.runtime.getDeviceCount() > 0
    except Exception as error:  # an installation that does not suit the machine may raise anything
        found["state"] += f", which fails: {type(error).__name__}: {error}"
        return found
    try:
        found["nvrtc"] = "{}.{}".format(*cupy.cuda.nvrtc.getVersion())
    except Exception as error:
        found["nvrtc"] = f"not usable: {type(error).__name__}: {error}"
    return found


def _answering(title):
    family, package = FAMILIES[title]
    if find_spec(package) is None:
        return f"{package} is not installed"
    try:
        return name_of(engine_of_family("crf", family))
    except (ImportError, ValueError) as error:
        return str(error)


def _problems(driver, cupy):
    """What keeps the CUDA kernels from a GPU that is there, each with what mends it."""
    if not driver["gpus"]:
        if cupy["distribution"] and driver["cuda"] is None and not cupy["finds_gpus"]:
            yield (
                "CuPy is installed, and there is no driver of NVIDIA: install the driver; in a "
                "container, start it with `--gpus all`"
            )
        return
    too_old = [name for name, capability in driver["gpus"] if capability < LEAST_CAPABILITY]
    if len(too_old) == len(driver["gpus"]):
        yield (
            f"{too_old[0]}: the kernels need compute capability 8.0 (Ampere) or higher; the engine "
            "keras computes there"
        )
        return
    major = driver["cuda"][0]
    wanted = f"cupy-cuda{min(major, 13)}x"
    if major < 12:
        yield f"the driver is for CUDA {major}, and CuPy needs 12 or 13: install a newer driver"
    elif cupy["distribution"] is None:
        yield (
            "there is a GPU of NVIDIA, and no CuPy, which compiles the kernels for it: "
            f'`pip install "{wanted}[ctk]"`'
        )
    elif cupy["cuda"] is None or cupy["cuda"] > major:
        yield (
            f"CuPy ({cupy['distribution']}) does not suit the driver, which is for CUDA {major}: "
            f'`pip uninstall {cupy["distribution"]}`, and then `pip install "{wanted}[ctk]"`'
        )
    elif not cupy["nvrtc"][0].isdigit():
        yield (
            f"NVRTC, which compiles the kernels, is {cupy['nvrtc']}: "
            f'`pip install "{cupy["distribution"]}[ctk]"`'
        )
    else:
        yield from _frameworks(min(major, 13))


def _frameworks(major):
    """Frameworks that are installed without their parts for the GPU."""
    if find_spec("torch"):
        import torch

        if torch.version.hip is None and torch.version.cuda is None:
            yield f"torch is compiled for CPUs only: install torch for CUDA {major}"
        elif not torch.cuda.is_available():
            yield (
                f"torch, compiled for CUDA {torch.version.cuda}, does not start on the GPU: "
                '`python -c "import torch; torch.cuda.init()"` says why'
            )
    if find_spec("jax") and not has_cuda_plugin():
        yield f'JAX has no part for CUDA: `pip install "jax[cuda{major}]"`'
