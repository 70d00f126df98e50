"""Makes the C++ kernels calls of XLA on the CPU that work under JAX's transformations.

The library, made of csrc/**/jax.cc, is built where setup.py finds a jaxlib.
"""

import re
from ctypes import CDLL, c_int
from importlib import import_module
from pathlib import Path

import jax
import jaxlib
import numpy as np

from fastkeras import _build
from fastkeras._engines import why_not_ready

try:
    from jax import enable_x64
except ImportError:  # before JAX 0.8
    from jax.experimental import enable_x64

NAME = "libfastkeras_jax"


def _load():
    path = _build.FOLDER / f"{NAME}.so"
    if not hasattr(jax, "ffi"):
        raise ImportError(
            f"engine='jax_native' takes JAX 0.5 or newer, and this is {jax.__version__}"
        )
    if not path.exists():
        raise ImportError(_build.reason(NAME, jaxlib=jaxlib.__version__))
    try:
        return CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{error}; {_again()}") from error


_library = _load()


def function_of(name, result, *arguments):
    """A function of the library, given the ctypes of its result and arguments."""
    try:
        function = getattr(_library, name)
    except AttributeError as error:
        raise ImportError(f"{NAME}.so was compiled from other sources: {_again()}") from error
    function.restype, function.argtypes = result, arguments
    return function


def _check_interface():
    """Raise ImportError if the library was compiled for a newer interface than this jaxlib has.

    XLA would refuse its functions too, but usually only when the first array is made, and then JAX
    has no CPU at all. The headers in jaxlib's folder show its version without starting it.
    """
    path = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    if not path.exists():
        return
    defined = r"#define XLA_FFI_API_{} (\d+)"
    text = path.read_text("utf-8")
    major, minor = (int(re.search(defined.format(n), text)[1]) for n in ("MAJOR", "MINOR"))
    built = function_of("fastkeras_xla_interface", c_int)()
    if built > 1000 * major + minor:
        raise ImportError(
            f"{NAME}.so was compiled for version {built // 1000}.{built % 1000} of XLA's "
            f"interface, and jaxlib {jaxlib.__version__} has {major}.{minor}: {_again()}"
        )


def op(name, results, what, advice, domain=None):
    """A function of JAX arrays that calls a kernel, under all transformations except derivatives.

    Args:
        name: that of the kernel in the library, without the dtype.
        results: a function of the arrays and attributes that returns shapes and dtypes of the
            results, one `jax.ShapeDtypeStruct` or a tuple of them.
        what: what cannot be differentiated, for the error.
        advice: what to use instead, for the error.
        domain: a domain whose engine `jax_cuda` may have this kernel too; if it is ready here,
            calls run on whichever platform their program is compiled for.

    Returns:
        A function of arrays, with integers or bools as keywords; the dtype of the first array
        selects the kernel. Under `jax.vmap` it makes one call, which shares the elements among
        threads. Differentiating it raises NotImplementedError.
    """
    for dtype in ("float32", "float64"):
        register(f"{name}_{dtype}")

    def run(attributes, *arrays):
        shapes = results(*arrays, **dict(attributes))

        def on_cpu(*arrays):
            call = jax.ffi.ffi_call(
                f"{name}_{arrays[0].dtype}",
                shapes,
                vmap_method="expand_dims",  # xla_call.h handles axes before the given rank
            )
            in_c = {key: _as_in_c(value) for key, value in attributes}
            in_c |= {"num_threads": np.int32(0)}  # all processors
            return call(*arrays, **in_c, rank=np.int32(arrays[0].ndim))

        def on_cuda(*arrays):
            alone = isinstance(shapes, jax.ShapeDtypeStruct)
            returned = cuda.run(kernel, (shapes,) if alone else shapes, arrays, dict(attributes))
            return returned[0] if alone else returned

        kernel, cuda = on_cuda_of(domain, name) if domain else (None, None)
        if kernel is None:
            returned = on_cpu(*arrays)
        else:
            ways = {cuda.PLATFORM: on_cuda}
            returned = jax.lax.platform_dependent(*arrays, default=on_cpu, **ways)
        axes = _axes_of(arrays)
        return jax.tree.map(lambda result: _to_vary(result, axes - _axes_of([result])), returned)

    def backward(attributes, kept, d_results):
        raise NotImplementedError(f"engine='jax_native' cannot differentiate {what}: {advice}")

    return differentiable(run, lambda attributes, *arrays: (run(attributes, *arrays), ()), backward)


def on_cuda_of(domain, name):
    """The kernel for GPUs and the module that runs it, or None twice where these are not ready."""
    if why_not_ready(domain, "jax_cuda") is not None:
        return None, None
    cuda = import_module("fastkeras._ops.jax_cuda")
    kernels = import_module(f"fastkeras.{domain}._engines.jax_cuda").KERNELS
    return (kernels.get(name), cuda) if cuda.gpus() else (None, None)


def differentiable(function, forward, backward):
    """Give a function a reverse-mode derivative; forward mode raises an error that says so.

    All three functions are as for `jax.custom_vjp`. Their first argument, which is not
    differentiated, holds the keywords of the returned function as pairs.
    """
    made = jax.custom_vjp(function, nondiff_argnums=(0,))
    made.defvjp(forward, backward)
    compiled = jax.jit(made, static_argnums=0, inline=True)  # halves the time of eager calls

    def call(*arrays, **attributes):
        try:
            return compiled(tuple(attributes.items()), *_alike(arrays))
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise NotImplementedError(
                "engine='jax_native' has first derivatives only, in reverse (jax.grad, jax.vjp, "
                "jax.jacrev): engine='keras' has those of derivatives, and jax.jvp"
            ) from error

    return call


def _alike(arrays):
    """The arrays, all marked as varying over the same axes of a mesh.

    `jax.shard_map` tracks over which axes each array varies, and wants them equal. The mark also
    makes it sum the gradient of a shared array over the shards.
    """
    axes = _axes_of(arrays)
    return [_to_vary(array, axes - _axes_of([array])) for array in arrays] if axes else arrays


def _axes_of(arrays):
    """The axes of a mesh over which any of the arrays varies; JAX tracks them since 0.7."""
    axes = frozenset()
    for array in arrays:
        if isinstance(array, jax.core.Tracer):
            known = getattr(array.aval, "mat", array.aval)  # since 0.10
            axes |= getattr(known, "varying", getattr(known, "vma", frozenset()))
    return axes


def _to_vary(array, axes):
    if not axes:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, tuple(axes), to="varying")
    return jax.lax.pvary(array, tuple(axes))  # before 0.8.2


def on_numpy_arrays(function, *arrays, **attributes):
    """Call a function of JAX arrays with NumPy arrays, on the CPU and without changing dtypes."""
    with enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        results = function(*map(jax.numpy.asarray, arrays), **attributes)
        return jax.tree.map(np.array, results)  # copies, since JAX's own are read-only


def register(name, platform="cpu"):
    """Register a function of the library, so that XLA can call it by name; return the name."""
    handler = jax.ffi.pycapsule(function_of(name, None))
    try:
        jax.ffi.register_ffi_target(name, handler, platform=platform)
    except Exception as error:  # XLA refuses functions for another version of its interface
        raise ImportError(
            f"{NAME}.so does not suit jaxlib {jaxlib.__version__}: {error}; {_again()}"
        ) from error
    return name


def _again():
    return f"`{_build.rebuild(_build.NAMED_JAX)}` builds it again"


def _as_in_c(value):
    return value if isinstance(value, bool) else np.int32(value)


_check_interface()
