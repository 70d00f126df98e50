"""What an optimizer does to each variable, as a table; rich comes with Keras."""

import math

from rich.console import Console
from rich.table import Table

from fastkeras.optimizers.fused import matching, sharding


def report(optimizer, model=None, print_fn=print):
    """Print the table of `Fused.report`, and return the bytes of all state."""
    known = list(optimizer._trainable_variables)
    chosen = known if model is None else list(model.trainable_variables)
    positions = [optimizer._get_variable_index(variable) for variable in chosen]
    ways = [optimizer._way_of(position) for position in positions]
    by = ["by"] if any(ways) else []
    table = Table("variable", "shape", *by, "rate ×", "transforms", "decay", "state")
    multipliers = optimizer.learning_rate_multipliers
    total = of_device = of_keras = 0
    for variable, position, way in zip(chosen, positions, ways, strict=True):
        held = optimizer._state_of(position)
        state = sum(map(matching.bytes_of, held))
        total += state
        of_device += sum(matching.bytes_of(part) // sharding.parts_of(part) for part in held)
        of_keras += len(optimizer._slots(position)) * matching.bytes_of(variable)
        multiplier = multipliers[position]
        table.add_row(
            matching.path_of(variable),
            " × ".join(map(str, variable.shape)) or "number",
            *([way] if by else []),
            f"{multiplier:g}" if multiplier else "frozen",
            ", ".join(map(_named, optimizer._chains_of([position])[0])),
            f"{optimizer._decay_of(position, variable):g}",
            _size(state),
        )
    numbers = sum(math.prod(variable.shape) for variable in chosen)
    part = f"{_size(of_device)} on each device, " if of_device < total else ""
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(table)
        console.print(
            f"{len(chosen)} variables, {numbers:,} numbers; state {_size(total)}, {part}with Keras "
            f"{_size(of_keras)}"
        )
        engine, reason = optimizer._engine_and_reason()
        console.print(f"the engine is {engine}" + (f": {reason}" if reason else ""))
    print_fn(captured.get())
    return total


def _named(step):
    if callable(step):
        return getattr(step, "__name__", repr(step))
    return f"{step.name}({step.operand:g})" if step.operand else step.name


def _size(count):
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"
