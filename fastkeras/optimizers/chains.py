"""Chains of transforms: applied by an array library, and split for the kernels."""

from fastkeras.optimizers.transforms import Transform, sanitize

FUSED = (  # in the order of FASTKERAS_TRANSFORMS in csrc/optimizers/optimizers.h
    "scale",
    "zero",
    "clip_by_value",
    "add_decayed_weights",
    "clip_by_norm",
    "clip_by_l1_norm",
    "normalize",
    "clip_by_global_norm",
    "sanitize",
)


def split(chains, fused=FUSED):
    """Split chains into what has to run before the kernel, and what the kernel does itself.

    If one variable needs its global norm before the kernel, so does its whole group.

    Args:
        chains: list of tuples of transforms.
        fused: the names of those that the kernel does.
    """
    if not any(chains):
        return chains, chains
    ends, before = [0] * len(chains), None
    while before != ends:
        before = ends
        cut = zip(chains, ends, strict=True)
        early = {step.of for steps, end in cut for step in steps[:end] if _is_global(step)}
        ends = [_end_of_unfused(steps, early, fused) for steps in chains]
    cut = list(zip(chains, ends, strict=True))
    return [steps[:end] for steps, end in cut], [steps[end:] for steps, end in cut]


def _end_of_unfused(steps, early, fused):
    unfused = [
        callable(step) or step.name not in fused or (_is_global(step) and step.of in early)
        for step in steps
    ]
    return max((i + 1 for i, is_unfused in enumerate(unfused) if is_unfused), default=0)


def sanitized(xp, gradients, finite, before, after):
    """Make the kernel skip the step if an earlier `sanitize`, in `before`, found it not finite."""
    if finite is True:
        return gradients, after
    gradients = [xp.where(finite, g, xp.full_like(g, float("nan"))) for g in gradients]
    has = [any(getattr(step, "name", None) == "sanitize" for step in steps) for steps in before]
    return gradients, [
        (sanitize(), *late) if early else late for early, late in zip(has, after, strict=True)
    ]


def encode(step):
    """Return what the kernels know a transform by: number, operand, group."""
    return FUSED.index(step.name), step.operand, 0 if step.of == "group" else step.of


def apply(xp, gradients, parameters, chains, variables=None, noise=None, frozen=None):
    """Transform gradients with an array library, as the engines `reference` and `keras` do.

    Args:
        xp: the functions of an array library.
        gradients: list of arrays.
        parameters: list of arrays of the same shapes.
        chains: list of tuples of transforms, one for each gradient.
        variables: passed to Python functions among the transforms; by default the parameters.
        noise: for `add_noise`: function of a gradient that returns standard normal numbers of its
            shape.
        frozen: bool array: gradients to ignore in global norms and in `sanitize`.

    Returns:
        The list of gradients, and whether all that are to be sanitized are finite.
    """
    gradients, positions, finite = list(gradients), [0] * len(gradients), True
    while any(at < len(steps) for at, steps in zip(positions, chains, strict=True)):
        before = list(positions)
        for i, steps in enumerate(chains):
            while positions[i] < len(steps) and not _is_global(steps[positions[i]]):
                step = steps[positions[i]]
                if callable(step):
                    gradients[i] = step(gradients[i], (variables or parameters)[i])
                elif step.name == "sanitize":
                    is_finite = xp.all(xp.isfinite(gradients[i]))
                    finite = finite & (is_finite if frozen is None else is_finite | frozen[i])
                elif step.name == "add_noise":
                    gradients[i] = gradients[i] + noise(gradients[i]) * step.operand
                else:
                    function = _FUNCTIONS[step.name]
                    gradients[i] = function(xp, gradients[i], parameters[i], step.operand)
                positions[i] += 1
        _clip_complete_groups(xp, gradients, chains, positions, frozen)
        if positions == before:
            raise ValueError("gradient_transforms: groups of global norms wait for each other")
    return gradients, finite


def _clip_complete_groups(xp, gradients, chains, positions, frozen):
    ahead = {}  # group: the variables whose chains have yet to reach its norm
    for i, steps in enumerate(chains):
        for step in steps[positions[i] :]:
            if _is_global(step):
                ahead.setdefault(step.of, []).append(i)
    for group, members in ahead.items():
        at_it = [i for i in members if _is_at(chains[i], positions[i], group)]
        if len(at_it) < len(members):
            continue
        widest = max((gradients[i].dtype for i in members), key=lambda dtype: "64" in str(dtype))
        squares = [xp.cast(_sum(xp, gradients[i] * gradients[i]), widest) for i in members]
        if frozen is not None:
            zero = xp.zeros_like(squares[0])
            squares = [xp.where(frozen[i], zero, s) for i, s in zip(members, squares, strict=True)]
        norm = xp.sqrt(sum(squares))
        for i in members:
            largest = chains[i][positions[i]].operand
            gradients[i] = gradients[i] * _clipping(xp, norm, largest, gradients[i])
            positions[i] += 1


def _is_global(step):
    return isinstance(step, Transform) and step.name == "clip_by_global_norm"


def _is_at(steps, position, group):
    return position < len(steps) and _is_global(steps[position]) and steps[position].of == group


def _sum(xp, values):
    return xp.sum(xp.reshape(values, (-1,)))


def _clipping(xp, norm, largest, like):
    """The factor that brings the norm down to `largest`, 1 at most; NaN if it is not finite."""
    one = xp.ones_like(norm)
    factor = xp.where(norm > largest, largest / xp.maximum(norm, largest), one)
    factor = xp.where(xp.isfinite(norm), factor, one * float("nan"))
    return xp.cast(factor, like.dtype)


def _clip_by_norm(xp, g, p, largest):
    return g * _clipping(xp, xp.sqrt(_sum(xp, g * g)), largest, g)


def _clip_by_l1_norm(xp, g, p, largest):
    return g * _clipping(xp, _sum(xp, xp.abs(g)), largest, g)


def _normalize(xp, g, p, _):
    squares = _sum(xp, g * g)
    one = xp.ones_like(squares)
    return g / xp.sqrt(xp.where(squares == 0, one, squares))


def _adaptive_clip(xp, g, p, ratio):
    axes = tuple(range(max(1, len(g.shape) - 1))) if g.shape else None
    norm = xp.sqrt(xp.sum(g * g, axis=axes, keepdims=True))
    weights = xp.sqrt(xp.sum(p * p, axis=axes, keepdims=True))
    largest = xp.maximum(weights, xp.ones_like(weights) * 1e-3) * ratio
    floor = xp.ones_like(norm) * 1e-6
    return xp.where(norm > largest, g * (largest / xp.maximum(norm, floor)), g)


def _centralize(xp, g, p, _):
    if len(g.shape) < 2 or 0 in g.shape:  # the mean of nothing is NaN
        return g
    return g - xp.mean(g, axis=tuple(range(len(g.shape) - 1)), keepdims=True)


_FUNCTIONS = {
    "scale": lambda xp, g, p, factor: g * factor,
    "zero": lambda xp, g, p, _: xp.zeros_like(g),
    "clip_by_value": lambda xp, g, p, largest: xp.clip(g, -largest, largest),
    "add_decayed_weights": lambda xp, g, p, factor: g + p * factor,
    "clip_by_norm": _clip_by_norm,
    "clip_by_l1_norm": _clip_by_l1_norm,
    "normalize": _normalize,
    "adaptive_clip": _adaptive_clip,
    "centralize": _centralize,
}
