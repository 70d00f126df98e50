"""Builds the compiled parts: `_core`, four libraries for TensorFlow, one for JAX; none is required.

Everything else about the package is in pyproject.toml; docs/packaging.md has the reasons.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

OPS = "fastkeras.libfastkeras_tf_ops"  # `_tf_ops.so` would hide the module `_tf_ops.py`
FITS_ONE_TENSORFLOW = {  # its headers are needed: variables and XLA are not in the C API
    "fastkeras.libfastkeras_tf_variable_ops": "csrc/optimizers/tensorflow.cc",
    "fastkeras.libfastkeras_tf_xla": "csrc/crf/xla.cc",
    "fastkeras.libfastkeras_tf_variable_xla": "csrc/optimizers/xla.cc",
}
OF_TENSORFLOW = "fastkeras.libfastkeras_tf_variable_ops"  # the first of them
CALLS = "fastkeras.libfastkeras_jax"
NAMED = "FASTKERAS_TENSORFLOW"  # environment variables
NAMED_JAX = "FASTKERAS_JAX"
HEADERS = [str(path) for path in Path("csrc").rglob("*.h")]
BINDINGS = (
    "module.cc",
    "python.cc",
    "tensorflow.cc",
    "xla.cc",
    "jax.cc",
)  # what their names end with
KERNELS = [str(path) for path in Path("csrc").rglob("*.cc") if not path.name.endswith(BINDINGS)]
FLAGS = (
    "-std=gnu++17 -O3 -g0 -ffp-contract=fast -fno-math-errno -fvisibility=hidden -pthread"
    " -Wno-maybe-uninitialized -Wno-uninitialized"  # gcc warns of its own intrinsics
)


def part(name, sources):
    """The kernels are in both parts: the same object files, their names hidden from each other."""
    sources = sorted([*map(str, sources), *KERNELS])
    extension = Extension(
        name, sources, depends=HEADERS, optional=True, language="c++", include_dirs=["csrc"]
    )
    extension.headers_of = ""  # what else the files beside the kernels are compiled with
    return extension


def tensorflow():
    """Return folder and version of the TensorFlow to build for, or None."""
    distribution = r"(intel[-_])?(tensorflow|tf[-_]nightly)([-_](cpu|gpu|intel|macos|rocm|aws))*"
    for place in places(NAMED):
        if Path(place, "tensorflow", "include", "tensorflow", "core", "public").is_dir():
            for found in metadata.distributions(path=[str(place)]):
                if re.fullmatch(distribution, found.name):
                    return Path(place, "tensorflow"), found.version
    if NAMED in os.environ:
        raise SystemExit(f"{NAMED}={os.environ[NAMED]!r} has no TensorFlow; name the site-packages")
    return None


def jax():
    """Return the folder of headers and the version of the jaxlib to build for, or None."""
    for place in places(NAMED_JAX):
        headers = Path(place, "jaxlib", "include")
        if Path(headers, "xla", "ffi", "api", "ffi.h").is_file():
            for found in metadata.distributions(name="jaxlib", path=[str(place)]):
                return headers, found.version
    if NAMED_JAX in os.environ:
        raise SystemExit(f"{NAMED_JAX}={os.environ[NAMED_JAX]!r} has no jaxlib; name site-packages")
    return None


def places(named):
    """Where a framework may be: `named` is the environment variable that tells.

    A build in isolation does not see what is installed. That of pip knows where that is; in those
    of uv and build it has to be guessed. A wrong guess costs a library that is never loaded.
    """
    if named in os.environ:
        return [os.environ[named]]
    platlib = sysconfig.get_path("platlib")
    known = [*sys.path, platlib]
    if "PIP_BUILD_TRACKER" in os.environ:
        return known
    folders = os.environ.get("PATH", "").split(os.pathsep)  # that of an active environment is first
    environments = [*(Path(folder).parent for folder in folders), Path(".venv").resolve()]
    return [*known, *(env / os.path.relpath(platlib, sys.prefix) for env in environments)]


class Build(build):
    """Builds what is there, and not what was there when the clone was built before."""

    def run(self):
        shutil.rmtree(Path(self.build_lib, "fastkeras"), ignore_errors=True)
        super().run()


class BuildParts(build_ext):
    """Compiles in parallel only what has changed, and survives a compiler that fails."""

    def finalize_options(self):
        super().finalize_options()  # every kind of build shares the objects
        self.build_temp = f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}"

    def run(self):
        self.failed = {}
        super().run()
        self.record(Path(self.build_lib, "fastkeras"))
        if TENSORFLOW is None:
            self.warn(
                "no TensorFlow was found: the optimizers' op and all under XLA will be missing. "
                f"Install TensorFlow first, or set {NAMED} to the site-packages that have it"
            )

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        self.record(Path("fastkeras"))

    def record(self, folder):
        """Write down what was built and why the rest was not, for fastkeras/_build.py.

        A build beside the sources leaves the libraries of earlier ones there: one from an
        environment without a framework forgets neither them nor what they fit.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "_built.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        built = {
            "tensorflow": TENSORFLOW[1] if TENSORFLOW else None,
            "jaxlib": JAX[1] if JAX else None,
            "compiler": self.compiler_version(),
            "failed": self.failed,
        }
        for framework, libraries in (("tensorflow", OF_TENSORFLOW), ("jaxlib", CALLS)):
            if built[framework] is None and any(folder.glob(f"{libraries.rpartition('.')[2]}*.so")):
                built[framework] = before.get(framework)
        path.write_text(json.dumps(built, indent=1))

    def compiler_version(self):
        try:
            command = [*self.compiler.compiler_cxx, "--version"]
            return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]
        except OSError:
            return ""

    def build_extension(self, extension):
        try:
            if extension.name == "fastkeras._core":
                import pybind11

                extension.include_dirs.append(pybind11.get_include())
                extension.headers_of = f"pybind11 {pybind11.__version__}"
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(
                    pool.map(lambda source: self.object(source, extension), extension.sources)
                )
            target = Path(self.get_ext_fullpath(extension.name))
            self.mkpath(str(target.parent))
            target.unlink(missing_ok=True)  # it may be younger than its objects, and of others
            link_flags = ["-pthread"]
            if extension.name == OPS:
                link_flags += self.stub()
            if extension.name.startswith(tuple(FITS_ONE_TENSORFLOW)):
                link_flags += [f"-L{TENSORFLOW[0]}", "-l:libtensorflow_framework.so.2"]
            self.compiler.link_shared_object(
                objects, str(target), extra_postargs=link_flags, target_lang="c++"
            )
        except Exception as error:  # whatever a compiler can do wrong; the other engines remain
            name = extension.name.rpartition(".")[2]  # and of the command, its first word
            self.failed[name] = re.sub(r"'\[('[^']*').*\]'", r"\1", str(error), flags=re.DOTALL)
            self.warn(f"{extension.name} was not built, and its engine will be missing: {error}")

    def object(self, source, extension):
        """Compile a file, unless it was compiled in the same way since it was changed.

        Objects that other compilers, flags or headers made lie in other folders. The version
        stands for foreign headers, whose place is another in each isolated build.
        """
        is_kernel = source in KERNELS
        way = [*self.compiler.compiler_so_cxx, FLAGS, "" if is_kernel else extension.headers_of]
        folder = Path(self.build_temp, hashlib.sha256(repr(way).encode()).hexdigest()[:8])
        (path,) = self.compiler.object_filenames([source], output_dir=str(folder))
        newest = max(os.path.getmtime(file) for file in [source, *extension.depends])
        if self.force or not os.path.exists(path) or os.path.getmtime(path) < newest:
            self.compiler.compile(
                [source],
                output_dir=str(folder),
                include_dirs=self.include_dirs + extension.include_dirs,
                extra_postargs=FLAGS.split() + extension.extra_compile_args * (not is_kernel),
            )
        return path

    def stub(self):
        """Link to a name only: the running TensorFlow brings the library, the build has none."""
        if sys.platform != "linux":
            return []
        library = Path(self.build_temp, "libtensorflow_framework.so.2")
        flags = ["-x", "c++", "/dev/null", "-o", str(library), f"-Wl,-soname,{library.name}"]
        self.spawn([*self.compiler.linker_so_cxx, *flags])
        return ["-Wl,--no-as-needed", str(library)]

    def get_ext_filename(self, name):
        """TensorFlow loads the ops by path, so their file carries no tag of a Python."""
        if name.rpartition(".")[2].startswith("lib"):
            return name.replace(".", "/") + ".so"
        return super().get_ext_filename(name)

    def get_export_symbols(self, extension):
        """The ops are no Python module: they have no `PyInit` to export."""
        return []


