"""Checks of the arguments of `update`: each is checked here, once, and named in errors."""

import sys
from bisect import bisect_left
from difflib import get_close_matches
from functools import cache
from itertools import pairwise

import numpy as np

from fastkeras._arrays import NUMPY, Spoken, family_of, has_values
from fastkeras.optimizers import rounding
from fastkeras.optimizers import transforms as transform
from fastkeras.optimizers.hyperparameters import DEFAULTS, check_hyperparameter, checked_flag
from fastkeras.optimizers.quantization import scales_of
from fastkeras.optimizers.rules import RULES, are_halves, is_quantized
from fastkeras.optimizers.step import Step

try:  # NumPy arrays of the usual form are checked in C++
    from fastkeras._core import optimizer_arrays_are_ready
except ImportError:  # not built

    def optimizer_arrays_are_ready(*arguments):
        """Leave the check to Python."""
        return False


_name = cache(str)  # of a dtype; cached, since NumPy makes it anew each time
DTYPES = (*rounding.HALVES, "float32", "float64")


def checked(
    rule,
    parameters,
    gradients,
    slots,
    *,
    learning_rate,
    step,
    multipliers,
    weight_decays,
    transforms,
    rows,
    layer_adaptation,
    remainders,
    stochastic_rounding,
    any_float,
    hyperparameters,
):
    """Return the `Step` of the arguments of `update`; `any_float` admits long doubles too."""
    if not isinstance(rule, str) or rule not in RULES:
        near = get_close_matches(str(rule).lower(), RULES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"rule={rule!r} is unknown{hint}; these exist: {', '.join(RULES)}")
    is_dithered = checked_flag("stochastic_rounding", stochastic_rounding)
    parameters = _list("parameters", parameters)
    count = len(parameters)
    given = {
        "gradients": gradients,
        "slots": slots,
        "transforms": [()] * count if transforms is None else transforms,
        "rows": [None] * count if rows is None else rows,
        "layer_adaptation": layer_adaptation,
        "remainders": [None] * count if remainders is None else remainders,
    }
    if isinstance(layer_adaptation, (bool, np.bool_)):
        given["layer_adaptation"] = [layer_adaptation] * count
    if isinstance(transforms, transform.Transform) or callable(transforms):
        raise ValueError("transforms must be a tuple of transforms for each parameter, got one")
    for name, values in given.items():
        given[name] = _list(name, values)
        if len(given[name]) != count:
            raise ValueError(
                f"{name} must be {count}, one for each parameter, got {len(given[name])}"
            )
    is_usual = rows is None and remainders is None and isinstance(layer_adaptation, bool)
    # torch.compile cannot trace the call
    is_usual = is_usual and count > 0 and type(parameters[0]) is np.ndarray
    if is_usual and optimizer_arrays_are_ready(
        rule, parameters, given["gradients"], given["slots"]
    ):
        gradients, rows, remainders = given["gradients"], given["rows"], given["remainders"]
        slots = list(map(tuple, given["slots"]))
        adapted = [RULES[rule].adapts or layer_adaptation] * count
        is_random = is_dithered
    else:
        parameters, gradients, slots, rows, remainders, adapted = _checked_arrays(
            rule, parameters, given, any_float
        )
        narrow = (is_quantized(rule, held) or are_halves(rule, held) for held in slots)
        is_random = is_dithered or any(narrow)
    if not RULES[rule].element_wise and any(adapted):
        raise ValueError(f"layer_adaptation: {rule!r} scales the step of a parameter itself")
    if RULES[rule].reads_parameter and any(adapted):
        raise ValueError(f"layer_adaptation: a step of {rule!r} is also that of an average")
    if step is None and is_random:
        raise ValueError(
            "step is missing: slots of 8 and 16 bits and stochastic_rounding round at random, by "
            "bits that depend on it; give the number of the step, from 1"
        )
    step = 1 if step is None else step
    numbers = _steps(step, count)
    number = step if is_traced(numbers) else np.max(numbers, initial=1).astype("int32")
    return Step(
        parameters=parameters,
        gradients=gradients,
        slots=slots,
        learning_rate=_numbers("learning_rate", learning_rate, None)[()],
        numbers=numbers,
        multipliers=_numbers("multipliers", 1.0 if multipliers is None else multipliers, count, 0),
        decays=_numbers("weight_decays", 0.0 if weight_decays is None else weight_decays, count),
        chains=[
            tuple(map(_of_one_group, transform.chain(c))) if c != () else ()
            for c in given["transforms"]
        ],
        rows=rows,
        adapted=adapted,
        remainders=remainders,
        hyperparameters=_hyperparameters(rule, hyperparameters, count),
        dithered=[is_dithered] * count,
        seeds=_seeds(number, count) if is_random else None,
    )


