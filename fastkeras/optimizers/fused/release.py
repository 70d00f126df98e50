"""Gradients that are used and freed as soon as they are there, while others are still to come.

Lv et al. 2024, "Full parameter fine-tuning for large language models with limited resources",
https://arxiv.org/abs/2306.09782, which does so with SGD.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastkeras.optimizers.fused import matching
from fastkeras.optimizers.fused.fused_step import FusedStep
from fastkeras.optimizers.fused.sparse import ON_TENSORFLOW, ON_TORCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import keras

# Bytes: gradients of less wait until so many can share a call. On TensorFlow a part of a step also
# takes memory for its operations.
_TOGETHER = 1 << (24 if ON_TENSORFLOW else 20)


@contextlib.contextmanager
def release_gradients(
    optimizer: keras.Optimizer, variables: Sequence[keras.Variable]
) -> Iterator[None]:
    """Within this context, update each variable as soon as its gradient is there, and free that.

    An ordinary step needs the gradients of all variables at the same time, as many bytes as the
    variables themselves. Here at most those of one variable, or of small ones of 1 MiB in all (16
    on TensorFlow), wait for their update. The results are those of the ordinary step, to the last
    bit. `fit` and loops of one's own stay as they are:

    - On torch, hooks of the variables do the updates during `backward`. All gradients of a step
      have to come from one `backward`, and a variable must not be needed by what comes after its
      gradient: autograd raises then. `optimizer.apply(gradients, variables)`, whose gradients are
      None by now, ends the step, as it does in `fit`.
    - On TensorFlow, a step that is traced in this context (by `fit`, or `tf.function`) becomes an
      operation for each of these, which TensorFlow does when the gradients are there. What was
      traced before stays as it is, and what is traced here remains so afterwards.
    - On JAX nothing would be gained: XLA orders the operations of a compiled step by itself, and
      computes all gradients first.

    Args:
        optimizer: one of `fastkeras.optimizers`, without what needs all gradients before the first
            update: `global_clipnorm`, the transforms `clip_by_global_norm` and `sanitize`, and
            `gradient_accumulation_steps`. It is built if it is not.
        variables: those that are trained, as `model.trainable_variables`.

    Yields:
        Nothing.

    Raises:
        TypeError: `variables` is no list, such as a model.
        ValueError: the optimizer needs all gradients, or is not one of fastkeras; or Keras runs on
            another backend than TensorFlow and torch.
        RuntimeError: on torch, within the context: a variable gets a second gradient in one step.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.optimizers import AdamW, release_gradients
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(AdamW(0.01, clipnorm=1.0), "mse")
        >>> with release_gradients(model.optimizer, model.trainable_variables):
        ...     _ = model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
        >>> int(model.optimizer.iterations)
        1

    Source: Lv et al., 2024, "Full parameter fine-tuning for large language models with limited
    resources", which does so with SGD.
    """
    _check(optimizer)
    variables = matching.listed("variables", variables)
    optimizer.build(variables)
    optimizer._check_variables_are_known(variables)
    _check_transforms(optimizer)
    release = _Hooks(optimizer) if ON_TORCH else _Parts()
    optimizer._release = release
    handles = release.attached(variables)
    try:
        yield
    finally:
        optimizer._release = None
        for handle in handles:
            handle.remove()


def _check(optimizer):
    if not isinstance(optimizer, FusedStep):
        raise ValueError(
            f"optimizer must be one of fastkeras.optimizers, got {type(optimizer).__name__}"
            + (
                ", which looks at all gradients before the first update; bfloat16 needs no scaling "
                "of the loss"
                if "LossScale" in type(optimizer).__name__
                else ""
            )
        )
    if not ON_TENSORFLOW and not ON_TORCH:
        raise ValueError(
            "release_gradients is for Keras on TensorFlow and on torch: in a compiled step of JAX "
            "XLA computes all gradients first; with moment_bits=8 a step takes less memory there"
        )
    if optimizer._release is not None:
        raise ValueError("optimizer: release_gradients holds for it already")
    for name in ("global_clipnorm", "gradient_accumulation_steps"):
        given = getattr(optimizer, name)
        if given:
            raise ValueError(
                f"optimizer: {name}={given} needs all gradients before the first update. "
                f"{_INSTEAD[name]}"
            )


_INSTEAD = {
    "global_clipnorm": "clipnorm limits the gradient of each variable by itself",
    "gradient_accumulation_steps": "take larger batches, whose activations need the memory instead",
    "clip_by_global_norm": "clip_by_norm limits the gradient of each variable by itself",
    "sanitize": "keras.callbacks.TerminateOnNaN ends a training whose loss is not finite",
}


def _check_transforms(optimizer):
    pairs = zip(optimizer._trainable_variables, optimizer._settings.chains, strict=True)
    for variable, steps in pairs:
        for name in (getattr(step, "name", None) for step in steps):
            if name in ("clip_by_global_norm", "sanitize"):
                raise ValueError(
                    f"optimizer: {name}, a transform of {matching.path_of(variable)}, needs all "
                    f"gradients before the first update. {_INSTEAD[name]}"
                )


class _Parts:
    """On TensorFlow: cuts a step into parts, last variables first, as their gradients come."""

    def attached(self, variables):
        return []

    def arrived(self, gradients, variables):
        return gradients

    def parts(self, gradients, variables):
        part, size = [], 0
        for pair in reversed(list(zip(gradients, variables, strict=True))):
            part.append(pair)
            size += matching.bytes_of(pair[1])
            if size >= _TOGETHER:
                yield _unzipped(part)
                part, size = [], 0
        if part:
            yield _unzipped(part)


class _Hooks:
    """On torch: updates variables when autograd has accumulated their gradients."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.waiting, self.size, self.had = [], 0, set()

    def attached(self, variables):
        """Add a hook to each variable; return what removes them."""
        return [
            variable.value.register_post_accumulate_grad_hook(self._hook_of(variable))
            for variable in variables
            if variable.value.requires_grad
        ]

    def _hook_of(self, variable):
        def take(tensor):
            if id(variable) in self.had:
                raise RuntimeError(_second(variable))
            self.had.add(id(variable))
            self.waiting.append((tensor.grad, variable))
            tensor.grad = None
            self.size += matching.bytes_of(variable)
            if self.size >= _TOGETHER:
                self._update()

        return take

    def _update(self):
        import torch

        optimizer = self.optimizer
        part, self.waiting, self.size = self.waiting, [], 0
        scale = optimizer.loss_scale_factor
        with torch.no_grad():
            gradients, variables = _unzipped(part)
            if scale is not None:
                gradients = [gradient / scale for gradient in gradients]
            positions = [optimizer._get_variable_index(variable) for variable in variables]
            optimizer._move(gradients, variables, positions, optimizer.learning_rate)

    def arrived(self, gradients, variables):
        """Return what `apply` goes on with: anything but None for variables that had a gradient."""
        import torch

        if self.waiting:
            self._update()
        pairs = list(zip(gradients, variables, strict=True))
        for gradient, variable in pairs:
            if gradient is not None and id(variable) in self.had:
                raise RuntimeError(_second(variable))
        return [torch.empty(0) if id(v) in self.had else g for g, v in pairs]

    def parts(self, gradients, variables):
        """Return what is left to be updated, and be ready for the next step."""
        pairs = zip(gradients, variables, strict=True)
        left = [pair for pair in pairs if id(pair[1]) not in self.had]
        self.had.clear()
        return [_unzipped(left)] if left else []


def _second(variable):
    return (
        f"{matching.path_of(variable)} got a second gradient in one step: with release_gradients "
        "all come from one backward, and then optimizer.apply ends the step"
    )


def _unzipped(pairs):
    gradients, variables = zip(*pairs, strict=True)
    return list(gradients), list(variables)
