"""How well moments in 8 and 16 bits train: codes that were tried, on four small problems.

    python bench/optimizer_quantization_quality.py [--json FILE] [--seeds 3] [--codes NAME ...]

Each problem is one that codes fail at: gradients whose sizes are mixed within a block or shrink,
rare rows of an embedding, and a language model. Moments are rounded after each step, as a code
would. The code "fastkeras" is the one it has, of fastkeras/optimizers/quantization.py: "E5M2, E6M2,
both at random", but that first moments below the smallest code become 0, that second ones have no
0, and that both are rounded by bits of one hash.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

from fastkeras._arrays import NUMPY
from fastkeras.bench import limits
from fastkeras.optimizers import quantization, rounding

BLOCK = 256
RULES = {"adam": (0.9, 0.999), "lion": (0.9, 0.99), "momentum": (0.9, None)}


def in_blocks(x, fn):
    """Apply fn(numbers relative to the largest of their block) and scale back."""
    flat = np.pad(x.ravel(), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
    largest = np.abs(flat).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    return (fn(flat / largest) * largest).ravel()[: x.size].reshape(x.shape).astype("float32")


def minifloat(exponent_bits, digits, is_random, has_zero=False, *, rng, x):
    """An 8-bit float relative to the largest of its block; non-zeros are 0 only with `has_zero`."""

    def rounded(relative):
        size = np.abs(relative).astype("float32")
        places = 23 - digits
        low = 2.0 ** (-(2**exponent_bits) + 2.0**-digits)
        add = rng.integers(0, 1 << places, size.shape, "int32") if is_random else 1 << places - 1
        codes = (size.view("int32") + np.int32(add)) >> places << places
        kept = np.clip(codes.view("float32"), low, 1)
        is_zero = (codes.view("float32") < low) & has_zero | (size == 0)
        return np.where(is_zero, 0, np.copysign(kept, relative))

    return in_blocks(x, rounded)


def dynamic_levels(has_sign):
    """The dynamic code of Dettmers et al. 2022: seven decades of 1, 2, 4 ... equal steps."""
    levels = [0.0, 1.0]
    for decade in range(7):
        steps = 2**decade if has_sign else 2 ** (decade + 1)
        levels += [10.0 ** (decade - 6) * (0.1 + 0.9 * (j + 0.5) / steps) for j in range(steps)]
    levels = np.sort(levels)
    return np.union1d(-levels[levels < 1], levels) if has_sign else levels


LEVELS = {has_sign: dynamic_levels(has_sign) for has_sign in (True, False)}


def dynamic(has_sign, x):
    """Nearest dynamic code; without a sign never from non-zero to 0."""
    levels = LEVELS[has_sign]
    middles = (levels[1:] + levels[:-1]) / 2

    def rounded(relative):
        nearest = levels[np.searchsorted(middles, relative)]
        return nearest if has_sign else np.where(relative > 0, np.maximum(nearest, levels[1]), 0)

    return in_blocks(x, rounded)


def bfloat16(is_random, rng, x):
    add = rng.integers(0, 1 << 16, x.shape, "uint32") if is_random else np.uint32(1 << 15)
    return ((x.astype("float32").view("uint32") + add) >> 16 << 16).view("float32")


def of_fastkeras(seed):
    """The code of `moment_bits=8`; both moments of a step share random bits."""
    seeds = {"s": iter(range(seed << 20, 2**31)), "u": iter(range(seed << 20, 2**31))}

    def rounded(sign, x):
        elements = np.arange(x.size, dtype="int32").reshape(x.shape)
        of_step = rounding.seeds(NUMPY, np.int32(next(seeds[sign])), np.zeros(1, "int32"))[0]
        random = rounding.dither_bits_of_slot(NUMPY, of_step, "su".index(sign), elements)
        with np.errstate(over="ignore", invalid="ignore"):
            coded = quantization.quantize(NUMPY, x, sign == "s", random)
            return quantization.dequantize(NUMPY, *coded, sign == "s")

    return partial(rounded, "s"), partial(rounded, "u")


def codes(rng):
    """Return for each name what becomes of a first moment and of a second one, in float32."""

    def pair(first, second):
        return (
            lambda x: minifloat(*first, rng=rng, x=x),
            lambda x: minifloat(*second, rng=rng, x=x),
        )

    return {
        "float32": (lambda x: x, lambda x: x),
        "fastkeras": of_fastkeras(0 if rng is None else int(rng.integers(1000))),
        "dynamic": (partial(dynamic, True), partial(dynamic, False)),
        "E4M3, E5M3, nearest": pair((4, 3, False), (5, 3, False)),
        "E4M3, E5M3, second at random": pair((4, 3, False), (5, 3, True)),
        "E4M3 with 0, E5M3, at random": pair((4, 3, True, True), (5, 3, True)),
        "E5M2, E5M3, second at random": pair((5, 2, False), (5, 3, True)),
        "E5M2, E5M3, both at random": pair((5, 2, True), (5, 3, True)),
        "E5M2, E6M2, nearest": pair((5, 2, False), (6, 2, False)),
        "E5M2, E6M2, second at random": pair((5, 2, False), (6, 2, True)),
        "E5M2, E6M2, both at random": pair((5, 2, True), (6, 2, True)),
        "bfloat16, nearest": (partial(bfloat16, False, rng), partial(bfloat16, False, rng)),
        "bfloat16, second at random": (partial(bfloat16, False, rng), partial(bfloat16, True, rng)),
        "bfloat16, both at random": (partial(bfloat16, True, rng), partial(bfloat16, True, rng)),
    }


def train(parameters, gradients, steps, rate, code, rule="adam", decay=0.0):
    """Do steps with moments that are rounded after each; yield the numbers of the steps."""
    first, second = code
    beta_1, beta_2 = RULES[rule]
    moments = [np.zeros_like(p) for p in parameters]
    velocities = [np.zeros_like(p) for p in parameters]
    for t in range(1, steps + 1):
        eta = rate * (1 - t / (steps + 1))
        for p, g, m, v in zip(parameters, gradients(t), moments, velocities, strict=True):
            if rule == "momentum":
                change = m[...] = first(beta_1 * m - eta * g)
            elif rule == "lion":
                change = -eta * np.sign(beta_1 * m + (1 - beta_1) * g)
                m[...] = first(m + (1 - beta_2) * (g - m))
            else:
                m += (1 - beta_1) * (g - m)
                v += (1 - beta_2) * (g * g - v)
                unbiased = np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
                change = -eta * unbiased * m / (np.sqrt(v) + 1e-7)
                m[...], v[...] = first(m), second(v)
            p += change - eta * decay * p
        yield t


def run(*arguments, **settings):
    for _ in train(*arguments, **settings):
        pass


def quadratic(code, seed, quick, rule="adam", rate=0.01):
    """Curvatures of 1e-4 to 1e4 in each block, with noise: the distance that remains."""
    rng = np.random.default_rng(seed)
    curvature = 10 ** rng.uniform(-4, 4, 4096).astype("f4")
    point = [rng.standard_normal(4096, "f4")]

    def gradients(t):
        noise = 0.1 * np.sqrt(curvature) * rng.standard_normal(4096, "f4")
        return [curvature * point[0] + noise]

    with np.errstate(over="ignore", invalid="ignore"):
        run(point, gradients, 200 if quick else 2000, rate, code, rule)
        return {"loss": np.sqrt(np.mean(point[0] ** 2)), "largest": np.abs(point[0]).max()}


def shrinking(code, seed, quick):
    """Half of each block's gradients become 30 times smaller: the step over the rate, later."""
    rng = np.random.default_rng(seed)
    weights, position = [np.zeros(4096, "f4")], 0
    ends = 500 if quick else 2000
    seen = []

    def gradients(t):
        g = rng.normal(1, 1, 4096).astype("f4")
        if t > ends:
            g[::2] /= 30
        return [g]

    before = None
    for t in train(weights, gradients, 3 * ends, 1e-3, code):
        position = weights[0][::2].mean()
        if before is not None and t > ends:
            seen.append((before - position) / (1e-3 * (1 - t / (3 * ends + 1))))
        before = position
    return {"loss": np.mean(seen), "largest": np.abs(weights[0]).max()}