def _checked_arrays(rule, parameters, given, any_float):
    array = _reader_of(parameters[:1])
    parameters = [array(f"parameters[{i}]", p) for i, p in enumerate(parameters)]
    gradients = [array(f"gradients[{i}]", g) for i, g in enumerate(given["gradients"])]
    slots = [_slots_of(array, i, of_parameter) for i, of_parameter in enumerate(given["slots"])]
    rows = [_rows(f"rows[{i}]", r) for i, r in enumerate(given["rows"])]
    remainders = [
        None if r is None else array(f"remainders[{i}]", r)
        for i, r in enumerate(given["remainders"])
    ]
    flags = [
        checked_flag(f"layer_adaptation[{i}]", flag)
        for i, flag in enumerate(given["layer_adaptation"])
    ]
    adapted = [RULES[rule].adapts or flag for flag in flags]
    for i in range(len(parameters)):
        _check_parameter(i, rule, parameters[i], gradients[i], slots[i], any_float)
        _check_extras(i, rule, parameters[i], gradients[i], slots[i], rows[i], remainders[i])
        if rows[i] is not None and adapted[i]:
            raise ValueError(f"rows[{i}] must be None: layer adaptation needs all rows")
    if array is not _jax_array:
        written = _check_memory(parameters, slots, remainders)
        gradients = [_readable(gradient, written) for gradient in gradients]
    return parameters, gradients, slots, rows, remainders, adapted


def _of_one_group(step):
    is_global = getattr(step, "name", None) == "clip_by_global_norm"
    return step._replace(of=0) if is_global else step


def _list(name, values):
    try:
        return list(values)
    except TypeError:
        raise ValueError(
            f"{name} must be a list, one entry for each parameter, got {values!r}"
        ) from None


def _array(name, array):
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name} must be a NumPy array, got {type(array).__name__}")
    return np.asarray(array)


def _cupy_array(name, array):
    if not is_of_cupy(array):
        raise ValueError(
            f"{name} must be an array of CuPy, since parameters are, got {type(array).__name__}"
        )
    return array


def _reader_of(parameters):
    if any(map(is_of_cupy, parameters)):
        return _cupy_array
    return _jax_array if any(map(is_of_jax, parameters)) else _array


def is_of_cupy(array):
    """Tell whether an array is of CuPy."""
    return family_of(array) == "cupy"


def is_of_jax(array):
    """Tell whether an array is of JAX, on whatever device."""
    return family_of(array) in ("jax", "jax_elsewhere")


def is_traced(values):
    """Tell whether numbers are of JAX and known only when a compiled program runs."""
    if "jax" not in sys.modules:
        return False
    if isinstance(values, (list, tuple)):
        return any(map(is_traced, values))
    return is_of_jax(values) and not has_values(values)


def _jax_array(name, array):
    if not is_of_jax(array):
        raise ValueError(
            f"{name} must be an array of JAX, since parameters are, got {type(array).__name__}"
        )
    return array


def _seeds(number, count):
    if is_traced(number):
        import jax.numpy as jnp

        number = jnp.max(jnp.asarray(number, "int32"))
        return rounding.seeds(Spoken(jnp), number, jnp.arange(count, dtype="int32"))
    return rounding.seeds(NUMPY, number, np.arange(count, dtype="int32"))


def _slots_of(array, i, given):
    return tuple(array(f"slots[{i}][{k}]", slot) for k, slot in enumerate(_list("slots", given)))


def _rows(name, rows):
    if rows is None:
        return None
    if is_of_cupy(rows):
        rows = rows.get()
    if is_traced(rows):
        if not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"{name} must be whole numbers, got {rows.dtype}")
        return rows
    array = np.asarray(rows)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}")
    return np.ascontiguousarray(array, np.int64)


