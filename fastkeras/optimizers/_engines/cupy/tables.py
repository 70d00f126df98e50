"""The kernels, each compiled when it is first launched, and the fields of their tables."""

from functools import cache

from fastkeras._ops.cupy import Kernels, source
from fastkeras._ops.records import ARRAY
from fastkeras.optimizers.rules import RULES

FILES = {
    "step": ("given.cu", "numbers.cu", "chains.cu", "rules.cu", "quantize.cu", "step.cu"),
    "norms": ("given.cu", "numbers.cu", "chains.cu", "norms.cu"),
    "factors": ("given.cu", "factors.cu"),
}
CODE = {name: source(__package__, files) for name, files in FILES.items()}
MAX_STEPS = 32  # transforms in a table

# as in given.cu, chains.cu, factors.cu and norms.cu
GIVEN = (
    *((name, ARRAY) for name in ("coefficients", "decays", "rates", "frozen", "seeds")),
    ("is_wide", "i4"),
    ("num_variables", "i4"),
)
STEPS = (("operand", "f8"), ("kind", "i4"), ("round", "i4"))
NORM = (
    *(("operand", "f8"), ("scale", "f8"), ("begin", "i4"), ("end", "i4")),
    *(("variable", "i4"), ("round", "i4"), ("kind", "i4")),
)
LENGTHS = (
    *(("rate", "f8"), ("decay", "f8"), ("size", "f8")),
    *(("begin", "i4"), ("end", "i4"), ("variable", "i4")),
)
SCALINGS = ("", "agreement", "clipped")  # Scaling of factors.cu; the first is by lengths
COMMON = (
    *(("first_block", "i4"), ("row_size", "i4"), ("num_rows", "i4"), ("variable", "i4")),
    *(("round", "i4"), ("first_step", "i4"), ("end_step", "i4")),
)
SUMMED = tuple((name, ARRAY) for name in ("gradient", "parameter", "remainder", "rows"))
SUMMED += (("size", "i8"), ("scale", "f8"), *COMMON, ("kind", "i4"), ("first_sum", "i4"))


@cache
def step_fields(real, pointers, coefficients):
    """Return the fields of step.cu for a type, numbers of slots, and of coefficients."""
    names = ("parameter", "gradient", *(f"slot_{s}" for s in range(pointers)), "remainder", "rows")
    return (
        *((name, ARRAY) for name in names),
        *(("size", "i8"), ("scale", "f8"), ("coefficients", (real, coefficients))),
        *(("decay", real), ("first_block", "i4"), ("row_size", "i4"), ("num_rows", "i4")),
        *(("variable", "i4"), ("round", "i4"), ("round_of_ratio", "i4"), ("first_step", "i4")),
        *(("end_step", "i4"), ("dithered", "i4"), ("seed", "i4")),
    )


@cache
def step_kernels(rule, parameter, gradient, slots, records):
    """Return `step` and `lengths`, for variables stored in one way, and so many records.

    The slots are "Plain", in the dtype that is computed in, "Bfloat16", or "Codes".
    """
    return Kernels(
        CODE["step"],
        FASTKERAS_RULE=_struct_of(rule),
        FASTKERAS_PARAMETER=parameter.capitalize(),
        FASTKERAS_GRADIENT=gradient.capitalize(),
        FASTKERAS_SLOTS=slots,
        FASTKERAS_SIGNS=sum((sign == "s") << s for s, sign in enumerate(RULES[rule].signs)),
        FASTKERAS_SCALING=SCALINGS.index(RULES[rule].scaling),
        FASTKERAS_RECORDS=records,
        FASTKERAS_STEPS=MAX_STEPS,
    )


@cache
def norm_kernels(parameter, gradient, records):
    """Return `sums`, for dtypes, and so many records."""
    return Kernels(
        CODE["norms"],
        FASTKERAS_PARAMETER=parameter.capitalize(),
        FASTKERAS_GRADIENT=gradient.capitalize(),
        FASTKERAS_RECORDS=records,
        FASTKERAS_STEPS=MAX_STEPS,
    )


@cache
def factor_kernels(records):
    """Return `factors` and `ratios`, for so many records."""
    return Kernels(CODE["factors"], FASTKERAS_RECORDS=records)


def _struct_of(rule):
    return "".join(word.capitalize() for word in rule.split("_"))