TENSORFLOW = tensorflow()
JAX = jax()
PARTS = [
    part("fastkeras._core", ["csrc/module.cc", *Path("csrc").rglob("*python.cc")]),
    part(
        OPS,
        {str(path) for path in Path("csrc").rglob("*tensorflow.cc")}
        - set(FITS_ONE_TENSORFLOW.values()),
    ),
]
if TENSORFLOW:
    folder, version = TENSORFLOW
    minor = "_".join(version.split(".")[:2])
    headers = ("include", "include/external/highwayhash", "include/external/farmhash_archive/src")
    for library, source in FITS_ONE_TENSORFLOW.items():
        PARTS.append(part(f"{library}_{minor}", [source]))
        PARTS[-1].headers_of = f"tensorflow {version}"
        PARTS[-1].extra_compile_args = [
            *(f"-isystem{folder}/{header}" for header in headers),
            "-D_GLIBCXX_USE_CXX11_ABI=1",
            "-DEIGEN_MAX_ALIGN_BYTES=64",
            "-Wno-deprecated-declarations",  # what a newer TensorFlow deprecates an older one needs
        ]
if JAX:
    headers, version = JAX
    PARTS.append(part(CALLS, Path("csrc").rglob("*jax.cc")))
    PARTS[-1].headers_of = f"jaxlib {version}"
    PARTS[-1].extra_compile_args = [f"-isystem{headers}"]

setup(ext_modules=PARTS, cmdclass={"build": Build, "build_ext": BuildParts})