def _check_parameter(i, rule, parameter, gradient, slots, any_float):
    dtype = _name(parameter.dtype)  # in the other byte order it begins with ">"
    is_float = parameter.dtype.kind == "f" and parameter.dtype.isnative
    if dtype not in DTYPES and not (any_float and is_float):
        raise ValueError(
            f"parameters[{i}] must be floating, got {dtype}; {', '.join(DTYPES)} are, in the byte "
            "order of this machine"
        )
    wide = wide_of(parameter)
    if _name(gradient.dtype) not in (dtype, wide):
        allowed = " or ".join(sorted({dtype, wide}))
        raise ValueError(f"gradients[{i}] must be {allowed}, got {gradient.dtype}")
    names = RULES[rule].slots
    narrow = len(RULES[rule].signs)  # slots that may be, which come first
    quantized = narrow and len(slots) == len(names) + narrow and wide == "float32"
    if len(slots) != len(names) and not quantized:
        raise ValueError(f"slots[{i}] of rule {rule!r} must be {names}, got {len(slots)} arrays")
    if quantized:
        for k in range(narrow):
            name, shape = f"slots[{i}], {names[k]},", (scales_of(parameter.size),)
            _check(name, slots[2 * k], parameter.shape, "uint8")
            _check(f"{name} scales", slots[2 * k + 1], shape, "float32")
        slots, names, narrow = slots[2 * narrow :], names[narrow:], 0
    halves = narrow and wide == "float32" and are_halves(rule, slots)
    for k, (name, slot) in enumerate(zip(names, slots, strict=True)):
        shape = RULES[rule].shape_of_slot(name, parameter.shape)
        if name in RULES[rule].in_blocks and _are_blocks(slot.shape, parameter.shape):
            shape = slot.shape
        dtype = "bfloat16" if halves and k < narrow else wide
        _check(f"slots[{i}], {name},", slot, shape, dtype)


def _are_blocks(shape, of_parameter):
    pairs = zip(shape, of_parameter, strict=False)
    return len(shape) == len(of_parameter) and all(a in (1, b) for a, b in pairs)


def _check_extras(i, rule, parameter, gradient, slots, rows, remainder):
    shape = parameter.shape
    if rows is not None:
        quantized = len(slots) > len(RULES[rule].slots)
        if quantized or not RULES[rule].element_wise:
            raise ValueError(
                f"rows[{i}] must be None: neither 8-bit moments nor rule {rule!r} go by rows"
            )
        if rows.ndim != 1 or parameter.ndim == 0:
            raise ValueError(
                f"rows[{i}] must have one axis, and its parameter some, got {rows.shape}"
            )
        known = np.zeros(0, int) if is_traced(rows) else rows  # the kernel checks the others
        if len(np.unique(known)) < len(known) or ((known < 0) | (known >= len(parameter))).any():
            raise ValueError(f"rows[{i}] must be of 0 to {len(parameter) - 1}, each once")
        shape = (len(rows), *shape[1:])
    if gradient.shape != shape:
        raise ValueError(
            f"gradients[{i}] must have the shape of its parameter, {shape}, got {gradient.shape}"
        )
    if remainder is not None:
        _check(f"remainders[{i}]", remainder, parameter.shape, "float32")
        if _name(parameter.dtype) not in rounding.HALVES:
            raise ValueError(f"remainders[{i}] must be None: {parameter.dtype} loses nothing")


def _check(name, array, shape, dtype):
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}")
    if _name(array.dtype) != dtype:
        raise ValueError(f"{name} must be {dtype}, got {array.dtype}")


def wide_of(parameter):
    """Return the dtype in which a parameter's slots are kept."""
    return "float32" if parameter.dtype.itemsize < 8 else _name(parameter.dtype)


def _check_memory(parameters, slots, remainders):
    """Return the sorted memory ranges of all arrays that are written, or raise if they overlap."""
    written = []
    for i, parameter in enumerate(parameters):
        named = [(f"parameters[{i}]", parameter)]
        named += [(f"slots[{i}][{k}]", slot) for k, slot in enumerate(slots[i])]
        named += [(f"remainders[{i}]", remainders[i])] if remainders[i] is not None else []
        for name, array in named:
            if not _is_writeable_in_place(array):
                raise ValueError(
                    f"{name} must be contiguous, aligned and writeable, to be updated in place"
                )
            if array.size:
                written.append((*_stretch(array), name))
    written.sort()
    for (_, end, name), (begin, _, other) in pairwise(written):
        if begin < end:
            raise ValueError(f"{other} and {name} must not share memory: both are updated in place")
    return written


