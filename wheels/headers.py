"""Fetches what a wheel is built with: the headers of each TensorFlow supported, and of a jaxlib.

    python wheels/headers.py build/headers

setup.py then takes FASTKERAS_TENSORFLOW='build/headers/tensorflow*' and
FASTKERAS_JAX='build/headers/jaxlib*'. A second run has nothing to do.
"""

import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TENSORFLOW = ("2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.20.0", "2.21.0")
JAXLIB = "0.6.0"  # the oldest whose headers have all that we call
PYTHON = "3.11"  # all of these have wheels for it, and the headers are the same for any other


def fetched(folder, distribution, version, package):
    """Return a folder like site-packages, with a distribution's headers and metadata alone."""
    place = Path(folder, f"{distribution}-{version}")
    if place.exists():
        return place
    print(f"fetching the headers of {distribution} {version}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        which = ("--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}")
        quiet = ("--quiet", "--disable-pip-version-check", "--no-cache-dir")
        pip = (sys.executable, "-m", "pip", "download", *quiet, *which, "--dest", temporary)
        subprocess.run([*pip, f"{distribution}=={version}"], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = (f"{package}/include/", f"{wheel.name.split('-')[0]}-{version}.dist-info/")
            names = [name for name in archive.namelist() if name.startswith(wanted)]
            archive.extractall(Path(temporary, "unpacked"), names)
        Path(temporary, "unpacked").rename(place)  # now it is whole
    return place


def main(folder):
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    distribution = "tensorflow-cpu" if platform.machine() == "x86_64" else "tensorflow"  # smaller
    places = [fetched(folder, distribution, version, "tensorflow") for version in TENSORFLOW]
    places.append(fetched(folder, "jaxlib", JAXLIB, "jaxlib"))
    for place in set(folder.iterdir()) - set(places):
        shutil.rmtree(place)  # of an earlier table


if __name__ == "__main__":
    main(*sys.argv[1:])
