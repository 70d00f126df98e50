"""Kernels for NumPy arrays as torch ops: what autograd, torch.compile and torch.func ask of one."""

from functools import wraps

import torch


def op(name, like, schema=None, backward=None, not_differentiable=""):
    """Make an op of a function of NumPy arrays, which share the memory of its CPU tensors.

    Args:
        name: "namespace::name".
        like: a function of the same inputs that returns empty tensors of the shapes and dtypes of
            the results.
        schema: "(Tensor x, int k) -> Tensor", as `torch.library` writes it; None where the types of
            the function's parameters tell.
        backward: a function of the inputs and of what comes back by each result, which returns the
            gradient by each input, None where there is none.
        not_differentiable: without it, what cannot be differentiated and what can, for the error.

    Returns:
        A decorator. What it makes takes tensors of any strides, and is called once for each element
        under `torch.func.vmap`. The op itself is in `torch.ops`.
    """

    def of(function):
        @wraps(function)
        def on_tensors(*inputs):
            results = function(*map(_array_of, inputs))
            if isinstance(results, tuple):
                return tuple(map(torch.from_numpy, results))
            return torch.from_numpy(results)

        made = torch.library.custom_op(
            name, on_tensors, mutates_args=(), device_types="cpu", schema=schema
        )
        made.register_fake(like)
        made.register_vmap(_one_by_one(made))
        namespace, _, function_name = name.partition("::")
        overload = getattr(getattr(torch.ops, namespace), function_name).default

        def keep(ctx, inputs, output):
            ctx.given = [None if isinstance(x, torch.Tensor) else x for x in inputs]
            ctx.save_for_backward(*(x if isinstance(x, torch.Tensor) else None for x in inputs))

        def differentiate(ctx, *d_results):
            if backward is None:
                raise NotImplementedError(
                    f"engine='torch_native' cannot differentiate {not_differentiable}"
                )
            saved = zip(ctx.saved_tensors, ctx.given, strict=True)
            inputs = (given if tensor is None else tensor for tensor, given in saved)
            return backward(*inputs, *d_results)

        made.register_autograd(differentiate, setup_context=keep)

        class Function(torch.autograd.Function):
            forward = staticmethod(lambda *inputs: overload(*inputs))
            setup_context = staticmethod(keep)
            backward = staticmethod(differentiate)
            vmap = staticmethod(_one_by_one(made))

        @wraps(function)
        def call(*inputs):
            # torch.func takes no gradient that is registered with an op, and dynamo no Function
            # within a Function
            if torch.compiler.is_compiling():
                return overload(*inputs)
            return Function.apply(*inputs)

        return call

    return of


def _array_of(value):
    return value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else value


def _one_by_one(made):
    """The rule of `torch.func.vmap`: a call for each element."""

    def calls(info, in_dims, *inputs):
        results = [
            made(
                *(
                    value if dim is None else value.select(dim, index)
                    for value, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for index in range(info.batch_size)
        ]
        if isinstance(results[0], tuple):
            return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])
        return torch.stack(results), 0

    return calls
