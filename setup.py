"""Builds the two compiled parts, `_core` and `libfastkeras_tf_ops.so`; neither is required.

Everything else about the package is in pyproject.toml; docs/packaging.md has the reasons.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

OPS = "fastkeras.libfastkeras_tf_ops"  # `_tf_ops.so` would hide the module `_tf_ops.py`
HEADERS = [str(path) for path in Path("csrc").rglob("*.h")]
BINDINGS = {"module.cc", "python.cc", "tensorflow.cc"}
KERNELS = [str(path) for path in Path("csrc").rglob("*.cc") if path.name not in BINDINGS]
FLAGS = (
    "-std=gnu++17 -O3 -g0 -ffp-contract=fast -fno-math-errno -fvisibility=hidden -pthread"
    " -Wno-maybe-uninitialized"  # gcc warns of its own intrinsics
)


def part(name, sources):
    """The kernels are in both parts: the same object files, their names hidden from each other."""
    sources = sorted([*map(str, sources), *KERNELS])
    return Extension(
        name, sources, depends=HEADERS, optional=True, language="c++", include_dirs=["csrc"]
    )


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
            link_flags = ["-pthread", *(self.stub() if extension.name == OPS else [])]
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
                extra_postargs=FLAGS.split(),
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
        if name == OPS or name == OPS.partition(".")[2]:
            return name.replace(".", "/") + ".so"
        return super().get_ext_filename(name)

    def get_export_symbols(self, extension):
        """The ops are no Python module: they have no `PyInit` to export."""
        return []


setup(
    ext_modules=[
        part("fastkeras._core", ["csrc/module.cc", *Path("csrc").glob("*/python.cc")]),
        part(OPS, Path("csrc").glob("*/tensorflow.cc")),
    ],
    cmdclass={"build_ext": BuildParts},
)
