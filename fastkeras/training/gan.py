"""Generative adversarial networks with one loss, one optimizer and plain `fit`."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.training.arguments import flag, integer, one_of, positive
from fastkeras.training.gradients.reversal import (
    gradient_after_loss,
    gradient_reversal,
    stop_gradient_through,
)
from fastkeras.training.metric_layers import MetricLayer
from fastkeras.training.noise import noise_state, repeat_noise
from fastkeras.training.substitution import value_of

if TYPE_CHECKING:
    from typing import Any, Self

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, Tensor


@keras.saving.register_keras_serializable("fastkeras")
class SingleLossGAN(keras.Model):
    """Train generator G and discriminator D together, by one loss that cuts gradients inside.

    The loss is L_D(D(x), D(stop(G(z)))) + λ·L_G(D°(G(z))), where D° is D with its weights fixed for
    that one call, and the same random noise as in the call before. So each network gets exactly the
    gradient of its own loss. D is high for real images.

    The article fixes D by a difference, D(G) − D(stop(G)), which cancels the gradient of D's
    weights only if both calls agree: with Dropout, or anything random in D, that gradient is wrong,
    and BatchNormalization counts the same images twice. Here D's statistics count real and
    generated images once each, and no second gradient of D's weights is computed only to cancel.

    Compared to alternating training, a step needs one pass of G less; both networks move at once.

    `generator_weight` λ is the rate of G relative to that of D. Since both move at once, a G as
    fast as D runs ahead of it: begin with 0.3. Adam and RMSprop ignore factors of a loss, so for
    the fastkeras optimizers λ is a learning rate multiplier; with `keras.optimizers.SGD` it is a
    factor of the loss, which there amounts to the same.

    Args:
        generator: model from noise (batch, noise) to images, or anything that D takes.
        discriminator: model from these to scores of shape (batch,) or (batch, 1), without sigmoid.
        loss: "hinge", "non_saturating", "wasserstein" or "least_squares". The Wasserstein loss
            needs a Lipschitz D: `Reparameterize(layer, SpectralNorm())`, or a constraint.
        generator_weight: λ, above 0.
        reverse: for "wasserstein" only, whose L_G is the negative of D's loss on generated images:
            one call of D instead of two, with the gradient reversed on its way into G.
        **options: of `keras.Model`.

    Raises:
        ValueError: an argument is out of range; `compile` raises it if λ is not 1 and the optimizer
            would ignore it.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.optimizers import Adam
        >>> generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> discriminator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> gan = SingleLossGAN(generator, discriminator, generator_weight=0.3)
        >>> gan.compile(Adam(1e-3))
        >>> sorted(gan.fit(np.ones((8, 3)), verbose=0).history)
        ['discriminator_loss', 'generator_loss', 'loss']
        >>> gan.generate(4).shape
        (4, 3)

    Source: Su Jianlin, 2019, https://kexue.fm/archives/6387.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        loss: str = "hinge",
        generator_weight: float = 1.0,
        reverse: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        one_of("loss", loss, LOSSES)
        flag("reverse", reverse)
        positive("generator_weight", generator_weight)
        if reverse and loss != "wasserstein":
            raise ValueError(f'reverse=True needs loss="wasserstein", got {loss!r}')
        for name, model in (("generator", generator), ("discriminator", discriminator)):
            if not isinstance(model, keras.layers.Layer):
                raise ValueError(f"{name} must be a model of Keras, got {model!r}")
        self.generator, self.discriminator = generator, discriminator
        self.loss_name, self.reverse = loss, reverse
        self.generator_weight = generator_weight
        self._factor = generator_weight  # of the loss; 1 if λ is the optimizer's
        self._noise = keras.random.SeedGenerator()
        self._watch_d = MetricLayer("discriminator_loss")
        self._watch_g = MetricLayer("generator_loss")

    def build(self, input_shape: Any) -> None:
        """Check that both models are built; there is nothing else to make."""
        for model in (self.generator, self.discriminator):
            if not model.built:
                raise ValueError(f"{model.name!r} is not built: give it a keras.Input")

    def compile(self, optimizer: Any = "rmsprop", **options: Any) -> None:
        """As `keras.Model.compile`, but without a loss: the model adds its own."""
        optimizer = keras.optimizers.get(optimizer)
        self._factor = self.generator_weight
        if hasattr(optimizer, "learning_rate_multipliers"):
            from fastkeras.optimizers.fused.multipliers import set_learning_rate_multiplier

            weight = float(self.generator_weight)
            set_learning_rate_multiplier(self.generator, None if weight == 1 else weight)
            self._factor = 1.0
        elif self.generator_weight != 1 and not _scales(optimizer):
            raise ValueError(
                f"generator_weight={self.generator_weight}: {type(optimizer).__name__} ignores the "
                "factor of a loss; use fastkeras.optimizers, or keras.optimizers.SGD"
            )
        super().compile(optimizer, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile` was given."""
        return super().get_compile_config()

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Add the loss; return generated images, one for each given one."""
        noise = keras.random.normal(
            (ops.shape(images)[0], self.generator.input_shape[-1]), seed=self._noise
        )
        generated = self.generator(noise, training=training)
        of_d, of_g, total = self._losses_of(images, generated, training)
        self._watch_d(of_d)
        self._watch_g(of_g)
        self.add_loss(gradient_after_loss(total))
        return generated

    def _losses_of(self, images, generated, training):
        loss_of_d, loss_of_g = LOSSES[self.loss_name]
        d = self.discriminator
        real = _float(d(images, training=training))
        if self.reverse:
            fake = _float(d(gradient_reversal(generated, self._factor), training=training))
            of_d = loss_of_d(real, fake)
            return of_d, loss_of_g(fake), of_d
        # seeds and other state; copied, since torch changes tensors in place
        state = [(v, ops.copy(value_of(v))) for v in d.variables if not v.trainable]
        noise = noise_state()
        fake = _float(d(ops.stop_gradient(generated), training=training))
        later = noise_state()
        repeat_noise(noise)
        judged = _float(stop_gradient_through(d, state=state)(generated, training=training))
        repeat_noise(later)
        of_d, of_g = loss_of_d(real, fake), loss_of_g(judged)
        return of_d, of_g, of_d + self._factor * of_g

    def generate(self, noise: int | ArrayLike) -> NDArray[Any]:
        """Generated images, as a NumPy array.

        Args:
            noise: a number of images, at least 1, or an array of noise.
        """
        if isinstance(noise, (int, numbers.Integral)):
            noise = integer("noise", noise, 1)
            noise = keras.random.normal((noise, self.generator.input_shape[-1]))
        return self.generator.predict(noise, verbose=0)

    def get_config(self) -> dict[str, Any]:
        """The configuration, with both models."""
        write = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "generator": write(self.generator),
            "discriminator": write(self.discriminator),
            "loss": self.loss_name,
            "generator_weight": self.generator_weight,
            "reverse": self.reverse,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """A model of this configuration."""
        read = keras.saving.deserialize_keras_object
        models = {name: read(config[name]) for name in ("generator", "discriminator")}
        return cls(**{**config, **models})


def _hinge(real, fake):
    return ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake))


def _logistic(real, fake):
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def _difference(real, fake):
    return ops.mean(fake) - ops.mean(real)


def _squares(real, fake):
    return 0.5 * (ops.mean(ops.square(real - 1)) + ops.mean(ops.square(fake)))


LOSSES = {  # the discriminator's, of real and fake scores; the generator's, of fake scores
    "hinge": (_hinge, lambda fake: -ops.mean(fake)),
    "non_saturating": (_logistic, lambda fake: ops.mean(ops.softplus(-fake))),
    "wasserstein": (_difference, lambda fake: -ops.mean(fake)),
    "least_squares": (_squares, lambda fake: 0.5 * ops.mean(ops.square(fake - 1))),
}


def _scales(optimizer):
    clipped = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue
    return isinstance(optimizer, keras.optimizers.SGD) and not clipped


def _float(scores):
    return ops.cast(scores, "float32")
