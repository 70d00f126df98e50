"""What the host does for the kernels: fill tables of variables, and launch, on any device.

The device is as in fastkeras/_ops/cupy.py. Here it gets arrays of its own kind, on the GPU and
contiguous; their values are never read. Numbers of the variables, as their coefficients, are arrays
of NumPy, or of the device if only that knows them.
"""

from itertools import accumulate
from math import prod

import numpy as np

from fastkeras._arrays import dtype_of
from fastkeras._ops.records import ARRAY, Records, layout_of
from fastkeras.optimizers._engines.cupy.plan import ADD_PARAMETER, plan_of
from fastkeras.optimizers._engines.cupy.tables import (
    GIVEN,
    LENGTHS,
    MAX_STEPS,
    NORM,
    SCALINGS,
    STEPS,
    SUMMED,
    factor_kernels,
    norm_kernels,
    step_fields,
    step_kernels,
)
from fastkeras.optimizers.rules import RULES, is_quantized

THREADS, THREADS_OF_FACTORS = 256, 512  # kThreads
IN_STEP, IN_NORMS = 4096, 8192  # kNumbers: how many of a variable a block takes
FEW = 16  # records, for which there is a smaller table


def step(
    device,
    rule,
    parameters,
    gradients,
    slots,
    frozen,
    coefficients,
    decays,
    chains,
    extras,
    dtypes,
):
    """Launch a step; `dtypes` are pairs of names, of each parameter and of its gradient.

    Returns:
        None, or if a gradient is to be sanitized an int32 on the device, in an array of one
        element: not 0 if one was not finite, so that nothing was changed.
    """
    sizes = [prod(gradient.shape) for gradient in gradients]
    is_known = isinstance(frozen, np.ndarray)
    active = [i for i, size in enumerate(sizes) if size and not (is_known and frozen[i])]
    plan = plan_of(
        tuple(tuple(chains[i]) for i in active), tuple(dtypes[i][0] == "float64" for i in active)
    )
    given = _Given(device, rule, parameters, gradients, slots, extras, dtypes, sizes)
    given.take_numbers(frozen, coefficients, decays)
    scaled = [i for i in active if RULES[rule].scaling or extras.adapted[i]]
    rounds = len(plan.rounds) + bool(scaled)
    if rounds:
        given.factors = device.empty((rounds, len(sizes)), "float64")
    if plan.sanitizes:
        given.not_finite = device.zeros((1,), "int32")
    for number, members in enumerate(plan.rounds):
        given.find_factors(number, [m._replace(variable=active[m.variable]) for m in members])
    programs = dict(zip(active, plan.programs, strict=True))
    if scaled:
        given.find_ratios(len(plan.rounds), {i: programs[i] for i in scaled})
    given.update(programs, len(plan.rounds))
    return given.not_finite


