"""What `fastkeras doctor` says of GPUs, for drivers and installations of CuPy of all kinds."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from fastkeras import _doctor
from fastkeras._ops import gpu

H100 = ("NVIDIA H100", (9, 0))


class Driver:
    """Stands for libcuda.so.1."""

    def __init__(self, version=13000, gpus=(H100,), error=0):
        self.version, self.gpus, self.error = version, gpus, error

    def cuInit(self, flags):
        return self.error

    def cuDriverGetVersion(self, number):
        number._obj.value = self.version

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, handle, device):
        handle._obj.value = device

    def cuDeviceGetName(self, name, size, handle):
        name.value = self.gpus[handle.value][0].encode()

    def cuDeviceGetAttribute(self, number, attribute, handle):
        number._obj.value = self.gpus[handle.value][1][attribute - 75]


def cupy_of(cuda=13000, nvrtc=(13, 0), finds=None):
    """Stands for CuPy; `finds` is an error that its parts raise."""

    def get(value):
        def function():
            if isinstance(value, Exception):
                raise value
            return value

        return function

    runtime = SimpleNamespace(runtimeGetVersion=get(finds or cuda), getDeviceCount=get(1))
    nvrtc = SimpleNamespace(getVersion=get(nvrtc))
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, nvrtc=nvrtc))


@pytest.fixture
def machine(monkeypatch):
    """A function that makes the report of a machine."""

    def made(driver, cupy, distribution="cupy-cuda13x"):
        def load(name):
            if driver is None:
                raise OSError(name)
            return driver

        specs = {"cupy": cupy}
        monkeypatch.setattr(gpu, "CDLL", load)
        monkeypatch.setattr(gpu, "find_spec", lambda name: specs.get(name))
        names = {"cupy": [distribution]} if cupy else {}
        monkeypatch.setattr(gpu, "packages_distributions", lambda: names)
        monkeypatch.setattr(gpu, "version", lambda name: "14.2.0")
        monkeypatch.setattr(gpu, "_answering", lambda title: "keras")
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return gpu.report()

    return made


def test_a_machine_that_is_ready(machine):
    found, answers, problems = machine(Driver(), cupy_of())
    assert found == {
        "driver": "for CUDA 13.0",
        "GPU 0": "NVIDIA H100, compute capability 9.0",
        "CuPy": "14.2.0 (cupy-cuda13x)",
        "NVRTC": "13.0",
    }
    assert list(answers) == ["CuPy arrays", "torch tensors", "JAX arrays", "TensorFlow tensors"]
    assert problems == []


def test_without_a_gpu_nothing_is_a_problem(machine):
    for driver in (None, Driver(gpus=()), Driver(error=100)):
        found, answers, problems = machine(driver, None)
        assert answers == {} and problems == []
        assert found["driver"].startswith("none" if driver is None else "for CUDA 13.0")


OLD = ("NVIDIA T4", (7, 5))
NO_NVRTC = RuntimeError("libnvrtc.so.13 not found")
PROBLEMS = {
    "no driver": (None, cupy_of(finds=OSError("libcuda")), "install the driver; in a container"),
    "no CuPy": (Driver(), None, 'pip install "cupy-cuda13x[ctk]"'),
    "no CuPy for 12": (Driver(12040), None, 'pip install "cupy-cuda12x[ctk]"'),
    "old driver": (Driver(11080), None, "install a newer driver"),
    "other CUDA": (Driver(12040), cupy_of(), "pip uninstall cupy-cuda13x"),
    "broken": (Driver(), cupy_of(finds=OSError("no")), 'then `pip install "cupy-cuda13x[ctk]"`'),
    "no NVRTC": (Driver(), cupy_of(nvrtc=NO_NVRTC), 'pip install "cupy-cuda13x[ctk]"'),
    "old GPU": (Driver(gpus=(OLD,)), cupy_of(), "need compute capability 8.0"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_has_what_mends_it(machine, name):
    driver, cupy, words = PROBLEMS[name]
    (problem,) = machine(driver, cupy)[2]
    assert words in problem


def test_an_old_gpu_beside_a_newer_one_is_no_problem(machine):
    assert machine(Driver(gpus=(OLD, H100)), cupy_of())[2] == []


def test_the_report_has_it_all(machine, monkeypatch, capsys):
    report = machine(Driver(), None)
    monkeypatch.setattr(gpu, "report", lambda: report)
    assert _doctor.doctor() == 1
    printed = capsys.readouterr().out
    assert "GPUs of NVIDIA\n  driver             for CUDA 13.0\n" in printed
    assert "arrays on a GPU, in crf\n  CuPy arrays        keras\n" in printed
    assert "there is a GPU of NVIDIA, and no CuPy" in printed.partition("problems")[2]


def test_the_driver_here_is_asked_without_harm():
    found, _, _ = gpu.report()
    assert {"driver", "CuPy", "NVRTC"} <= set(found)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert found["driver"].startswith("none")


@pytest.mark.parametrize(("on_gpu", "family"), ((False, "torch"), (True, "torch_elsewhere")))
def test_fit_computes_on_the_gpu_that_torch_has(monkeypatch, on_gpu, family):
    def state(is_available):
        return SimpleNamespace(is_available=lambda: is_available)

    torch = SimpleNamespace(cuda=state(on_gpu), backends=SimpleNamespace(mps=state(False)))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(_doctor, "engine_of_family", lambda domain, family: family)
    monkeypatch.setattr(_doctor, "name_of", lambda engine: engine)
    assert _doctor._in_fit("crf", "torch", None) == family


@pytest.mark.parametrize(("platform", "family"), (("cpu", "jax"), ("gpu", "jax_elsewhere")))
def test_fit_computes_on_the_gpu_that_jax_has(monkeypatch, platform, family):
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(default_backend=lambda: platform))
    monkeypatch.setattr(_doctor, "engine_of_family", lambda domain, family: family)
    monkeypatch.setattr(_doctor, "name_of", lambda engine: engine)
    assert _doctor._in_fit("crf", "jax", None) == family
