"""Adversarial training of embeddings, for `train_with`.

The perturbation is added to the embedding matrix: so all places with the same token get the same
one, and the norm is that over the whole batch, as in the article. Any other weight can be perturbed
too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.crf.layers.output import at_least_float32
from fastkeras.training.arguments import flag, integer, number, positive
from fastkeras.training.gradients.rules import Rule, moved, norm
from fastkeras.training.gradients.several_gradients import train_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkeras.training.gradients.objective import Objective
    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class FGM(Rule):
    """The gradient at embeddings moved by epsilon along their own gradient.

    Two evaluations, with the same dropout.

    Args:
        weights: names of the weights to perturb, or the ends of their paths; "embeddings" matches
            every Embedding.
        epsilon: length of the perturbation.
        clean: share that the gradient without perturbation has in the result: 0 as in the article,
            0.5 for the mean of both.

    Example:
        See `train_with`.

    Source: Miyato et al., 2017, "Adversarial training methods for semi-supervised text
    classification"; Su Jianlin, 2020, https://kexue.fm/archives/7234.
    """

    weights: str | tuple[str, ...] = "embeddings"
    epsilon: float = 1.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        _check_names(self.weights)
        positive("epsilon", self.epsilon)
        _share(self.clean)

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        chosen = _chosen(objective, self.weights)
        first = objective.gradients(values)
        attack = _only(chosen, first)
        second = objective.gradients(moved(values, attack, self.epsilon / _norm(attack)))
        return _mixed(first, second, self.clean)


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class PGD(Rule):
    """FGM in several small steps, kept within a ball of radius epsilon.

    `rounds` + 1 evaluations.

    Args:
        weights: as in `FGM`.
        epsilon: radius of the ball.
        step: length of a step.
        rounds: number of steps, at least 1.
        clean: as in `FGM`.

    Example:
        See `train_with`.

    Source: Madry et al., 2018, "Towards deep learning models resistant to adversarial attacks".
    """

    weights: str | tuple[str, ...] = "embeddings"
    epsilon: float = 1.0
    step: float = 0.3
    rounds: int = 3
    clean: float = 0.0

    def __post_init__(self) -> None:
        _check_names(self.weights)
        for name in ("epsilon", "step"):
            positive(name, getattr(self, name))
        integer("rounds", self.rounds, 1)
        _share(self.clean)

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        chosen = _chosen(objective, self.weights)
        first = gradients = objective.gradients(values)
        attack = [ops.zeros_like(w) if c else None for w, c in zip(values, chosen, strict=True)]
        for _ in range(self.rounds):
            step = _only(chosen, gradients)
            length = self.step / _norm(step)
            attack = [a if a is None else a + length * s for a, s in zip(attack, step, strict=True)]
            inside = ops.minimum(1.0, self.epsilon / _norm(attack))
            attack = [a if a is None else inside * a for a in attack]
            gradients = objective.gradients(moved(values, attack, 1.0))
        return _mixed(first, gradients, self.clean)


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class GradientPenalty(Rule):
    """The gradient of loss + ½ epsilon ‖gradient of the loss by the embeddings‖².

    To first order in epsilon, this is FGM with an unnormalised perturbation; its second derivatives
    cost about as much as two more evaluations.

    Args:
        weights: as in `FGM`.
        epsilon: factor of the penalty.

    Example:
        See `train_with`.

    Source: Su Jianlin, 2020, https://kexue.fm/archives/7234.
    """

    weights: str | tuple[str, ...] = "embeddings"
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        _check_names(self.weights)
        positive("epsilon", self.epsilon)

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        chosen = _chosen(objective, self.weights)

        def penalised(values):
            own = [w for w, c in zip(values, chosen, strict=True) if c]

            def of_own(own):
                each = iter(own)
                pairs = zip(values, chosen, strict=True)
                return objective.loss([next(each) if c else w for w, c in pairs])

            (loss, rest), gradients = objective.value_and_gradients(of_own, own)
            # has the gradient of ½ ‖g‖², with g of the whole batch, for the share of a replica too
            whole = [ops.stop_gradient(g) for g in objective.summed(gradients)]
            product = sum(ops.sum(g * h) for g, h in zip(gradients, whole, strict=True))
            return loss + ops.cast(self.epsilon * product, loss.dtype), (loss, *rest)

        (_, objective.first), gradients = objective.value_and_gradients(penalised, values)
        return objective.summed(gradients)


@keras.saving.register_keras_serializable("fastkeras")
@dataclass(frozen=True)
class VirtualAdversarial(Rule):
    """Loss + weight · KL(p(x) ‖ p(x, perturbed)), with the perturbation that changes p most.

    Needs no labels: give examples without a label a sample weight of 0. The model must have one
    output, a distribution over the last axis. `rounds` + 2 evaluations.

    Args:
        weights: as in `FGM`.
        epsilon: length of the perturbation.
        xi: length of the trial step (of a finite difference) by which the perturbation is found.
        rounds: rounds of power iteration.
        weight: factor of the divergence.
        from_logits: whether the output holds scores rather than probabilities.

    Example:
        See `train_with`.

    Source: Miyato et al., 2018, "Virtual adversarial training"; Su Jianlin, 2020,
    https://kexue.fm/archives/7466.
    """

    weights: str | tuple[str, ...] = "embeddings"
    epsilon: float = 1.0
    xi: float = 10.0
    rounds: int = 1
    weight: float = 1.0
    from_logits: bool = False

    def __post_init__(self) -> None:
        _check_names(self.weights)
        for name in ("epsilon", "xi"):
            positive(name, getattr(self, name))
        integer("rounds", self.rounds, 1)
        number("weight", self.weight, "a number", lambda weight: True)
        flag("from_logits", self.from_logits)

    def __call__(self, objective: Objective, values: Sequence[Tensor]) -> list[Tensor]:
        """The gradients."""
        chosen = _chosen(objective, self.weights)
        first = objective.gradients(values)
        target = ops.stop_gradient(self._logs(objective.first[1]))

        def divergence(values):
            logs = self._logs(objective.loss(values)[1][0])
            kl = ops.mean(ops.sum(ops.exp(target) * (target - logs), -1))
            return kl / objective.replicas, objective.first[1:]

        time = ops.cast(objective.model.optimizer.iterations, "float32")
        attack = [_start(w, time) if c else None for w, c in zip(values, chosen, strict=True)]
        for _ in range(self.rounds):
            near = moved(values, attack, self.xi / _norm(attack))
            attack = _only(chosen, objective.differentiate(divergence, near))
        second = objective.differentiate(
            divergence, moved(values, attack, self.epsilon / _norm(attack))
        )
        return [a + self.weight * b for a, b in zip(first, second, strict=True)]

    def _logs(self, outputs):
        outputs = at_least_float32(outputs)
        if self.from_logits:
            return ops.log_softmax(outputs, -1)
        return ops.log(ops.maximum(outputs, 1e-7))


def adversarial_training(
    model: keras.Model, weights: str | tuple[str, ...] = "embeddings", epsilon: float = 1.0
) -> keras.Model:
    """Train a compiled model with `FGM` on its embeddings, by one line after `compile`.

    Args:
        model: a compiled model.
        weights, epsilon: as in `FGM`.

    Returns:
        The model.

    Example:
        >>> import keras
        >>> layers = [keras.layers.Embedding(9, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
        >>> model = keras.Sequential([keras.Input((3,), dtype="int32"), *layers])
        >>> model.compile("adam", "mse")
        >>> model = adversarial_training(model, "embedding/embeddings", epsilon=0.5)
    """
    return train_with(model, FGM(weights, epsilon))


def _check_names(weights):
    names = (weights,) if isinstance(weights, str) else weights
    if not isinstance(names, (tuple, list)) or not names:
        raise ValueError(f"weights={weights!r} must be a name, or a tuple of names")
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"weights={weights!r} must be names, not empty")


def _share(clean):
    number("clean", clean, "from 0 to 1", lambda clean: 0 <= clean <= 1)


def _chosen(objective, names):
    names = [names] if isinstance(names, str) else names
    paths = [f"/{variable.path}" for variable in objective.variables]
    for name in names:
        if not any(path.endswith(f"/{name}") for path in paths):
            known = ", ".join(path[1:] for path in paths)
            raise ValueError(f"weights: {name!r} is no trainable weight of the model: {known}")
    return [any(path.endswith(f"/{name}") for name in names) for path in paths]


def _only(chosen, tensors):
    return [tensor if c else None for tensor, c in zip(tensors, chosen, strict=True)]


def _norm(attack):
    return norm([part for part in attack if part is not None])


def _mixed(clean, adversarial, share):
    if not share:
        return adversarial
    return [share * a + (1 - share) * b for a, b in zip(clean, adversarial, strict=True)]


def _start(value, time):
    # another direction at each step, without a random state that JAX would have to carry
    both = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, *value.shape))
    phase, speed = (ops.convert_to_tensor(part.astype("float32")) for part in both)
    return ops.cast(ops.cos(phase + time * speed), value.dtype)