class _Given:
    """The arguments of a step, and what its launches pass to each other."""

    def __init__(self, device, rule, parameters, gradients, slots, extras, dtypes, sizes):
        self.device, self.rule, self.extras = device, rule, extras
        self.parameters, self.gradients, self.slots = parameters, gradients, slots
        self.dtypes, self.sizes = dtypes, sizes
        self.factors = self.not_finite = None

    def take_numbers(self, frozen, coefficients, decays):
        """Keep the numbers that the host knows, and make the table of the others."""
        rates, seeds = self.extras.rates, self.extras.seeds
        self.known, unknown = {}, {}
        for name, values in zip(
            (name for name, kind in GIVEN if kind == ARRAY),
            (coefficients, decays, rates, frozen, seeds),
            strict=True,
        ):
            is_known = values is None or isinstance(values, np.ndarray)
            self.known[name] = values if is_known else None
            unknown[name] = [None if is_known else values]
        self.num_coefficients = coefficients.shape[1]
        wide = {dtype_of(x) == "float64" for n in GIVEN[:3] for x in unknown[n[0]] if x is not None}
        if len(wide) > 1:
            raise ValueError("coefficients, decays and rates on the device must have one dtype")
        unknown |= {"is_wide": [wide == {True}], "num_variables": [len(self.sizes)]}
        self.numbers = Records(GIVEN, unknown, 1)

    def _known(self, name, part):
        """The entries of a number for these variables, or nothing if the host does not know it."""
        values = self.known[name]
        return () if values is None else values[part]

    def find_factors(self, number, members):
        """Sum over the gradients of the members of a round, and compute their factors."""
        blocks = [-(-self.sizes[m.variable] // IN_NORMS) for m in members]
        *starts, total = accumulate(blocks, initial=0)
        sums = self.device.empty((total,), "float64")
        by_dtypes = {}
        for member, start in zip(members, starts, strict=True):
            by_dtypes.setdefault(self.dtypes[member.variable], []).append((member, start))
        for dtypes, of_dtypes in by_dtypes.items():
            programs = {m.variable: m.program for m, _ in of_dtypes}
            more = {m.variable: (m.kind, start) for m, start in of_dtypes}
            make = (norm_kernels, *dtypes)
            for part, columns, steps, count in self._tables(programs, SUMMED, IN_NORMS):
                parameters = [
                    self.parameters[i]
                    if any(kind == ADD_PARAMETER for _, kind, _ in programs[i].steps)
                    else None
                    for i in part
                ]
                columns |= {"parameter": parameters}
                columns |= {"kind": [more[i][0] for i in part]}
                columns |= {"first_sum": [more[i][1] for i in part]}
                self._launch(make, "sums", count, SUMMED, part, columns, steps, sums)
        ends = {}
        for member, start, size in zip(members, starts, blocks, strict=True):
            begin = ends.get(member.group, (start,))[0]
            ends[member.group] = begin, start + size
        rows = [
            (operand, m.program.scale, *ends[m.group], m.variable, m.program.round, kind)
            for m in members
            for kind, operand in m.norms
        ]
        for part, capacity, kernels in self._parts(rows, NORM):
            records = Records(NORM, _columns(NORM, part), capacity)
            self.device.launch(
                *(kernels, "factors", len(part), THREADS_OF_FACTORS, records, self.numbers, sums),
                *(number, self.factors, self.not_finite),
            )

    def find_ratios(self, number, programs):
        """Compute what changes are scaled by, for adapted variables by their lengths."""
        scaling = SCALINGS.index(RULES[self.rule].scaling)
        for form, of_form in self._by_form(programs).items():
            make = (step_kernels, self.rule, *form)
            for part, columns, steps, count in self._tables(of_form, self._fields(form), IN_STEP):
                self._fill(form, part, columns, None)
                sums = [self.device.empty((count,), "float64") for _ in range(2)]
                fields = self._fields(form)
                self._launch(make, "lengths", count, fields, part, columns, steps, *sums)
                zeros, begins = [0.0] * len(part), columns["first_block"]
                rates, decays = (self._known(name, part) for name in ("rates", "decays"))
                rows = zip(
                    *(zeros if len(rates) == 0 else rates, zeros if len(decays) == 0 else decays),
                    *([self.sizes[i] for i in part], begins, (*begins[1:], count), part),
                    strict=True,
                )
                for of_part, capacity, kernels in self._parts(list(rows), LENGTHS):
                    records = Records(LENGTHS, _columns(LENGTHS, of_part), capacity)
                    self.device.launch(
                        *(kernels, "ratios", len(of_part), THREADS_OF_FACTORS, records),
                        *(self.numbers, *sums, number, scaling, self.factors),
                    )

    def update(self, programs, round_of_ratio):
        """Update all variables: one launch for all that are stored alike and fit into a table."""
        for form, of_form in self._by_form(programs).items():
            make, fields = (step_kernels, self.rule, *form), self._fields(form)
            for part, columns, steps, count in self._tables(of_form, fields, IN_STEP):
                self._fill(form, part, columns, round_of_ratio)
                self._launch(make, "step", count, fields, part, columns, steps, self.not_finite)

    def _by_form(self, programs):
        """The programs by how variables are stored: dtypes, and the form of slots."""
        by_form = {}
        for i, program in programs.items():
            form = (*self.dtypes[i], _form_of(self.rule, self.slots[i]))
            by_form.setdefault(form, {})[i] = program
        return by_form

    def _fields(self, form):
        dtype, _, of_slots = form
        real = "f8" if dtype == "float64" else "f4"
        pointers = len(RULES[self.rule].slots) * (2 if of_slots == "Codes" else 1)
        return step_fields(real, max(1, pointers), self.num_coefficients)

    def _tables(self, programs, fields, numbers):
        """Yield parts of the variables that fit into a table, its columns, the steps, the blocks.

        Variables with the same steps share them.
        """
        capacity = self._room(fields)
        part, steps, places = [], [], {}
        for i, program in programs.items():
            count = len(program.steps)
            if count > MAX_STEPS:
                raise ValueError(
                    f"gradient_transforms: engine='cupy' takes up to {MAX_STEPS} element-wise "
                    f"transforms in a row, got {count}"
                )
            is_new = program.steps not in places
            if len(part) == capacity or (is_new and len(steps) + count > MAX_STEPS):
                yield self._table(part, programs, places, steps, numbers)
                part, steps, places = [], [], {}
                is_new = True
            if is_new:
                places[program.steps] = len(steps)
                steps = [*steps, *program.steps]
            part.append(i)
        if part:
            yield self._table(part, programs, places, steps, numbers)

    def _table(self, part, programs, places, steps, numbers):
        of_part = [programs[i] for i in part]
        *starts, count = accumulate((-(-self.sizes[i] // numbers) for i in part), initial=0)
        begins = [places[program.steps] for program in of_part]
        rows, parameters = self.extras.rows, self.parameters
        columns = {
            "gradient": [self.gradients[i] for i in part],
            "parameter": [parameters[i] for i in part],
            "remainder": [self.extras.remainders[i] for i in part],
            "rows": [rows[i] for i in part],
            "size": [self.sizes[i] for i in part],
            "scale": [program.scale for program in of_part],
            "first_block": starts,
            "row_size": [0 if rows[i] is None else prod(parameters[i].shape[1:]) for i in part],
            "num_rows": [0 if rows[i] is None else parameters[i].shape[0] for i in part],
            "variable": part,
            "round": [program.round for program in of_part],
            "first_step": begins,
            "end_step": [b + len(p.steps) for b, p in zip(begins, of_part, strict=True)],
        }
        return part, columns, Records(STEPS, _columns(STEPS, steps), MAX_STEPS), count

    def _fill(self, form, part, columns, round_of_ratio):
        """Add the columns that only `step` and `lengths` have."""
        adapted, dithered = self.extras.adapted, self.extras.dithered
        is_scaled = [bool(RULES[self.rule].scaling or adapted[i]) for i in part]
        for s in range(max(map(len, (self.slots[i] for i in part)), default=0) or 1):
            columns[f"slot_{s}"] = [self.slots[i][s] if self.slots[i] else None for i in part]
        columns["coefficients"] = self._known("coefficients", part)
        columns["decay"] = self._known("decays", part)
        columns["round_of_ratio"] = [
            round_of_ratio if scaled and round_of_ratio is not None else -1 for scaled in is_scaled
        ]
        columns["dithered"] = [dithered[i] and form[0] == "bfloat16" for i in part]
        columns["seed"] = () if self.known["seeds"] is None else self.known["seeds"][part]

    def _launch(self, make, name, blocks, fields, part, columns, steps, *more):
        make, *form = make
        capacity = self._capacity(len(part), fields)
        self.device.launch(
            *(make(*form, capacity), name, blocks, THREADS, Records(fields, columns, capacity)),
            *(steps, len(part), self.numbers, self.factors, *more),
        )

    def _capacity(self, count, fields):
        return FEW if count <= FEW else self._room(fields)

    def _room(self, fields):
        """How many records a launch takes, beside the steps and all other arguments."""
        others = MAX_STEPS * layout_of(STEPS).itemsize + 128
        return (self.device.PARAMETER_BYTES - others) // layout_of(fields).itemsize

    def _parts(self, rows, fields):
        """Yield rows that fit into a table, its capacity, and the kernels for it."""
        capacity = self._capacity(len(rows), fields)
        for begin in range(0, len(rows), capacity):
            yield rows[begin : begin + capacity], capacity, factor_kernels(capacity)


def _form_of(rule, slots):
    """How slots are stored, in the words of step.cu."""
    if is_quantized(rule, slots):
        return "Codes"
    return "Bfloat16" if slots and slots[0].dtype.itemsize == 2 else "Plain"


def _columns(fields, rows):
    columns = zip(*rows, strict=True) if rows else [()] * len(fields)
    return {name: values for (name, _), values in zip(fields, columns, strict=True)}
