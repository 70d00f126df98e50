"""What to launch for the norms in chains of transforms, as csrc/optimizers/chains.cc on CPUs.

The norms stay on the device, so what follows from them is known here by name only: a *factor* of
the round in which it is computed.
"""

from functools import lru_cache
from typing import NamedTuple

ELEMENTWISE = ("scale", "zero", "clip_by_value", "add_decayed_weights")  # StepKind of chains.cu
SCALE, ADD_PARAMETER = 0, 3
SQUARES, MAGNITUDES, DEFECTS = range(3)  # SumKind of norms.cu
NORMS = ("clip_by_l1_norm", "clip_by_norm", "normalize", "sanitize")  # NormKind of factors.cu
OF_OWN_SQUARES = ("clip_by_norm", "normalize", "sanitize")


class Program(NamedTuple):
    """What is done to a gradient, as far as it is known: `steps`, then a factor.

    Attributes:
        steps: tuple of `(operand, number in ELEMENTWISE, round)`; the operand is multiplied by the
            factor of the round, unless that is -1.
        scale: a number, to be multiplied by the factor of ...
        round: ... this round, unless that is -1.
    """

    steps: tuple = ()
    scale: float = 1.0
    round: int = -1

    def followed_by(self, transform):
        """Return the program with one more element-wise transform."""
        kind, operand = ELEMENTWISE.index(transform.name), transform.operand
        if kind == SCALE:
            return self._replace(scale=self.scale * operand)
        is_scaled = self.scale != 1 or self.round >= 0
        before = ((self.scale, SCALE, self.round),) if is_scaled else ()
        return Program((*self.steps, *before, (operand, kind, -1)))


class Member(NamedTuple):
    """A variable that a round sums over: its number, and what is done to its gradient before.

    `kind` is what is summed. `norms` are `(number in NORMS, operand)`, of the sum over the members
    of the same `group`, which follow each other.
    """

    variable: int
    program: Program
    kind: int
    norms: tuple
    group: object


class Plan(NamedTuple):
    """Rounds, each a tuple of members, and then the programs of all variables."""

    rounds: tuple
    programs: tuple
    sanitizes: bool


@lru_cache(maxsize=64)
def plan_of(chains, are_wide):
    """Return the `Plan` for a tuple of chains; `are_wide` tells which gradients are float64."""
    positions, programs = [0] * len(chains), [Program()] * len(chains)
    for i in range(len(chains)):
        _advance(chains, positions, programs, i)
    rounds = []
    while any(at < len(chain) for at, chain in zip(positions, chains, strict=True)):
        ready = _ready(chains, positions)
        if not ready:
            raise ValueError("gradient_transforms: groups of global norms wait for each other")
        members = []
        for i, group in ready:
            before, norms = programs[i], []
            wide = are_wide[i] and chains[i][positions[i]].name == "sanitize"
            is_l1 = chains[i][positions[i]].name == "clip_by_l1_norm"
            kind = DEFECTS if wide else MAGNITUDES if is_l1 else SQUARES
            while True:
                transform = chains[i][positions[i]]
                name = "clip_by_norm" if _is_global(transform) else transform.name
                norms.append((NORMS.index(name), transform.operand))
                positions[i] += 1
                if name != "sanitize":
                    programs[i] = Program(before.steps, 1.0, len(rounds))
                    break
                if kind != SQUARES or not _is_at(chains[i], positions[i], OF_OWN_SQUARES):
                    break
            _advance(chains, positions, programs, i)
            members.append(Member(i, before, kind, tuple(norms), group))
        rounds.append(tuple(members))
    sanitizes = any(step.name == "sanitize" for chain in chains for step in chain)
    return Plan(tuple(rounds), tuple(programs), sanitizes)


def _advance(chains, positions, programs, i):
    while _is_at(chains[i], positions[i], ELEMENTWISE):
        programs[i] = programs[i].followed_by(chains[i][positions[i]])
        positions[i] += 1


def _ready(chains, positions):
    """The variables whose norm can be computed, each with its group, by groups."""
    own, ahead = [], {}  # group: variables with its norm ahead, and whether it is next
    for i, chain in enumerate(chains):
        for at in range(positions[i], len(chain)):
            if _is_global(chain[at]):
                ahead.setdefault(chain[at].of, []).append((i, at == positions[i]))
            elif at == positions[i]:
                own.append((i, ("variable", i)))
    complete = [g for g, of_group in ahead.items() if all(is_next for _, is_next in of_group)]
    return own + [(i, ("group", g)) for g in complete for i, _ in ahead[g]]


def _is_global(transform):
    return transform.name == "clip_by_global_norm"


def _is_at(chain, position, names):
    return position < len(chain) and chain[position].name in names