def zipf(code, seed, quick, rule="adam", rate=0.01):
    """An embedding of 512 words, of which the frequent ones are seen often."""
    rng = np.random.default_rng(seed)
    words, size = 512, 16
    target, table = rng.standard_normal((words, size), "f4"), [np.zeros((words, size), "f4")]
    shares = 1 / np.arange(1, words + 1)

    def gradients(t):
        seen = rng.choice(words, 64, p=shares / shares.sum())
        g = np.zeros((words, size), "f4")
        np.add.at(g, seen, table[0][seen] - target[seen])
        return [g]

    run(table, gradients, 200 if quick else 2000, rate, code, rule)
    error = np.sqrt(np.mean((table[0] - target) ** 2))
    return {"loss": error, "largest": np.abs(table[0]).max()}


def text():
    """Python's own explanations of its language, as numbers of their characters."""
    read = "".join(topics[name] for name in sorted(topics))
    kept = sorted(set(read))
    number = {character: i for i, character in enumerate(kept)}
    return np.array([number[character] for character in read]), len(kept)


def language_model(code, seed, quick, rule="adam", rate=2e-3):
    """A model of characters (Bengio et al. 2003): embeddings of 10, a layer of tanh, softmax."""
    rng = np.random.default_rng(seed)
    characters, count = text()
    context, size, hidden, batch = 10, 16, 192, 64
    windows = np.lib.stride_tricks.sliding_window_view(characters, context + 1)
    test = windows[rng.choice(len(windows), 4000, replace=False)]
    shapes = [(count, size), (context * size, hidden), (hidden,), (hidden, count), (count,)]
    weights = [
        (rng.standard_normal(s) / np.sqrt(s[0] if s[0] != count else 1)).astype("f4")
        if len(s) == 2
        else np.zeros(s, "f4")
        for s in shapes
    ]
    weights[3] *= 0.1

    def forward(seen):
        read = weights[0][seen[:, :-1]].reshape(len(seen), -1)
        inner = np.tanh(read @ weights[1] + weights[2])
        scores = inner @ weights[3] + weights[4]
        scores -= scores.max(axis=1, keepdims=True)
        of_next = np.exp(scores)
        return read, inner, of_next / of_next.sum(axis=1, keepdims=True)

    def gradients(t):
        seen = windows[rng.integers(0, len(windows), batch)]
        read, inner, d = forward(seen)
        d[np.arange(batch), seen[:, -1]] -= 1
        d /= batch
        d_inner = (d @ weights[3].T) * (1 - inner**2)
        d_read = (d_inner @ weights[1].T).reshape(batch * context, size)
        table = np.zeros_like(weights[0])
        np.add.at(table, seen[:, :-1].ravel(), d_read)
        return [table, read.T @ d_inner, d_inner.sum(0), inner.T @ d, d.sum(0)]

    run(weights, gradients, 100 if quick else 3000, rate, code, rule, decay=0.01)
    of_next = forward(test)[-1][np.arange(len(test)), test[:, -1]]
    largest = max(np.abs(w).max() for w in weights)
    return {"loss": -np.log(of_next + 1e-30).mean(), "largest": largest}


