"""Models that predict tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.crf._engines.keras.paths import first_largest
from fastkeras.crf.layers.output import layer_of, mask_of
from fastkeras.training.arguments import flag, one_of

if TYPE_CHECKING:
    from typing import Any, Self

    from fastkeras.typing import Tensor


OUTPUTS = ("tags", "confidence", "posterior_tags", "posterior_confidence")


def decoding_model(layer, model, confidence, posterior=False):
    """`CRF.decode`: a functional model with another last call; other models are wrapped."""
    confidence, posterior = flag("confidence", confidence), flag("posterior", posterior)
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"model must be a keras.Model that ends with this layer, {layer.name!r}, got {model!r}"
        )
    for tensor in getattr(model, "outputs", None) or ():
        operation, node_index, _ = tensor._keras_history
        if operation is layer:
            call = layer._inbound_nodes[node_index].arguments
            outputs = [
                layer(*call.args, **{**call.kwargs, "output": output})
                for output in _outputs(confidence, posterior)
            ]
            inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
            return keras.Model(inputs, outputs if confidence else outputs[0])
    return CRFDecoder(model, confidence, posterior)


def _outputs(confidence, posterior):
    of = "posterior_" if posterior else ""
    return [f"{of}tags", f"{of}confidence"] if confidence else [f"{of}tags"]


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFDecoder(keras.Model):
    """Predicts tags with any kind of model that returns the output of a `CRF` layer.

    Made by `CRF.decode` for subclassed and nested models.

    Args:
        model: the model.
        confidence: whether to return the probability of each decoded tag, too.
        posterior: whether to take the most probable tag of each step, not the best sequence.
        **kwargs: of `keras.Model`.
    """

    def __init__(
        self,
        model: keras.Model,
        confidence: bool = False,
        posterior: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.confidence = flag("confidence", confidence)
        self.posterior = flag("posterior", posterior)

    def call(self, inputs: Any) -> Tensor:
        """Tags, or [tags, probabilities]."""
        emissions = self.model(inputs, training=False)
        layer, mask = layer_of(emissions), mask_of(emissions)
        outputs = _outputs(self.confidence, self.posterior)
        decoded = [layer.decoded(emissions, mask, output) for output in outputs]
        return decoded if self.confidence else decoded[0]

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        model = keras.saving.serialize_keras_object(self.model)
        own = {"confidence": self.confidence, "posterior": self.posterior}
        return {**super().get_config(), "model": model, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the decoder from a configuration."""
        model = keras.saving.deserialize_keras_object(config.pop("model"))
        return cls(model, **config)


def decoded_by(functions, chain, output):
    """Tags, or their probabilities, by an engine's functions."""
    one_of("output", output, OUTPUTS)
    if output.startswith("posterior"):
        unary, _ = functions.marginals(chain)
        return first_largest(unary) if output == "posterior_tags" else ops.max(unary, axis=-1)
    tags, _ = functions.viterbi(chain)
    if output == "tags":
        return tags
    unary, _ = functions.marginals(chain)
    return ops.take_along_axis(unary, tags[..., None], axis=-1)[..., 0]
