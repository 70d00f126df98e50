"""Makes a wheel fit for other machines, and checks what is inside.

    python wheels/repair.py DESTINATION WHEEL

auditwheel, which needs patchelf, strips the libraries and finds which manylinux they fit.
TensorFlow stays outside: our ops would register in a second copy of it, not in the one that runs.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LIMIT = 6e6  # bytes
FOR_EACH_TENSORFLOW = ("variable_ops", "xla", "variable_xla")
LEFT_OUT = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")


def parts_of(built):
    """Return the names of the compiled parts that have to be there, by what setup.py recorded."""
    parts = {"_core", "libfastkeras_kernels", "libfastkeras_tf_ops"}
    parts |= {"libfastkeras_jax"} if built["jaxlib"] else set()
    for version in built["tensorflow"].split(", ") if built["tensorflow"] else ():
        minor = "_".join(version.split(".")[:2])
        parts |= {f"libfastkeras_tf_{library}_{minor}" for library in FOR_EACH_TENSORFLOW}
    return parts - {part for part, reason in built["failed"].items() if "lacks" in reason}


def faults(wheel):
    """Yield what is wrong with a wheel."""
    if wheel.stat().st_size > LIMIT:
        yield f"it has {wheel.stat().st_size:,} bytes, more than {LIMIT:,.0f}"
    with zipfile.ZipFile(wheel) as archive:
        built = json.loads(archive.read("fastkeras/_built.json"))
        libraries = {name for name in archive.namelist() if re.search(r"\.(so|dylib)", name)}
        found = {Path(name).name.partition(".")[0] for name in libraries}
        for part in sorted(parts_of(built) - found):
            yield f"{part} is missing: {built['failed'].get(part, 'nobody says why')}"
        for name in sorted(found - parts_of(built)):
            yield f"{name} does not belong there"
        for name in sorted(libraries):
            if b"\0.symtab\0" in archive.read(name):
                yield f"{name} is not stripped"


def whom(wheel):
    """Return version, Python and processor of a wheel: its name without the oldest glibc."""
    return re.sub(r"manylinux_\d+_\d+", "linux", wheel.name)


def main(destination, wheel):
    exclude = [f"--exclude={library}" for library in LEFT_OUT]
    with tempfile.TemporaryDirectory() as temporary:
        command = ["auditwheel", "repair", "--strip", *exclude, "--wheel-dir", temporary, wheel]
        subprocess.run(command, check=True)
        (made,) = Path(temporary).glob("*.whl")
        wrong = list(faults(made))
        if wrong:
            raise SystemExit("\n".join([f"{made.name} is not fit for others:", *wrong]))
        Path(destination).mkdir(parents=True, exist_ok=True)
        for old in Path(destination).glob("*.whl"):
            if whom(old) == whom(made):
                old.unlink()
        shutil.copy(made, destination)
        print(f"{Path(destination, made.name)}, {made.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
