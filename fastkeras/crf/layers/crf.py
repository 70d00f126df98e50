"""The CRF as a Keras layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras._engines import check_engine
from fastkeras._keras_private import is_exporting
from fastkeras.crf.arguments import chain_of, engine_of, tags_of
from fastkeras.crf.constraints import checked
from fastkeras.crf.layers.arguments import what_is_meant
from fastkeras.crf.layers.decoder import OUTPUTS, decoded_by, decoding_model
from fastkeras.crf.layers.loss import CRFLoss
from fastkeras.crf.layers.metrics import CRFAccuracy
from fastkeras.crf.layers.objective import MODES
from fastkeras.crf.layers.output import mark, mask_of, transitions_of
from fastkeras.crf.layers.ragged import padded
from fastkeras.crf.layers.scores import add_scores, scores_of
from fastkeras.crf.objectives import (
    differentiable,
    expected_cost_of,
    marginal_likelihood_of,
    max_margin_of,
    softmax_margin_of,
)
from fastkeras.crf.weighted import smoothed_likelihood_of, weighted_likelihood_of
from fastkeras.training.arguments import flag, one_of, optional_integer, positive, share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastkeras.crf.constraints import Constraints
    from fastkeras.typing import ArrayLike, Identifier, Tensor


@keras.saving.register_keras_serializable(package="fastkeras")
class CRF(keras.layers.Layer):
    """Linear-chain conditional random field over the scores of a sequence tagger.

    The last layer of a model. It owns the transition scores and returns the emissions, from which
    `crf.loss` and `crf.accuracy` are computed; `crf.decode(model)` returns the model that predicts
    tags. Steps are masked by the Keras mask, at either end or in the middle of a sequence.

    Args:
        num_tags: number of tags; None for the last dimension of the input.
        use_boundaries: whether the first and the last tag of a sequence get scores of their own.
        use_kernel: whether to project the input to num_tags first, as a Dense layer does.
        transitions_initializer, boundary_initializer, kernel_initializer, bias_initializer: of the
            weights; that of the transitions applies to the values that `crf.transitions` returns.
        transitions_regularizer, boundary_regularizer, kernel_regularizer, bias_regularizer: same.
        transitions_constraint, boundary_constraint, kernel_constraint, bias_constraint: same.
        learning_rate_multiplier: transitions and boundaries are stored divided by this number and
            multiplied by it on use. An optimizer whose step does not depend on the scale of the
            gradient, such as Adam, thus moves them faster by this factor; plain SGD, by its square.
        constraints: what `fastkeras.crf.constraints.allowed("BIO", names)` returns, or
            `Constraints` of your own, or None. Transitions, first and last tags that are not
            allowed have probability 0 in loss, marginals and decoding. A sequence labelled with
            them has an infinite loss and no gradient.
        transition_rank: None for num_tags² separate transition scores; or r for the product
            left @ right.T of two factors of shape (num_tags, r). The factors are then the weights,
            to which initializer, regularizer, constraint and multiplier of the transitions apply.
        checkpoint: as in `fastkeras.crf.log_likelihood`: less memory for long chains.
        engine: a name in `fastkeras.engines("crf")`, or None for the fastest.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape (batch, steps, channels); channels = num_tags, unless `use_kernel`. A
            `tf.RaggedTensor` is padded, and masked by its lengths.
        mask: bool, shape (batch, steps), or None for the mask that comes with the inputs.
        transitions: float, shape (batch, steps − 1, num_tags, num_tags), or without the batch: for
            scores that depend on the input, such as those of a Dense layer, added to the layer's
            own; [..., t − 1, i, j] scores i → j into step t. They stay with the output, as masks
            do, so that loss, metrics and decoding find them. None for none.
        output: "emissions"; "tags", the best sequence; "posterior_tags", the most probable tag of
            each step; "confidence" or "posterior_confidence", the probability of these tags.

    Returns:
        Emissions, shape (batch, steps, num_tags), in the compute dtype; or int32 tags, or their
        probabilities in at least float32, of shape (batch, steps) and 0 at masked steps.

    Raises:
        ValueError: an argument out of range, or inputs of another rank or size.

    Example:
        >>> import keras
        >>> from fastkeras.layers import CRF
        >>> inputs = keras.Input((None,), dtype="int32")
        >>> x = keras.layers.Embedding(100, 8, mask_zero=True)(inputs)
        >>> crf = CRF(5, use_kernel=True)
        >>> model = keras.Model(inputs, crf(x))
        >>> model.compile("adam", loss=crf.loss, metrics=[crf.accuracy])
        >>> crf.decode(model).output.dtype
        'int32'

    Source: Huang, Xu & Yu, 2015, "Bidirectional LSTM-CRF models for sequence tagging"; the
        multiplier follows bert4keras.
    """

    objectives: tuple[str, ...] = MODES  # modes of `CRFObjective`
    may_vary = True  # whether a call may bring transitions of its own
    engine_domain = "crf"  # whose engines it may name

    def __init__(
        self,
        num_tags: int | None = None,
        use_boundaries: bool = True,
        use_kernel: bool = False,
        transitions_initializer: Identifier = "glorot_uniform",
        boundary_initializer: Identifier = "zeros",
        kernel_initializer: Identifier = "glorot_uniform",
        bias_initializer: Identifier = "zeros",
        transitions_regularizer: Identifier | None = None,
        boundary_regularizer: Identifier | None = None,
        kernel_regularizer: Identifier | None = None,
        bias_regularizer: Identifier | None = None,
        transitions_constraint: Identifier | None = None,
        boundary_constraint: Identifier | None = None,
        kernel_constraint: Identifier | None = None,
        bias_constraint: Identifier | None = None,
        learning_rate_multiplier: float = 1.0,
        constraints: Constraints | Sequence[Any] | None = None,
        transition_rank: int | None = None,
        checkpoint: bool = False,
        engine: str | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
        except ValueError as error:  # Keras only lists the arguments that it does not know
            raise ValueError(f"{error}{what_is_meant(kwargs, CRF.__init__)}") from error
        self.num_tags = optional_integer("num_tags", num_tags, 1)
        self.use_boundaries = flag("use_boundaries", use_boundaries)
        self.use_kernel = flag("use_kernel", use_kernel)
        self.transitions_initializer = keras.initializers.get(transitions_initializer)
        self.boundary_initializer = keras.initializers.get(boundary_initializer)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.transitions_regularizer = keras.regularizers.get(transitions_regularizer)
        self.boundary_regularizer = keras.regularizers.get(boundary_regularizer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.transitions_constraint = keras.constraints.get(transitions_constraint)
        self.boundary_constraint = keras.constraints.get(boundary_constraint)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        multiplier = positive("learning_rate_multiplier", learning_rate_multiplier)
        self.learning_rate_multiplier = float(multiplier)
        self.constraints = None if constraints is None else checked(constraints, num_tags)
        self.transition_rank = optional_integer("transition_rank", transition_rank, 1)
        self.checkpoint = flag("checkpoint", checkpoint)
        check_engine(self.engine_domain, engine)
        self.engine = engine
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape (batch, steps, channels)."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError("the last dimension of the inputs of a CRF must be known, got None")
        num_tags = self.num_tags or channels
        if num_tags != channels and not self.use_kernel:
            raise ValueError(
                f"inputs must have num_tags = {num_tags} channels, got {channels}; with "
                "use_kernel=True the layer projects them"
            )
        self.num_tags = num_tags
        if self.constraints is not None:
            checked(self.constraints, num_tags)
        if self.use_kernel:
            self.kernel = self._add("kernel", (channels, num_tags))
            self.bias = self._add("bias", (num_tags,))
        add_scores(self)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor = None,
        transitions: Tensor = None,
        output: str = "emissions",
    ) -> Tensor:
        """See the docstring of the class."""
        if isinstance(transitions, (list, tuple)):
            transitions = ops.convert_to_tensor(transitions, self.compute_dtype)
        self._check_transitions(transitions)
        inputs, mask = padded(inputs, mask)
        if self.use_kernel:
            emissions = ops.matmul(inputs, self.kernel) + self.bias
        else:
            emissions = inputs + ops.zeros((), inputs.dtype)  # a tensor of its own, to be marked
        if mask is None:  # Keras passes masks on to layers of one input only
            mask = mask_of(inputs)
        mark(emissions, self, mask, transitions)
        return emissions if output == "emissions" else self.decoded(emissions, mask, output)

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor = None,
        transitions: Tensor = None,
        output: str = "emissions",
    ) -> Any:
        """Shapes and dtypes of what `call` returns."""
        self._check_transitions(transitions)
        one_of("output", output, ("emissions", *OUTPUTS))
        batch, steps, _ = inputs.shape
        dtype = self.compute_dtype
        if output == "emissions":
            return keras.KerasTensor((batch, steps, self.num_tags), dtype)
        dtype = "int32" if output.endswith("tags") else keras.backend.result_type(dtype, "float32")
        return keras.KerasTensor((batch, steps), dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the emissions."""
        return (*input_shape[:-1], self.num_tags)

    @property
    def transitions(self) -> Tensor:
        """Transition scores, float tensor (num_tags, num_tags); [i, j] scores i → j."""
        return scores_of(self)["transitions"]

    @property
    def start_transitions(self) -> Tensor:
        """Scores of the first tag, float tensor (num_tags,); None if there are none."""
        return scores_of(self)["start_transitions"]

    @property
    def end_transitions(self) -> Tensor:
        """Scores of the last tag, float tensor (num_tags,); None if there are none."""
        return scores_of(self)["end_transitions"]

    @property
    def loss(self) -> CRFLoss:
        """A new `CRFLoss` of this layer, for `model.compile`."""
        return CRFLoss(self)

    @property
    def accuracy(self) -> CRFAccuracy:
        """A new `CRFAccuracy` of this layer, for `model.compile`."""
        return CRFAccuracy(self)

    def log_likelihood(
        self,
        emissions: ArrayLike,
        tags: ArrayLike,
        mask: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        tag_weights: ArrayLike | None = None,
    ) -> Tensor:
        """`fastkeras.crf.log_likelihood` with this layer's weights.

        Args:
            emissions: what the layer returned, shape (batch, steps, num_tags).
            tags: integers of shape (batch, steps).
            mask: bool, shape (batch, steps), or None for the mask that comes with the emissions.
            label_smoothing, tag_weights: as in `CRFLoss`.

        Returns:
            Shape (batch,), at least float32.
        """
        chain = self._chain(emissions, mask)
        tags = tags_of(chain, tags)
        if label_smoothing:
            label_smoothing = share("label_smoothing", label_smoothing)
            return smoothed_likelihood_of(chain, tags, label_smoothing, tag_weights, self.engine)
        if tag_weights is not None:
            return weighted_likelihood_of(chain, tags, tag_weights, self.engine)
        return self._functions(chain, checkpoint=self.checkpoint).log_likelihood(chain, tags)

    def objective(
        self,
        mode: str,
        emissions: ArrayLike,
        tags: ArrayLike,
        mask: ArrayLike | None = None,
        costs: float | ArrayLike = 1.0,
        num_paths: int = 8,
        cost: Callable[..., Any] | None = None,
    ) -> Tensor:
        """The losses of `CRFObjective` for sequences, with this layer's weights.

        Args:
            mode, costs, num_paths: as in `CRFObjective`.
            emissions, tags, mask: as in `log_likelihood`.
            cost: for the mode "risk", as in `fastkeras.crf.expected_cost`.

        Returns:
            Shape (batch,), at least float32.

        Raises:
            ValueError: no such mode, or the layer cannot be trained by it.
        """
        if mode not in self.objectives:
            modes = ", ".join(self.objectives) or "none"
            raise ValueError(
                f"{type(self).__name__} cannot be trained by mode={mode!r}; its modes are: {modes}"
            )
        chain = self._chain(emissions, mask)
        tags = tags_of(chain, tags)
        if mode == "marginal":
            functions = self._functions(chain, differentiable(chain, self.engine))
            return -marginal_likelihood_of(functions, chain, tags)
        functions = self._functions(chain)
        if mode == "softmax_margin":
            return softmax_margin_of(functions, chain, tags, costs)
        if mode == "risk":
            return expected_cost_of(functions, chain, tags, num_paths, cost)
        return max_margin_of(functions, chain, tags, 0 if mode == "perceptron" else costs)

    def viterbi(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """`fastkeras.crf.viterbi` with this layer's weights: (tags, score).

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            int32 tags, shape (batch, steps), and scores, shape (batch,), at least float32.
        """
        chain = self._chain(emissions, mask)
        return self._functions(chain).viterbi(chain)

    def marginals(
        self, emissions: ArrayLike, mask: ArrayLike | None = None
    ) -> tuple[Tensor, Tensor]:
        """`fastkeras.crf.marginals` with this layer's weights: (unary, transition counts).

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            Probabilities, shape (batch, steps, num_tags), and expected numbers of transitions,
            shape (batch, num_tags, num_tags), at least float32.
        """
        chain = self._chain(emissions, mask)
        return self._functions(chain).marginals(chain)

    def arguments(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> dict[str, Any]:
        """The chains of a batch, as keyword arguments for any function of `fastkeras.crf`.

        For what the layer has no method for: entropy, divergence from another layer, the k best
        sequences, samples, labels that are sets of tags.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            A dict of emissions, transitions, lengths, mask, start_transitions, end_transitions,
            tensors in at least float32, and engine.

        Example:
            >>> import numpy as np
            >>> from fastkeras import crf
            >>> from fastkeras.layers import CRF
            >>> layer = CRF(transitions_initializer="zeros")
            >>> emissions = layer(np.zeros((1, 3, 4), "float32"))
            >>> round(float(crf.entropy(**layer.arguments(emissions))[0]), 4)  # log 4³
            4.1589
            >>> tags, _ = crf.k_best(k=5, **layer.arguments(emissions))
            >>> tuple(tags.shape)
            (1, 5, 3)
        """
        return {**self._chain(emissions, mask)._asdict(), "engine": self.engine}

    def decode(
        self, model: keras.Model, confidence: bool = False, posterior: bool = False
    ) -> keras.Model:
        """The model that predicts tags, sharing the weights of `model`.

        Args:
            model: a model whose output is the output of this layer.
            confidence: whether to return the probability of each decoded tag at its step, too.
            posterior: False for the best sequence; True for the most probable tag of each step, as
                in `fastkeras.crf.posterior_decode`.

        Returns:
            A keras.Model from the same inputs to int32 tags, shape (batch, steps), 0 at masked
            steps; with `confidence` to [tags, probabilities], both (batch, steps). It is saved,
            loaded and exported like any other; `model.export` writes no op of fastkeras.

        Example:
            >>> import keras
            >>> import numpy as np
            >>> from fastkeras.layers import CRF
            >>> crf = CRF()
            >>> model = keras.Sequential([keras.Input((None, 2)), crf])
            >>> tags, probability = crf.decode(model, confidence=True).predict(
            ...     np.array([[[0.0, 9.0], [9.0, 0.0]]]), verbose=0
            ... )
            >>> tags, bool((probability > 0.9).all())
            (array([[1, 0]], dtype=int32), True)
        """
        return decoding_model(self, model, confidence, posterior)

    def decoded(self, emissions: ArrayLike, mask: ArrayLike, output: str = "tags") -> Tensor:
        """What `call` returns for other outputs than "emissions"; without gradients."""
        chain = self._chain(emissions, mask).with_scores(ops.stop_gradient)
        functions = self._functions(chain, "keras" if is_exporting() else None)
        return ops.stop_gradient(decoded_by(functions, chain, output))

    def __dir__(self):
        # Keras saves the state of all that dir() lists, but these two are new at each access
        return [name for name in super().__dir__() if name not in ("loss", "accuracy")]

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        for name in ("num_tags", "use_boundaries", "use_kernel", "learning_rate_multiplier"):
            config[name] = getattr(self, name)
        for name in ("transitions", "boundary", "kernel", "bias"):
            for kind in ("initializer", "regularizer", "constraint"):
                serialize = getattr(keras, f"{kind}s").serialize
                config[f"{name}_{kind}"] = serialize(getattr(self, f"{name}_{kind}"))
        if self.constraints is not None:
            rules = (None if rule is None else rule.tolist() for rule in self.constraints)
            config["constraints"] = list(rules)
        for name in ("transition_rank", "checkpoint", "engine"):
            config[name] = getattr(self, name)
        return config

    def _add(self, name, shape):
        initializer, regularizer, constraint = (
            getattr(self, f"{name}_{kind}") for kind in ("initializer", "regularizer", "constraint")
        )
        return self.add_weight(
            shape, initializer, name=name, regularizer=regularizer, constraint=constraint
        )

    def _check_transitions(self, transitions):
        if transitions is None:
            return
        if not self.may_vary:
            raise ValueError(f"{type(self).__name__} takes no transitions with its inputs")
        shape = tuple(transitions.shape)
        if len(shape) not in (3, 4) or shape[-2:] != (self.num_tags, self.num_tags):
            raise ValueError(
                "transitions must have shape (batch, steps - 1, num_tags, num_tags) with num_tags "
                f"= {self.num_tags}, or without the batch, got {shape}"
            )

    def _functions(self, chain, engine=None, checkpoint=False):
        """The functions of an engine, or of the layer's, for chains of this layer."""
        return engine_of(chain, engine or self.engine, checkpoint=checkpoint)

    def _chain(self, emissions, mask, keep_factors=False):
        """The chain of these emissions and of the layer's scores, in at least float32."""
        if not self.built:
            raise ValueError(f"the layer {self.name!r} has no weights yet: call it on inputs first")
        emissions = ops.convert_to_tensor(emissions)
        mask = mask_of(emissions) if mask is None else mask
        given = transitions_of(emissions)
        scores = scores_of(self, keep_factors)
        if given is not None:
            self._check_transitions(given)
            scores["transitions"] = scores["transitions"] + ops.cast(given, self.variable_dtype)
        return chain_of(emissions, **scores, mask=mask, keep_factors=keep_factors)
