"""Builds the compiled parts, `_core` and four libraries for TensorFlow; none is required.

Everything else about the package is in pyproject.toml; docs/packaging.md has the reasons.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

OPS = "fastkeras.libfastkeras_tf_ops"  # `_tf_ops.so` would hide the module `_tf_ops.py`
FITS_ONE_TENSORFLOW = {  # its headers are needed: variables and XLA are not in the C API
    "fastkeras.libfastkeras_tf_variable_ops": "csrc/optimizers/tensorflow.cc",
    "fastkeras.libfastkeras_tf_xla": "csrc/crf/xla.cc",
    "fastkeras.libfastkeras_tf_variable_xla": "csrc/optimizers/xla.cc",
}
HEADERS = [str(path) for path in Path("csrc").rglob("*.h")]
BINDINGS = ("module.cc", "python.cc", "tensorflow.cc", "xla.cc")  # what their names end with
KERNELS = [str(path) for path in Path("csrc").rglob("*.cc") if not path.name.endswith(BINDINGS)]
FLAGS = (
    "-std=gnu++17 -O3 -g0 -ffp-contract=fast -fno-math-errno -fvisibility=hidden -pthread"
    " -Wno-maybe-uninitialized -Wno-uninitialized"  # gcc warns of its own intrinsics
)


def part(name, sources):
    """The kernels are in both parts: the same object files, their names hidden from each other."""
    sources = sorted([*map(str, sources), *KERNELS])
    return Extension(
        name, sources, depends=HEADERS, optional=True, language="c++", include_dirs=["csrc"]
    )


def tensorflow():
    """Return folder and minor version of the TensorFlow to build for, or None.

    A build in isolation does not see what is installed, but knows where that is.
    """
    for place in [*sys.path, sysconfig.get_path("platlib")]:
        if Path(place, "tensorflow", "include", "tensorflow", "core", "public").is_dir():
            for found in metadata.distributions(path=[place]):
                if found.name in ("tensorflow", "tensorflow-cpu", "tensorflow_cpu"):
                    return Path(place, "tensorflow"), "_".join(found.version.split(".")[:2])
    return None


class BuildParts(build_ext):
    """Compiles in parallel only what has changed, and survives a compiler that fails."""

    def finalize_options(self):
        super().finalize_options()  # every kind of build shares the objects
        self.build_temp = f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}"

    def build_extension(self, extension):
        try:
            if extension.name == "fastkeras._core":
                import pybind11

                extension.include_dirs.append(pybind11.get_include())
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(
                    pool.map(lambda source: self.object(source, extension), extension.sources)
                )
            target = Path(self.get_ext_fullpath(extension.name))
            self.mkpath(str(target.parent))
            link_flags = ["-pthread"]
            if extension.name == OPS:
                link_flags += self.stub()
            if extension.name.startswith(tuple(FITS_ONE_TENSORFLOW)):
                link_flags += [f"-L{TENSORFLOW[0]}", "-l:libtensorflow_framework.so.2"]
            self.compiler.link_shared_object(
                objects, str(target), extra_postargs=link_flags, target_lang="c++"
            )
        except Exception as error:  # whatever a compiler can do wrong; the other engines remain
            self.warn(f"{extension.name} was not built, and its engine will be missing: {error}")

    def object(self, source, extension):
        (path,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
        newest = max(os.path.getmtime(file) for file in [source, __file__, *extension.depends])
        if self.force or not os.path.exists(path) or os.path.getmtime(path) < newest:
            self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=self.include_dirs + extension.include_dirs,
                extra_postargs=FLAGS.split()
                + extension.extra_compile_args * (source in FITS_ONE_TENSORFLOW.values()),
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
PARTS = [
    part("fastkeras._core", ["csrc/module.cc", *Path("csrc").glob("*/*python.cc")]),
    part(
        OPS,
        {str(path) for path in Path("csrc").glob("*/*tensorflow.cc")}
        - set(FITS_ONE_TENSORFLOW.values()),
    ),
]
if TENSORFLOW:
    folder, version = TENSORFLOW
    headers = ("include", "include/external/highwayhash", "include/external/farmhash_archive/src")
    for library, source in FITS_ONE_TENSORFLOW.items():
        PARTS.append(part(f"{library}_{version}", [source]))
        PARTS[-1].extra_compile_args = [
            *(f"-isystem{folder}/{header}" for header in headers),
            "-D_GLIBCXX_USE_CXX11_ABI=1",
            "-DEIGEN_MAX_ALIGN_BYTES=64",
            "-Wno-deprecated-declarations",  # what a newer TensorFlow deprecates an older one needs
        ]

setup(ext_modules=PARTS, cmdclass={"build_ext": BuildParts})
