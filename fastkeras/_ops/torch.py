"""Makes kernels for NumPy arrays torch ops that work with autograd, torch.compile, torch.func."""

from inspect import signature

import torch

from fastkeras._ops.torch_arrays import without_autocast

LIBRARY = torch.library.Library("fastkeras", "FRAGMENT")  # when it is deleted, so are its ops
_TAGS = (torch.Tag.pt2_compliant_tag,)


def _refuse_gradient(d_results, of):
    """Return zero if the incoming gradient is zero, as for unused results; else raise."""
    if any(d.any() for d in d_results):
        raise NotImplementedError(f"engine='torch_native' cannot differentiate {of}")
    return d_results[0].new_zeros(())


# torch.compile traces every backward pass, so the refusal has to be an op of its graph
torch.library.define(
    "fastkeras::refuse_gradient", "(Tensor[] d, str of) -> Tensor", lib=LIBRARY, tags=_TAGS
)
torch.library.impl("fastkeras::refuse_gradient", ("cpu", "cuda"), _refuse_gradient, lib=LIBRARY)
torch.library.register_fake(
    "fastkeras::refuse_gradient", lambda d_results, of: d_results[0].new_empty(()), lib=LIBRARY
)


def op(schema, *arguments, **more):
    """Decorate a function of NumPy arrays, so that it is an op of CPU tensors, as `define` says."""

    def of(function):
        call = define(schema, *arguments, **more)
        on_cpu(schema.partition("(")[0], function)
        return call

    return of


def on_cpu(name, function):
    """Let an op call a function of NumPy arrays, which share the memory of its CPU tensors."""

    def on_tensors(*inputs):
        results = function(*map(array_of, inputs), num_threads=torch.get_num_threads())
        if isinstance(results, tuple):
            return tuple(map(torch.from_numpy, results))
        return torch.from_numpy(results)

    torch.library.impl(f"fastkeras::{name}", "cpu", on_tensors, lib=LIBRARY)


def define(schema, like, batch_axes, result_axes, backward=None, keeps=(), not_differentiable=""):
    """Define an op, in `torch.ops`, whose kernels follow: `on_cpu`, or those for other devices.

    Args:
        schema: "name(Tensor x, int k) -> Tensor", as `torch.library` writes it.
        like: a function of the same inputs that returns empty tensors of the shapes and dtypes of
            the results.
        batch_axes: for each input, the axis of its batch, None if it has none; or a function that
            returns them, of the mapped axes of the inputs, or None, and the inputs.
        result_axes: the same for each result, None if it is a sum over the batch; or a single None
            for all, if any of them is such a sum.
        backward: a function of the inputs, the results in `keeps`, and the incoming gradient of the
            first result; it returns the gradient by each input, None where there is none.
        keeps: the numbers of the results that `backward` reads. Only the first result is
            differentiable. If a kept result has no axis for the batch, the last input says whether
            to compute it; otherwise it is empty.
        not_differentiable: without `backward`, what cannot be differentiated and what to use
            instead, for the error.

    Returns:
        The op as a function, of tensors of any strides. Under `torch.func.vmap` the mapped axis
        becomes part of the batch; if a mapped input has no batch, or a result is a sum over the
        batch, there is one call for each element instead.
    """
    function_name, parenthesis, types = schema.partition("(")
    name = f"fastkeras::{function_name}"

    def keep(ctx, inputs, output):
        results = output if isinstance(output, tuple) else (output,)
        ctx.set_materialize_grads(False)
        if keeps:
            ctx.mark_non_differentiable(*results[1:])
        ctx.given = [None if isinstance(x, torch.Tensor) else x for x in inputs]
        tensors = (x if isinstance(x, torch.Tensor) else None for x in inputs)
        ctx.save_for_backward(*tensors, *(results[i] for i in keeps))

    def differentiate(ctx, *d_results):
        tensors, count = ctx.saved_tensors, len(ctx.given)
        d_results = [d for d in d_results if d is not None]
        if not d_results:
            return (None,) * count
        if backward is None:
            zero = torch.ops.fastkeras.refuse_gradient(d_results, not_differentiable)
            return tuple(
                zero.to(t.dtype).expand(t.shape)
                if t is not None and t.is_floating_point()
                else None
                for t in tensors[:count]
            )
        given = zip(tensors[:count], ctx.given, strict=True)
        inputs = (value if tensor is None else tensor for tensor, value in given)
        with without_autocast(d_results[0]):
            return backward(*inputs, *tensors[count:], d_results[0])

    torch.library.define(name, parenthesis + types, lib=LIBRARY, tags=_TAGS)
    torch.library.register_fake(name, like, lib=LIBRARY)
    overload = getattr(torch.ops.fastkeras, function_name).default

    def of_op(*inputs):
        return overload(*inputs)

    of_op.__signature__ = signature(of_op)  # otherwise `apply` computes it at each call

    class Function(torch.autograd.Function):
        forward = staticmethod(of_op)
        setup_context = staticmethod(keep)
        backward = staticmethod(differentiate)
        vmap = staticmethod(lambda *given: mapped(*given))

    def call(*inputs):
        # torch.func does not use the gradient registered with an op, and dynamo does not
        # accept a Function inside a Function
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return overload(*inputs)
        return Function.apply(*inputs)

    call.__name__ = call.__qualname__ = function_name
    in_one = any(result_axes[number] is None for number in keeps)
    mapped = _mapped(call, batch_axes, result_axes, in_one)
    torch.library.register_autograd(name, differentiate, setup_context=keep, lib=LIBRARY)
    torch.library.register_vmap(name, mapped, lib=LIBRARY)
    return call


def array_of(value):
    """The NumPy array that shares the memory of a CPU tensor; other values are returned as is."""
    return value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else value


def _mapped(call, batch_axes, result_axes, keeps_in_one):
    """The rule of `torch.func.vmap`, for a function of tensors with these axes."""

    def rule(info, in_dims, *inputs):
        size = info.batch_size
        axes = batch_axes(in_dims, inputs) if callable(batch_axes) else batch_axes
        in_batch = all(
            dim is None or axis is not None for dim, axis in zip(in_dims, axes, strict=True)
        )
        if result_axes is None or not in_batch:
            return one_by_one(size, in_dims, inputs)
        if keeps_in_one:  # kept results are of the whole batch, and cannot be separated
            inputs = (*inputs[:-1], False)
        results = call(*map(_into_batch, inputs, in_dims, axes, [size] * len(inputs)))
        results = results if isinstance(results, tuple) else (results,)
        results = tuple(
            r if axis is None else r.unflatten(axis, (size, r.shape[axis] // size))
            for r, axis in zip(results, result_axes, strict=True)
        )
        return (results, result_axes) if len(results) > 1 else (results[0], result_axes[0])

    def one_by_one(size, in_dims, inputs):
        results = [
            call(
                *(
                    value if dim is None else value.select(dim, index)
                    for value, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for index in range(size)
        ]
        if isinstance(results[0], tuple):
            return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])
        return torch.stack(results), 0

    return rule


def _into_batch(value, dim, axis, size):
    """The input for `size` calls as one batch: its mapped axis, or `size` copies, is merged in."""
    if axis is None or value is None:
        return value
    if dim is None:
        value = value.unsqueeze(axis).expand(*value.shape[:axis], size, *value.shape[axis:])
    else:
        value = value.movedim(dim, axis)
    return value.flatten(axis, axis + 1)
