"""The C++ kernels as one call of XLA, for JAX arrays on the CPU, eagerly and in compiled programs.

Results are written into the memory of the arguments if XLA allows it: in a compiled program whose
variables are donated to it (`donate_argnums`), as in Keras' training, nothing is copied.
"""

from itertools import chain

import jax
import numpy as np
from jax import ShapeDtypeStruct

from fastkeras import _engines
from fastkeras._ops.jax import differentiable, on_cuda_of, on_numpy_arrays, register
from fastkeras.optimizers.chains import encode
from fastkeras.optimizers.rules import is_quantized

DTYPES = ("float16", "bfloat16", "float32", "float64")
NAME = register("fastkeras_optimizer_step")


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    remainders = [remainder for remainder in extras.remainders if remainder is not None]
    rows = [of_one for of_one in extras.rows if of_one is not None]
    held = [*parameters, *chain(*slots), *remainders]
    read = [_readable(g, p) for g, p in zip(gradients, parameters, strict=True)]
    seeds = np.zeros(0, "int32") if extras.seeds is None else extras.seeds
    arrays = (*held, *read, *rows, frozen, coefficients, decays, extras.rates, seeds)
    encoded = [encode(transform) for steps in chains for transform in steps]
    kinds, operands, groups = zip(*encoded, strict=True) if encoded else ((), (), ())
    attributes = {
        "rule": rule,
        "N": len(parameters),
        "M": sum(map(len, slots)),
        "quantized": _flags(is_quantized(rule, of_one) for of_one in slots),
        "has_remainder": _flags(remainder is not None for remainder in extras.remainders),
        "has_rows": _flags(of_one is not None for of_one in extras.rows),
        "adapted": _flags(extras.adapted),
        "dithered": _flags(extras.dithered),
        "num_held": len(held),
        "chain_lengths": tuple(map(len, chains)),
        "chain_kinds": kinds,
        "chain_operands": operands,
        "chain_groups": groups,
        "chains": tuple(map(tuple, chains)),
    }
    call = _step if any(isinstance(array, jax.Array) for array in arrays) else _on_numpy_arrays
    *new, finite = call(*arrays, **attributes)
    new = iter(new)
    return (
        [next(new) for _ in parameters],
        [[next(new) for _ in of_one] for of_one in slots],
        [None if remainder is None else next(new) for remainder in extras.remainders],
        finite,
    )


def why_not(arrays):
    """Return why the kernels cannot take these arrays of JAX, in words, or None if they can."""
    from fastkeras._arrays import family_of

    for array in arrays:
        if array.dtype.name not in (*DTYPES, "uint8"):
            return f"a variable is of {array.dtype}"
        is_elsewhere = family_of(array) == "jax_elsewhere"
        if is_elsewhere and _engines.engines("optimizers")["jax_cuda"] != "ready":
            return "a variable is not on the CPU"
    return None


def is_spread(array):
    """Whether an array is known to have parts on several devices."""
    return not isinstance(array, jax.core.Tracer) and not array.sharding.is_fully_replicated


def _flags(values):
    return "".join("1" if value else "0" for value in values)


def _readable(gradient, parameter):
    """A gradient of a dtype that the kernels take with this parameter."""
    is_wide = parameter.dtype == "float64"
    fits = gradient.dtype.name in DTYPES and is_wide == (gradient.dtype == "float64")
    return gradient if fits else gradient.astype(parameter.dtype)


def _run(attributes, *arrays):
    attributes = dict(attributes)
    aliases = {i: i for i in range(attributes.pop("num_held"))}
    shapes = [ShapeDtypeStruct(a.shape, a.dtype) for a in arrays[: len(aliases)]]

    def on_cpu(*arrays):
        call = jax.ffi.ffi_call(
            NAME,
            [*shapes, ShapeDtypeStruct((), "bool")],
            vmap_method="sequential",
            input_output_aliases=aliases,
        )
        in_c = {n: _in_c(n, value) for n, value in attributes.items() if n != "chains"}
        return call(*arrays, **in_c)

    def on_cuda(*arrays):
        *before, frozen, coefficients, decays, rates, seeds = arrays
        first = len(aliases) + attributes["N"]
        before[first:] = map(_in_64_bits, before[first:])
        numbers = coefficients, *(x.astype(coefficients.dtype) for x in (decays, rates))
        taken = (*before, frozen.astype(bool), *numbers, seeds)
        results = [*shapes, ShapeDtypeStruct((1,), "int32")]
        *new, not_finite = cuda.run(kernel, results, taken, attributes, aliases)
        return [*new, not_finite[0] == 0]

    kernel, cuda = on_cuda_of("optimizers", NAME)
    if kernel is None:
        return on_cpu(*arrays)
    return jax.lax.platform_dependent(*arrays, default=on_cpu, **{cuda.PLATFORM: on_cuda})


def _in_64_bits(rows):
    """Numbers of rows as the CUDA kernels read them; JAX may have no int64."""
    if rows.dtype == "int64":
        return rows
    low = rows.astype("int32")
    return jax.numpy.stack([low, jax.numpy.zeros_like(low)], axis=-1)  # little-endian


def _in_c(name, value):
    if isinstance(value, tuple):
        return np.array(value, "float64" if name == "chain_operands" else "int32")
    return np.int32(value) if isinstance(value, int) else value


def _not_differentiable(attributes, kept, d_results):
    raise NotImplementedError(
        "engine='jax_native' cannot differentiate an optimizer step: engine='keras' can, for which "
        "set the environment variable FASTKERAS_ENGINE=keras"
    )


_step = differentiable(
    _run, lambda attributes, *arrays: (_run(attributes, *arrays), ()), _not_differentiable
)


def _on_numpy_arrays(*arrays, **attributes):
    return on_numpy_arrays(_step, *arrays, **attributes)
