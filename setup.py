"""Builds the compiled parts: `_core`, libraries for TensorFlow, one for JAX; none is required.

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
from glob import glob
from importlib import metadata
from itertools import chain
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

OPS = "fastkeras.libfastkeras_tf_ops"  # "lib", so that Python never takes the file for a module
FITS_ONE_TENSORFLOW = {  # its headers are needed: variables and XLA are not in the C API
    "fastkeras.libfastkeras_tf_variable_ops": ("csrc/optimizers/doors/tensorflow.cc",),
    "fastkeras.libfastkeras_tf_xla": ("csrc/crf/doors/xla.cc", "csrc/seq2seq/doors/xla.cc"),
    "fastkeras.libfastkeras_tf_variable_xla": ("csrc/optimizers/doors/xla.cc",),
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
)  # the ends of their names
KERNELS = [str(path) for path in Path("csrc").rglob("*.cc") if not path.name.endswith(BINDINGS)]
LOOPS = "fastkeras.libfastkeras_kernels"  # most of the bytes, so all libraries share one copy
CALLED = {"csrc/machine/memory.cc", "csrc/word2vec/losses.cc"}  # by them, and by others too
OF_LOOPS = {path for path in KERNELS if Path(path).name.startswith("kernels_")}
FLAGS = (
    "-std=gnu++17 -O3 -g0 -ffp-contract=fast -fno-math-errno -fvisibility=hidden -pthread"
    " -Wno-maybe-uninitialized -Wno-uninitialized"  # gcc warns of its own intrinsics
)
# each library has what calls the kernels of all domains among its objects, and calls that of one
WITHOUT_UNUSED = "-Wl,-dead_strip" if sys.platform == "darwin" else "-Wl,--gc-sections"


def part(name, sources):
    """An extension of these files, and of those that prepare and divide the work of kernels."""
    called = CALLED & {*KERNELS}
    shared = OF_LOOPS | called if name == LOOPS else {*KERNELS} - OF_LOOPS
    sources = sorted([*map(str, sources), *shared])
    extension = Extension(
        name, sources, depends=HEADERS, optional=True, language="c++", include_dirs=["csrc"]
    )
    extension.headers_of = ""  # whose headers, and version, the files beside the kernels need
    extension.lacks = ""  # why it need not be tried
    return extension


def tensorflows():
    """Return folder and version of each TensorFlow to build for; of several only if so named."""
    found = {place: tensorflow_in(place) for place in places(NAMED)}
    if NAMED not in os.environ:
        return [has for has in found.values() if has][:1]
    for place, has in found.items():
        if not has:
            raise SystemExit(f"{NAMED}={place!r} has no TensorFlow; name the site-packages")
    return list(found.values())


def tensorflow_in(place):
    """Return folder and version of the TensorFlow in a folder like site-packages, or None."""
    distribution = r"(intel[-_])?(tensorflow|tf[-_]nightly)([-_](cpu|gpu|intel|macos|rocm|aws))*"
    if Path(place, "tensorflow", "include", "tensorflow", "core", "public").is_dir():
        for found in metadata.distributions(path=[str(place)]):
            if re.fullmatch(distribution, found.name):
                return Path(place, "tensorflow"), found.version
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
    """Folders where a framework may be; the environment variable `named` may say which.

    Several are separated as in PATH, and patterns such as `headers/tensorflow*` are expanded.

    An isolated build does not see what is installed. In one by pip we can find out where that is;
    in one by uv or build we have to guess. A wrong guess only makes a library that never loads.
    """
    if named in os.environ:
        patterns = os.environ[named].split(os.pathsep)
        return [place for pattern in patterns for place in sorted(glob(pattern)) or [pattern]]
    platlib = sysconfig.get_path("platlib")
    known = [*sys.path, platlib]
    if "PIP_BUILD_TRACKER" in os.environ:
        return known
    folders = os.environ.get("PATH", "").split(os.pathsep)  # an active environment's comes first
    environments = [*(Path(folder).parent for folder in folders), Path(".venv").resolve()]
    return [*known, *(env / os.path.relpath(platlib, sys.prefix) for env in environments)]


class Build(build):
    """Builds from the files that are there now, not from copies of an earlier build."""

    def run(self):
        shutil.rmtree(Path(self.build_lib, "fastkeras"), ignore_errors=True)
        super().run()


class BuildParts(build_ext):
    """Compiles only what has changed, in parallel, and goes on if the compiler fails."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = f"build/temp.{self.plat_name}"  # every build, and Python, has the objects

    def run(self):
        self.failed = {}
        super().run()
        self.record(Path(self.build_lib, "fastkeras"))
        if not TENSORFLOWS:
            self.warn(
                "no TensorFlow was found: the optimizers' op and all under XLA will be missing. "
                f"Install TensorFlow first, or set {NAMED} to the site-packages that have it"
            )

    def build_extensions(self):
        linker = self.compiler.linker_so_cxx  # of macOS: nothing can be linked to a bundle
        self.compiler.linker_so_cxx = ["-dynamiclib" if f == "-bundle" else f for f in linker]
        super().build_extensions()
        self.remove_old_kernels(Path(self.build_lib, "fastkeras"))

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        self.remove_old_kernels(Path("fastkeras"))
        self.record(Path("fastkeras"))

    def remove_old_kernels(self, folder):
        """Remove those that no library needs: one of an earlier build may have its own."""
        needed = b"".join(library.read_bytes() for library in folder.glob("*.so"))
        for kernels in folder.glob(f"{LOOPS.rpartition('.')[2]}.so.*"):
            if kernels.name.encode() not in needed:
                kernels.unlink()

    def record(self, folder):
        """Write down what was built and why the rest was not, for fastkeras/_build.py.

        A build beside the sources leaves the libraries of earlier builds there. So a build from an
        environment without a framework keeps what was written about them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "_built.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        built = {
            "tensorflow": ", ".join(version for _, version in TENSORFLOWS) or None,
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
                python = sys.implementation.cache_tag
                extension.headers_of = f"pybind11 {pybind11.__version__}, {python}"
            lacks = extension.lacks or self.failed.get(LOOPS.rpartition(".")[2])
            if lacks:
                raise LookupError(lacks)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(
                    pool.map(lambda source: self.object(source, extension), extension.sources)
                )
            target = Path(self.get_ext_fullpath(extension.name))
            self.mkpath(str(target.parent))
            target.unlink(missing_ok=True)  # it may be newer than the objects, but linked of others
            link_flags = ["-pthread", WITHOUT_UNUSED, *self.place_of_kernels(extension)]
            if extension.name.startswith((OPS, *FITS_ONE_TENSORFLOW)):
                link_flags += self.stub()
            if extension.name == CALLS and sys.platform == "linux":
                link_flags.append("-ldl")  # dlopen; before glibc 2.34 it is a library of its own
            self.compiler.link_shared_object(
                objects, str(target), extra_postargs=link_flags, target_lang="c++"
            )
        except Exception as error:  # whatever goes wrong in a compiler; the other engines remain
            name = extension.name.rpartition(".")[2]  # of the command keep only the first word
            self.failed[name] = re.sub(r"'\[('[^']*').*\]'", r"\1", str(error), flags=re.DOTALL)
            self.warn(f"{extension.name} was not built, and its engine will be missing: {error}")

    def object(self, source, extension):
        """Compile a file, unless it was compiled in the same way after its last change.

        Objects for other compilers, flags or headers are in other folders. Headers of frameworks
        are told apart by version, since their path differs in each isolated build.
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

    def place_of_kernels(self, extension):
        """Flags that let a library find the kernels beside itself, or those of the kernels."""
        path = Path(self.get_ext_fullpath(LOOPS))
        on_mac = sys.platform == "darwin"
        if extension.name == LOOPS:
            flag = "-install_name,@rpath/" if on_mac else "-z,defs,-soname,"
            return [f"-Wl,{flag}{path.name}"]
        return [str(path), f"-Wl,-rpath,{'@loader_path' if on_mac else '$ORIGIN'}"]

    def stub(self):
        """An empty library to link to: the real one comes with TensorFlow at run time."""
        if sys.platform != "linux":
            return []
        library = Path(self.build_temp, "libtensorflow_framework.so.2")
        flags = ["-x", "c++", "/dev/null", "-o", str(library), f"-Wl,-soname,{library.name}"]
        self.spawn([*self.compiler.linker_so_cxx, *flags])
        return ["-Wl,--no-as-needed", str(library)]

    def get_ext_filename(self, name):
        """TensorFlow loads the ops by path, so the name of their file has no tag of a Python.

        The name of the kernels' file ends with a hash of all headers, so that a library compiled
        with others finds the kernels that it was linked to, or none, but never these.
        """
        if LOOPS.endswith(name):
            headers = b"".join(Path(path).read_bytes() for path in sorted(HEADERS))
            return f"{name.replace('.', '/')}.so.{hashlib.sha256(headers).hexdigest()[:8]}"
        if name.rpartition(".")[2].startswith("lib"):
            return name.replace(".", "/") + ".so"
        return super().get_ext_filename(name)

    def get_export_symbols(self, extension):
        """The ops are not a Python module, and have no `PyInit` to export."""
        return []


