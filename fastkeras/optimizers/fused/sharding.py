"""States that are divided among the replicas of `keras.distribution`, and the step on each part.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
https://arxiv.org/abs/1910.02054, its first stage: each device keeps a part of the moments, updates
that part of the variable, and all get the others' parts of it.
"""

import math
from types import SimpleNamespace

import keras
import numpy as np

from fastkeras.optimizers.fused.sparse import ON_JAX
from fastkeras.optimizers.rules import RULES

ELEMENT_WISE = ("scale", "zero", "clip_by_value", "add_decayed_weights")  # transforms


def layout_of_state(variable, block=1):
    """The layout of a variable's moments, divided along its first axis that the replicas divide.

    Args:
        variable: a variable of Keras.
        block: how many numbers stay together. Blocks of more than one lie along all axes, so then
            it is the first axis or none.

    Returns:
        A `TensorLayout`; that of the variable where no axis can be divided; None without a
        distribution.
    """
    own = getattr(variable, "_layout", None)
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(own, keras.distribution.TensorLayout):
        return own
    mesh, name = distribution.device_mesh, distribution.batch_dim_name
    if name is None or name in own.axes:
        return own
    replicas = mesh.shape[list(mesh.axis_names).index(name)]
    size = math.prod(variable.shape)
    for axis, (length, taken) in enumerate(zip(variable.shape, own.axes, strict=True)):
        if block > 1 and (axis > 0 or any(own.axes) or size % (replicas * block)):
            return own
        if taken is None and length and length % replicas == 0:
            axes = (*own.axes[:axis], name, *own.axes[axis + 1 :])
            return keras.distribution.TensorLayout(axes, mesh)
    return own


def first_axis(layout):
    """The layout of an array that has only the first axis of another one."""
    return keras.distribution.TensorLayout(layout.axes[:1], layout.device_mesh)


def is_divided(layout):
    """Whether an array of this layout has parts on several devices."""
    layout = getattr(layout, "backend_layout", layout)
    return layout is not None and not layout.is_fully_replicated


def parts_of(variable):
    """In how many parts a variable is divided."""
    layout = getattr(variable, "_layout", None)
    if not is_divided(layout):
        return 1
    part = getattr(layout, "backend_layout", layout).shard_shape(tuple(variable.shape))
    return math.prod(variable.shape) // math.prod(part)


def are_on_one_mesh(layouts):
    """Whether these are all layouts of Keras, of one mesh, and some are divided."""
    if not all(isinstance(layout, keras.distribution.TensorLayout) for layout in layouts):
        return False
    return any(map(is_divided, layouts)) and len({id(x.device_mesh) for x in layouts}) == 1


def layouts_of(optimizer, variables, positions):
    """The layout of each variable's state, if some have parts on several devices of one mesh.

    None where they have not: then nothing has to be divided, and kernels take whole arrays.
    """
    if not ON_JAX:
        return None
    layouts = []
    for variable, position in zip(variables, positions, strict=True):
        shape = tuple(variable.shape)
        remainder = optimizer._settings.remainders[position]
        held = [*optimizer._slots(position), remainder, variable]
        held = next(v for v in held if v is not None and tuple(v.shape) == shape)
        layouts.append(getattr(held, "_layout", None))
    return layouts if are_on_one_mesh(layouts) else None


def why_whole(optimizer, rule, positions, layouts):
    """Why kernels cannot run on the parts of variables, in words, or None."""
    for position, layout in zip(positions, layouts or (), strict=bool(layouts)):
        if is_divided(layout):
            if RULES[rule].adapts or optimizer._settings.adapted[position]:
                return "layer adaptation needs whole variables, and one is spread over devices"
            if RULES[rule].scaling:
                return f"{rule} needs whole variables, and one is spread over devices"
            scales = [optimizer._scales.of.get(id(slot)) for slot in optimizer._slots(position)]
            if any(s is not None and not is_divided(s._layout) for s in scales):
                return "8-bit moments are in blocks, which parts on several devices would cut"
    return None


def placed(arrays, layouts):
    """The arrays in these layouts."""
    return [
        array if layout is None else keras.distribution.distribute_tensor(array, layout)
        for array, layout in zip(arrays, layouts, strict=True)
    ]


def on_each_part(engine, layouts):
    """An engine that takes arrays with parts on several devices, and updates each part there.

    Args:
        engine: `jax_native`, whose step reads and writes each number on its own: there must be no
            transforms beyond `ELEMENT_WISE`, and no layer adaptation.
        layouts: that of each variable's moments.
    """
    from jax.sharding import PartitionSpec

    whole = PartitionSpec()
    shardings = [layout.backend_layout for layout in layouts]
    parts = [sharding.spec for sharding in shardings]

    def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
        rows = [
            None if mask is None else PartitionSpec(*spec[:1])
            for mask, spec in zip(extras.rows, parts, strict=True)
        ]
        of_slots = [
            [spec if slot.shape == parameter.shape else PartitionSpec(*spec[:1]) for slot in held]
            for held, parameter, spec in zip(slots, parameters, parts, strict=True)
        ]  # scales of 8-bit moments have one axis
        remainders = [
            None if rest is None else spec
            for rest, spec in zip(extras.remainders, parts, strict=True)
        ]
        seeds = None if extras.seeds is None else whole

        def of_part(parameters, gradients, slots, frozen, coefficients, decays, more):
            rows, remainders, rates, seeds = more
            own = extras._replace(
                rows=rows, remainders=remainders, rates=rates, seeds=_of_this_part(seeds, parts)
            )
            return engine.step(
                rule, parameters, gradients, slots, frozen, coefficients, decays, chains, own
            )

        mesh = shardings[0].mesh
        divided = _shard_map()(
            of_part,
            mesh=mesh,
            in_specs=(
                parts,
                parts,
                of_slots,
                whole,
                whole,
                whole,
                (rows, remainders, whole, seeds),
            ),
            out_specs=(parts, of_slots, remainders, whole),
        )
        more = extras.rows, extras.remainders, extras.rates, extras.seeds
        return divided(parameters, gradients, slots, frozen, coefficients, decays, more)

    return SimpleNamespace(step=step)


def _shard_map():
    from functools import partial

    import jax

    if hasattr(jax, "shard_map"):
        return partial(jax.shard_map, check_vma=False)
    from jax.experimental.shard_map import shard_map  # before JAX 0.6

    return partial(shard_map, check_rep=False)


def _of_this_part(seeds, parts):
    """Other random bits for each part, in which numbers are counted from its own first one.

    Copies of one part have the same: of a variable that is not divided, all devices.
    """
    if seeds is None:
        return None
    import jax

    axes = [tuple(keras.tree.flatten([name for name in spec if name])) for spec in parts]
    part = jax.numpy.stack([jax.lax.axis_index(of_one) if of_one else 0 for of_one in axes])
    return seeds ^ (part * np.int32(0x61C88647)).astype(seeds.dtype)


def of_host(value):
    """The array of NumPy with all parts, also of those that other processes have.

    All processes have to call this then.
    """
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        return value
    import jax

    whole = jax.sharding.NamedSharding(value.sharding.mesh, jax.sharding.PartitionSpec())
    return np.asarray(jax.jit(lambda value: value, out_shardings=whole)(value))
