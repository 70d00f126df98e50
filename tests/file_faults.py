"""Injects faults of disks and processes while a file is written, each in a process of its own.

Run as a program, `python file_faults.py FORMAT FOLDER`, it tries all faults on one file format and
prints how many it tried; `tests/test_files.py` does so for every format.
"""

import errno
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

WORDS = {"old": ["the", "cat", "sat"], "new": ["a", "dog", "ran", "off"]}
CUTS = 8  # places in a file at which writing is interrupted


def vectors(which):
    from fastkeras.word2vec.vectors import Vectors

    words = WORDS[which]
    return Vectors(words, np.full((len(words), 16), len(words), np.float32))


def _vectors_in(path):
    from fastkeras.word2vec.vectors import Vectors

    loaded = Vectors.load(path)
    return loaded.words, loaded.matrix.tolist()


def _save_model(path, which):
    from fastkeras.word2vec import Word2Vec

    model = Word2Vec(8, min_count=1, sample=0, epochs=1, num_threads=1)
    model.fit([" ".join(WORDS[which])] * 3, progress=False).save(path)


def _model_in(path):
    from fastkeras.word2vec import Word2Vec

    model = Word2Vec.load(path)
    return model.vocabulary.words, model.input_embeddings.tolist()


def _save_vocabulary(path, which):
    from fastkeras.word2vec import Vocabulary

    Vocabulary(WORDS[which], np.arange(len(WORDS[which]), 0, -1)).save(path)


def _save_phrases(path, which):
    from fastkeras.word2vec.phrases import Phrases

    Phrases({tuple(WORDS[which][:2]): 1.5}).save(path)


def _save_ids(path, which):
    from fastkeras.word2vec import Vocabulary
    from fastkeras.word2vec.corpus import encode

    text = Path(path).parent.with_suffix(".txt")
    if not text.exists():
        text.write_text(" ".join(WORDS["new"]) + "\n")
    words = WORDS["new"] if which == "new" else WORDS["new"][::-1]
    encode(text, Vocabulary(words, [1] * len(words)), Path(path).parent)


def _save_picture(path, which):
    from fastkeras.training.callbacks.sample_sheet import write_png

    write_png(path, np.full((8, 8, 3), len(WORDS[which]), np.uint8))


def _save_weights(path, which):
    from fastkeras.compat.convert import convert_crf

    old = Path(path).parent.with_suffix(".npz")
    np.savez(old, trans=np.full((len(WORDS[which]),) * 2, len(WORDS[which])))
    convert_crf(old, path)


def _weights_in(path):
    import h5py

    with h5py.File(path) as file:
        return [np.asarray(array).tolist() for array in file["vars"].values()]


def _save_text(path, which):
    from fastkeras._files import replacing

    with replacing(path, "w", encoding="utf-8") as file:
        for word in WORDS[which]:
            file.write(word + "\n")


def _bytes_in(path):
    return Path(path).read_bytes()


def _save_vectors(path, which):
    vectors(which).save(path)


FORMATS = {  # by the name of the file: how to write it, and how to read its contents
    "v.bin": (_save_vectors, _vectors_in),
    "v.txt": (_save_vectors, _vectors_in),
    "v.vec.gz": (_save_vectors, _vectors_in),
    "v.npy": (_save_vectors, _vectors_in),
    "v.tsv": (_save_vectors, _bytes_in),
    "model.npz": (_save_model, _model_in),
    "words.txt": (_save_vocabulary, _bytes_in),
    "phrases.tsv": (_save_phrases, _bytes_in),
    "corpus.int32": (_save_ids, _bytes_in),
    "sheet.png": (_save_picture, _bytes_in),
    "crf.weights.h5": (_save_weights, _weights_in),
    "plain.txt": (_save_text, _bytes_in),
}


def _kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(*_):
    raise OSError(errno.EIO, "injected")


def _written_up_to(size, killed):
    """Limit a file to so many bytes; beyond them, a write fails or kills the process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if killed else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _at_call(name, number, fault):
    """Replace one call of a function of `os` by a fault; `number` counts its calls from 0."""
    usual, calls = getattr(os, name), iter(range(1000))

    def injected(*arguments, **options):
        return (fault if next(calls) == number else usual)(*arguments, **options)

    setattr(os, name, injected)


def _refused(*_):
    raise PermissionError(errno.EACCES, "injected")


def faults(size):
    """Yield (description, whether it kills, function that injects it in the writer's process)."""
    for at in sorted({0, 1, *np.linspace(2, size - 1, CUTS).astype(int).tolist()}):
        for killed in (False, True):
            what = f"{'killed' if killed else 'disk full'} after {at} of {size} bytes"
            yield what, killed, lambda at=at, killed=killed: _written_up_to(at, killed)
    for name, fault in [(n, f) for n in ("fsync", "replace") for f in (_kill, _fail)]:
        for number in range(4 if name == "fsync" else 2):
            what = f"{fault.__name__} at os.{name} number {number}"
            yield what, fault is _kill, lambda a=(name, number, fault): _at_call(*a)
    yield "no permission", False, lambda: _at_call("open", 0, _refused)


def in_child(function):
    """Run a function in a child process; return "ended", "failed" (an OSError) or "killed"."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except OSError:
            os._exit(1)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(2)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1), "another exception than OSError"
    return ("ended", "failed")[code]


def main(name, folder):
    """Try all faults on one file format."""
    save, content = FORMATS[name]
    path = Path(folder) / "files" / name
    path.parent.mkdir()
    in_child(lambda: None)
    save(path, "new")
    size, new = path.stat().st_size, content(path)
    save(path, "old")
    old, files = content(path), sorted(os.listdir(path.parent))
    tried, outcomes = 0, set()
    for what, kills, arm in faults(size):

        def write(arm=arm):
            arm()
            save(path, "new")

        outcome = in_child(write)
        outcomes.add(outcome)
        assert content(path) in (old, new), f"{what}: neither the old nor the new file"
        if outcome == "ended":
            assert content(path) == new, f"{what}: an unreported failure"
        if outcome != "killed":
            left = sorted(os.listdir(path.parent))
            assert left == files, f"{what}: left {left}"
        assert outcome != "killed" or kills, what
        save(path, "old")
        assert content(path) == old, what
        assert sorted(os.listdir(path.parent)) == files, f"{what}: the next save left files"
        tried += 1
    assert {"failed", "killed"} <= outcomes
    print(tried)


if __name__ == "__main__":
    main(*sys.argv[1:])