def _is_writeable_in_place(array):
    flags = array.flags
    if not isinstance(array, np.ndarray):  # those of CuPy are always aligned and writeable
        return flags.c_contiguous
    return flags.c_contiguous and flags.writeable and flags.aligned


def _stretch(array):
    is_of_numpy = isinstance(array, np.ndarray)
    begin = array.__array_interface__["data"][0] if is_of_numpy else array.data.ptr
    return begin, begin + array.nbytes


def _readable(gradient, written):
    """Return a gradient, contiguous and outside the memory that is written; copy it if need be."""
    is_aligned = not isinstance(gradient, np.ndarray) or gradient.flags.aligned
    if not (gradient.flags.c_contiguous and is_aligned):
        return gradient.copy(order="C")
    begin, end = _stretch(gradient)
    before = bisect_left(written, (end,))  # of these sorted ranges the last ends last
    is_apart = before == 0 or written[before - 1][1] <= begin
    return gradient if is_apart else gradient.copy()


def _numbers(name, values, count, at_least=-np.inf):
    """Return finite numbers as float64: one for each parameter, or a single one without `count`."""
    if is_traced(values):
        return _of_program(name, values, count)
    what = "a finite number" + (f" of at least {at_least:g}" if np.isfinite(at_least) else "")
    if count is not None and not isinstance(values, float):
        values = _list(name, values)
        if len(values) != count:
            raise ValueError(f"{name} must be {count}, one for each parameter, got {len(values)}")
        what += " for each parameter"
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {what}, got {values!r}") from None
    is_scalar = count is None or isinstance(values, float)
    if (
        numbers.shape != (() if is_scalar else (count,))
        or not (np.isfinite(numbers) & (numbers >= at_least)).all()
    ):
        raise ValueError(f"{name} must be {what}, got {values!r}")
    return np.full(count, numbers) if count is not None and is_scalar else numbers


def _of_program(name, values, count):
    """Return traced numbers, whose values cannot be checked, in the floating type of JAX."""
    import jax.numpy as jnp

    numbers = jnp.asarray(values, float)
    allowed = {(), (count,)} if count is not None else {()}
    if numbers.shape not in allowed:
        raise ValueError(f"{name} must have one of the shapes {allowed}, got {numbers.shape}")
    return numbers if count is None else jnp.broadcast_to(numbers, (count,))


def _steps(step, count):
    if is_traced(step):
        return _of_program("step", step, count)
    numbers = np.asarray(step)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (count,)) or (numbers < 1).any():
        raise ValueError(
            f"step must be a whole number from 1, or one for each parameter, got {step!r}"
        )
    return np.broadcast_to(numbers.astype(np.float64), (count,))


def _hyperparameters(rule, given, count):
    unknown = set(given) - {*DEFAULTS, "u_product"}
    if unknown:
        raise TypeError(f"update got unexpected arguments: {', '.join(sorted(unknown))}")
    if rule == "nadam" and "u_product" not in given:
        raise ValueError(
            "u_product is missing: rule 'nadam' needs the product of its momentums, "
            "beta_1 * (1 - 0.5 * 0.96 ** i), of all steps i from 1 to this one"
        )
    for name, value in given.items():
        if name == "u_product" and is_traced(value):
            continue
        for number in value if name == "u_product" and np.ndim(value) == 1 else [value]:
            check_hyperparameter(name, number)
    if rule == "nadam" and is_traced(given["u_product"]):
        given = given | {"u_product": _of_program("u_product", given["u_product"], count)}
    elif rule == "nadam":
        given = given | {"u_product": np.asarray(given["u_product"], np.float64)}
        if given["u_product"].shape not in ((), (count,)):
            raise ValueError(
                f"u_product must be a number, or {count}, one for each parameter, "
                f"got {given['u_product']}"
            )
    return DEFAULTS | given
