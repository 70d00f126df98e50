"""One small call of each kernel on a real GPU, to be run under compute-sanitizer (make gpu)."""

import cupy
import numpy as np


def of_crf():
    from fastkeras import crf

    rng = np.random.default_rng(0)
    for shape, scale in (((3, 70, 9), 1), ((3, 70, 9), 300), ((2, 9, 33), 1), ((2, 6, 130), 1)):
        x = cupy.asarray((scale * rng.standard_normal(shape)).astype("float32"))
        transitions = cupy.asarray(rng.standard_normal((shape[2],) * 2, "float32"))
        mask = cupy.asarray(rng.random(shape[:2]) < 0.8)
        tags = cupy.asarray(rng.integers(0, shape[2], shape[:2]).astype("int32"))
        crf.log_likelihood_and_gradients(x, tags, transitions, mask=mask)
        crf.marginals(x, transitions)
        crf.viterbi(x, transitions, mask=mask)
        crf.k_best(x, transitions, k=3)
        crf.sample(x, transitions, num_samples=3, seed=0)


def of_optimizers():
    from fastkeras.optimizers import transforms, update

    rng = np.random.default_rng(0)
    chain = (transforms.clip_by_global_norm(0.5), transforms.clip_by_value(0.1))
    sizes = (1, 300, 5000)
    for rule, count, bits in (("adam", 2, 32), ("adam", 2, 8), ("lamb", 2, 32), ("lion", 1, 8)):
        parameters, gradients = (
            [cupy.asarray(rng.standard_normal(size, "float32")) for size in sizes] for _ in (1, 2)
        )
        kinds = {32: (("float32", 1),), 8: (("uint8", 1), ("float32", 256))}[bits]
        slots = [
            tuple(cupy.zeros(-(-size // each), kind) for _ in range(count) for kind, each in kinds)
            for size in sizes
        ]
        update(
            rule, parameters, gradients, slots, learning_rate=0.1, step=1, transforms=[chain] * 3
        )


def of_word2vec():
    from fastkeras.word2vec import Vocabulary, Word2Vec

    rng = np.random.default_rng(0)
    words = Vocabulary([f"word{i}" for i in range(40)], np.arange(40, 0, -1))
    ids = rng.integers(40, size=600, dtype=np.int32)
    ids[rng.random(600) < 0.1] = -1
    for more in ({}, {"shared_negatives": None}, {"objective": "cbow"}):
        model = Word2Vec(vector_size=20, window=3, epochs=1, engine="cupy", **more)
        model.fit(ids, vocabulary=words, progress=False)


CASES = (of_crf, of_optimizers, of_word2vec)

if __name__ == "__main__":
    cupy.cuda.set_allocator(None)  # each array is an allocation of its own, so that its end is seen
    for case in CASES:
        case()
        cupy.cuda.runtime.deviceSynchronize()
        print(case.__name__, "done", flush=True)