TENSORFLOWS = tensorflows()
JAX = jax()
PARTS = [
    part(LOOPS, []),  # the first, since all others are linked to it
    part("fastkeras._core", ["csrc/module.cc", *Path("csrc").rglob("*python.cc")]),
    part(
        OPS,
        {str(path) for path in Path("csrc").rglob("*tensorflow.cc")}
        - set(chain(*FITS_ONE_TENSORFLOW.values())),
    ),
]
for folder, version in TENSORFLOWS:
    minor = "_".join(version.split(".")[:2])
    headers = ("include", "include/external/highwayhash", "include/external/farmhash_archive/src")
    for library, sources in FITS_ONE_TENSORFLOW.items():
        PARTS.append(part(f"{library}_{minor}", sources))
        PARTS[-1].headers_of = f"tensorflow {version}"
        if "xla" in library and not Path(folder, "include/xla/ffi/api/ffi.h").is_file():
            PARTS[-1].lacks = f"TensorFlow {version} lacks XLA's header ffi.h, which 2.20 has"
        PARTS[-1].extra_compile_args = [
            *(f"-isystem{folder}/{header}" for header in headers),
            "-D_GLIBCXX_USE_CXX11_ABI=1",
            "-DEIGEN_MAX_ALIGN_BYTES=64",
            "-Wno-deprecated-declarations",  # older TensorFlow needs what newer deprecates
        ]
if JAX:
    headers, version = JAX
    PARTS.append(part(CALLS, Path("csrc").rglob("*jax.cc")))
    PARTS[-1].headers_of = f"jaxlib {version}"
    PARTS[-1].extra_compile_args = [f"-isystem{headers}"]

setup(ext_modules=PARTS, cmdclass={"build": Build, "build_ext": BuildParts})