PROBLEMS = {
    "quadratic": quadratic,
    "shrinking gradients": shrinking,
    "Zipf embedding": zipf,
    "language model": language_model,
    "quadratic, Lion": partial(quadratic, rule="lion", rate=0.003),
    "language model, Lion": partial(language_model, rule="lion", rate=3e-4),
    "language model, momentum": partial(language_model, rule="momentum", rate=0.1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to add the results to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codes", nargs="*", help="only these")
    parser.add_argument("--problems", nargs="*", help="only these")
    parser.add_argument("--quick", action="store_true", help="fewer steps, which prove nothing")
    given = parser.parse_args()
    for problem in given.problems or PROBLEMS:
        for name in given.codes or codes(None):
            rows = []
            for seed in range(given.seeds):
                code = codes(np.random.default_rng(100 + seed))[name]
                row = PROBLEMS[problem](code, seed, given.quick)
                rows.append({key: float(value) for key, value in row.items()})
                if given.json:
                    add_to(given.json, problem, name, seed, rows[-1])
            losses = " ".join(f"{row['loss']:.4f}" for row in rows)
            largest = " ".join(f"{row['largest']:.3g}" for row in rows)
            print(f"{problem:25} {name:30} {losses}   largest {largest}", flush=True)


def add_to(path, problem, code, seed, row):
    """Put a row into a file of results, which keeps all others that it has."""
    results = json.loads(path.read_text()) if path.exists() else {}
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    results["machine"] = {"cpu": limits.cpu(), "versions": versions}
    of_code = results.setdefault("problems", {}).setdefault(problem, {}).setdefault(code, [])
    of_code[seed : seed + 1] = [row]
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
