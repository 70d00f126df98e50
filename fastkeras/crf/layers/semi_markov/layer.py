"""The semi-Markov CRF as a Keras layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras._arrays import as_int32, has_values
from fastkeras._engines import check_engine
from fastkeras._keras_private import is_exporting
from fastkeras.crf import paths, semi_markov
from fastkeras.crf.constraints import checked
from fastkeras.crf.layers.arguments import what_is_meant
from fastkeras.crf.layers.decoder import decoding_model
from fastkeras.crf.layers.loss import CRFLoss
from fastkeras.crf.layers.output import at_least_float32, mark, mask_of
from fastkeras.crf.layers.ragged import padded
from fastkeras.crf.layers.scores import add_score, add_scores, scores_of
from fastkeras.crf.layers.semi_markov.compact import Compact
from fastkeras.crf.layers.semi_markov.scores import (
    Segments,
    linear_chain,
    scores_by_step,
    with_begins,
    without_begins,
)
from fastkeras.crf.layers.span_counts import at_the_last
from fastkeras.crf.semi_markov.labels import INSIDE, NO_STEP
from fastkeras.training.arguments import flag, integer, one_of, positive

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.crf.constraints import Constraints
    from fastkeras.typing import ArrayLike, Identifier, Tensor

OUTPUTS = ("tags", "confidence")
WEIGHTS = ("transitions", "boundary", "durations", "kernel", "bias")
KINDS = ("initializer", "regularizer", "constraint")


@keras.saving.register_keras_serializable(package="fastkeras")
class SemiMarkovCRF(keras.layers.Layer):
    """Semi-Markov CRF: cuts each sequence into segments, each with a tag.

    The score of a segment is the sum of the emissions of its tag over its steps, plus a score of
    its tag to begin at its first step, plus one of its length, plus one of the tag before. So the
    model can know what a whole word, name or phrase looks like, where a `CRF` sees two steps.

    The last layer of a model. Labels are one integer a step: the tag of the segment that begins
    there, or a number below 0 inside of a segment (`fastkeras.crf.semi_markov.segment_labels`). The
    model of `crf.decode(model)` predicts the same, with −2 at masked steps
    (`fastkeras.crf.semi_markov.segments_of`). Masked steps are skipped, wherever they are.

    Args:
        num_tags: the number of tags of segments; 1 if they have no type.
        max_length: the most steps of a segment. Labels with longer ones have an infinite loss and
            no gradient; time and memory grow with it.
        use_begins: whether tags have a score to begin at a step. With one tag only, there has to
            be one: the other emissions sum to the same for all segmentations. It doubles the
            steps and tags of the recursions.
        use_boundaries: whether the tags of the first and the last segment get scores of their own.
        use_kernel: whether to project the input first, as a Dense layer does.
        transitions_initializer, boundary_initializer, durations_initializer, kernel_initializer,
            bias_initializer: of the weights.
        transitions_regularizer, boundary_regularizer, durations_regularizer, kernel_regularizer,
            bias_regularizer: same.
        transitions_constraint, boundary_constraint, durations_constraint, kernel_constraint,
            bias_constraint: same.
        learning_rate_multiplier: as in `CRF`, for transitions, boundaries and durations.
        constraints: a `fastkeras.crf.Constraints`: which tags may follow each other, come first and
            last; or None.
        engine: a name in `fastkeras.engines("crf.semi_markov")`, or None for the fastest.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape (batch, steps, channels). Without `use_kernel`, channels are num_tags
            emissions and, if `use_begins`, num_tags scores to begin.
        mask: bool, shape (batch, steps), or None for the mask that comes with the inputs.
        output: "emissions"; "tags", as labels; or "confidence", the probability of the segment that
            each step was found to be in.

    Returns:
        Emissions and scores to begin, shape (batch, steps, num_tags or twice as many), in the
        compute dtype; or int32 labels, or probabilities in at least float32, 0 at masked steps, of
        shape (batch, steps).

    Raises:
        ValueError: an argument out of range, or inputs of another rank or size.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.crf import semi_markov
        >>> from fastkeras.layers import SemiMarkovCRF
        >>> from fastkeras.metrics import SegmentScore
        >>> inputs = keras.Input((None,), dtype="int32")
        >>> x = keras.layers.Embedding(100, 8, mask_zero=True)(inputs)
        >>> crf = SemiMarkovCRF(num_tags=2, max_length=4, use_kernel=True)
        >>> model = keras.Model(inputs, crf(x))
        >>> model.compile("adam", loss=crf.loss, metrics=[SegmentScore(crf)])
        >>> labels = semi_markov.segment_labels([[(0, 2, 1), (3, 3, 0)]])
        >>> history = model.fit(np.array([[5, 6, 7, 8]]), labels, verbose=0)
        >>> crf.decode(model).output.shape
        (None, None)

    Source: Sarawagi & Cohen, 2004, "Semi-Markov conditional random fields for information
        extraction".
    """

    transition_rank = None  # for `add_scores`

    def __init__(
        self,
        num_tags: int,
        max_length: int,
        use_begins: bool = True,
        use_boundaries: bool = True,
        use_kernel: bool = False,
        transitions_initializer: Identifier = "glorot_uniform",
        boundary_initializer: Identifier = "zeros",
        durations_initializer: Identifier = "zeros",
        kernel_initializer: Identifier = "glorot_uniform",
        bias_initializer: Identifier = "zeros",
        transitions_regularizer: Identifier | None = None,
        boundary_regularizer: Identifier | None = None,
        durations_regularizer: Identifier | None = None,
        kernel_regularizer: Identifier | None = None,
        bias_regularizer: Identifier | None = None,
        transitions_constraint: Identifier | None = None,
        boundary_constraint: Identifier | None = None,
        durations_constraint: Identifier | None = None,
        kernel_constraint: Identifier | None = None,
        bias_constraint: Identifier | None = None,
        learning_rate_multiplier: float = 1.0,
        constraints: Constraints | None = None,
        engine: str | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
        except ValueError as error:  # Keras only lists the arguments that it does not know
            meant = what_is_meant(kwargs, SemiMarkovCRF.__init__)
            raise ValueError(f"{error}{meant}") from error
        given = locals()
        self.num_tags = integer("num_tags", num_tags, 1)
        self.max_length = integer("max_length", max_length, 1)
        self.use_begins = flag("use_begins", use_begins)
        self.use_boundaries = flag("use_boundaries", use_boundaries)
        self.use_kernel = flag("use_kernel", use_kernel)
        for name in WEIGHTS:
            for kind in KINDS:
                get = getattr(keras, f"{kind}s").get
                setattr(self, f"{name}_{kind}", get(given[f"{name}_{kind}"]))
        multiplier = positive("learning_rate_multiplier", learning_rate_multiplier)
        self.learning_rate_multiplier = float(multiplier)
        self.constraints = None if constraints is None else checked(constraints, num_tags)
        check_engine("crf.semi_markov", engine)
        self.engine = engine
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    @property
    def units(self) -> int:
        """The channels of the emissions: num_tags, or twice as many with scores to begin."""
        return self.num_tags * (2 if self.use_begins else 1)

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape (batch, steps, channels)."""
        channels = input_shape[-1]
        if not self.use_kernel and channels != self.units:
            raise ValueError(
                f"inputs must have {self.units} channels, got {channels}; with use_kernel=True the "
                "layer projects them"
            )
        if self.use_kernel:
            self.kernel = self._add("kernel", (channels, self.units))
            self.bias = self._add("bias", (self.units,))
        add_scores(self)
        self._durations = add_score(
            self, "durations", (self.max_length, self.num_tags), "durations"
        )
        self.built = True

    def call(self, inputs: Any, mask: Tensor = None, output: str = "emissions") -> Tensor:
        """See the docstring of the class."""
        inputs, mask = padded(inputs, mask)
        if self.use_kernel:
            emissions = ops.matmul(inputs, self.kernel) + self.bias
        else:
            emissions = inputs + ops.zeros((), inputs.dtype)  # a tensor of its own, to be marked
        if output != "emissions":
            return self.decoded(emissions, mask, output)
        mark(emissions, self, mask)
        return emissions

    def compute_output_spec(
        self, inputs: Any, mask: Tensor = None, output: str = "emissions"
    ) -> Any:
        """Shapes and dtypes of what `call` returns."""
        one_of("output", output, ("emissions", *OUTPUTS))
        batch, steps, _ = inputs.shape
        dtype = self.compute_dtype
        if output == "emissions":
            return keras.KerasTensor((batch, steps, self.units), dtype)
        dtype = "int32" if output == "tags" else keras.backend.result_type(dtype, "float32")
        return keras.KerasTensor((batch, steps), dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the emissions."""
        return (*input_shape[:-1], self.units)

    @property
    def transitions(self) -> Tensor:
        """Scores of neighbouring segments, float tensor (num_tags, num_tags)."""
        return scores_of(self)["transitions"]

    @property
    def start_transitions(self) -> Tensor:
        """Scores of the tag of the first segment, (num_tags,); None if there are none."""
        return scores_of(self)["start_transitions"]

    @property
    def end_transitions(self) -> Tensor:
        """Scores of the tag of the last segment, (num_tags,); None if there are none."""
        return scores_of(self)["end_transitions"]

    @property
    def durations(self) -> Tensor:
        """Scores of lengths, float tensor (max_length, num_tags); [l − 1, j] is of length l."""
        return ops.convert_to_tensor(self._durations) * self.learning_rate_multiplier

    @property
    def loss(self) -> CRFLoss:
        """A new `CRFLoss` of this layer, for `model.compile`; it takes weights of sequences."""
        return CRFLoss(self)

    def log_likelihood(
        self,
        emissions: ArrayLike,
        tags: ArrayLike,
        mask: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        tag_weights: ArrayLike | None = None,
    ) -> Tensor:
        """Log-probabilities of segmentations, shape (batch,), at least float32.

        Args:
            emissions: what the layer returned, shape (batch, steps, channels).
            tags: labels, integers of shape (batch, steps).
            mask: bool, shape (batch, steps), or None for the mask that comes with the emissions.
            label_smoothing, tag_weights: 0 and None, since segments have neither.
        """
        if label_smoothing or tag_weights is not None:
            raise ValueError(
                "a SemiMarkovCRF has no label smoothing, and no weights of tags or steps: give "
                "weights of sequences, of shape (batch,)"
            )
        chain = self._compact(emissions, mask)
        tags = ops.convert_to_tensor(tags)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(tags.dtype)):
            raise ValueError(f"tags must be integers, got {tags.dtype}")
        labels = chain.moved(as_int32(tags))
        wrong = chain.valid & (labels >= self.num_tags)
        first = chain.valid[:, :1] & (labels[:, :1] < 0)
        wrong = ops.any(wrong, axis=1) | ops.any(first, axis=1)
        if has_values(wrong) and ops.convert_to_numpy(wrong).any():
            raise ValueError(
                f"labels of segments must be tags in 0..{self.num_tags - 1} where a segment "
                "begins, as at the first valid step, and below 0 elsewhere: see "
                "fastkeras.crf.semi_markov.segment_labels"
            )
        scores = self._scores(chain.emissions)
        content, begins = self._parts(chain.emissions)
        labels = ops.where(chain.valid & ~wrong[:, None], labels, 0)  # others may be any number
        segments = Segments.of(labels, chain.valid)
        gold = scores_by_step(segments, chain.valid, content, begins, scores)
        impossible = ops.any(gold == float("-inf"), axis=1)
        gold = ops.where(impossible[:, None], 0, gold)
        log_z = semi_markov.log_partition(**self._problem(chain, scores, gold))
        # Above 0 by rounding only. On torch `ops.minimum` would make float32 of float64.
        likelihood = ops.stop_gradient(ops.clip(log_z, float("-inf"), 0)) - log_z
        likelihood = ops.where(impossible & (log_z == log_z), float("-inf"), likelihood)
        return ops.where(wrong, float("nan"), likelihood)

    def viterbi(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """The best segmentations and their scores.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            labels: int32, shape (batch, steps), as the model of `decode` predicts them.
            score: shape (batch,), at least float32; −inf where no segmentation is possible: there
                no label begins a segment.
        """
        chain = self._compact(emissions, mask)
        labels, score = self._best(chain, self._problem(chain, self._scores(chain.emissions)))
        return chain.moved_back(ops.where(chain.valid, labels, NO_STEP)), score

    def k_best(
        self, emissions: ArrayLike, k: int, mask: ArrayLike | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k best segmentations and their scores, exactly.

        By `fastkeras.crf.k_best` with the linear chain of `arguments`, whose steps cost the square
        of max_length · num_tags.

        Args:
            emissions, mask: as in `log_likelihood`.
            k: number of segmentations, at least 1.

        Returns:
            labels: int32, shape (batch, k, steps), the best first, each as in `viterbi`.
            scores: shape (batch, k), at least float32; −inf, and no segments, where there are fewer
                segmentations than k.
        """
        given = self.arguments(emissions, mask)
        states, scores = paths.k_best(**given, k=k)
        begins = (states < self.num_tags) & (scores > float("-inf"))[..., None]
        labels = ops.where(begins, states, INSIDE)
        if given["mask"] is not None:
            labels = ops.where(given["mask"][:, None], labels, NO_STEP)
        return labels, scores

    def marginals(
        self, emissions: ArrayLike, mask: ArrayLike | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities of tags and segments, and expected numbers of transitions.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            unary: shape (batch, steps, num_tags): that the step is in a segment of this tag.
            segments: shape (batch, steps, max_length, num_tags); [b, t, l − 1, j]: that a segment
                of tag j begins at step t, and has l valid steps.
            counts: shape (batch, num_tags, num_tags): the expected number of each transition.
            All at least float32, and 0 at masked steps and where no segmentation is possible.

        Example:
            >>> import numpy as np
            >>> from fastkeras.layers import SemiMarkovCRF
            >>> crf = SemiMarkovCRF(1, max_length=2, transitions_initializer="zeros")
            >>> scores = crf(np.log([[[1.0, 1.0], [1.0, 3.0]]]))  # a new one is 3 times as likely
            >>> _, segments, _ = crf.marginals(scores)
            >>> np.round(segments[0, :, :, 0], 2)
            array([[0.75, 0.25],
                   [0.75, 0.  ]], dtype=float32)
        """
        chain = self._compact(emissions, mask)
        unary, segments, counts = self._marginals(
            self._problem(chain, self._scores(chain.emissions))
        )
        return chain.moved_back(unary), chain.moved_back(segments), counts

    def arguments(self, emissions: ArrayLike, mask: ArrayLike | None = None) -> dict[str, Any]:
        """The segmentations as linear chains, for any function of `fastkeras.crf`.

        For what the layer has no method for: entropy, samples, divergence from another layer. Tag
        (l − 1) · num_tags + j of the chain says that the step is the l-th of a segment of tag j:
        each segmentation is one sequence, of the same score, and all others are impossible.

        Args:
            emissions, mask: as in `log_likelihood`.

        Returns:
            A dict as that of `CRF.arguments`, of max_length · num_tags tags.

        Example:
            >>> import numpy as np
            >>> from fastkeras import crf
            >>> from fastkeras.layers import SemiMarkovCRF
            >>> layer = SemiMarkovCRF(1, max_length=3, transitions_initializer="zeros")
            >>> chain = layer.arguments(layer(np.zeros((1, 4, 2), "float32")))
            >>> round(float(np.exp(crf.log_count(**chain)[0])))  # 2³, but for 4 in one
            7
        """
        emissions, mask = self._checked(emissions, mask)
        content, begins = self._parts(emissions)
        return {
            **linear_chain(content, begins, self._scores(emissions)),
            "lengths": None,
            "mask": None if mask is None else ops.cast(mask, "bool"),
            "engine": "keras" if is_exporting() else self.engine,
        }

    def decode(self, model: keras.Model, confidence: bool = False) -> keras.Model:
        """The model that predicts segments as labels, sharing the weights of `model`.

        Args:
            model: a model whose output is the output of this layer.
            confidence: whether to return the probability of each step's segment, too.

        Returns:
            A keras.Model to int32 labels, shape (batch, steps); with `confidence` to [labels,
            probabilities].
        """
        return decoding_model(self, model, confidence)

    def decoded(self, emissions: ArrayLike, mask: ArrayLike, output: str = "tags") -> Tensor:
        """What `call` returns for the outputs "tags" and "confidence"; without gradients."""
        one_of("output", output, OUTPUTS)
        chain = self._compact(ops.stop_gradient(emissions), mask)
        scores = {
            name: score if score is None else ops.stop_gradient(score)
            for name, score in self._scores(chain.emissions).items()
        }
        problem = self._problem(chain, scores)
        labels, _ = self._best(chain, problem)
        if output == "tags":
            return chain.moved_back(ops.where(chain.valid, labels, NO_STEP))
        _, probabilities, _ = self._marginals(problem)
        found = Segments.of(labels, chain.valid)
        backwards = (ops.flip(of, axis=1) for of in (found.ends, found.lengths))
        lengths = ops.clip(ops.flip(at_the_last(*backwards), axis=1), 1, self.max_length)
        places = (lengths - 1) * self.num_tags + found.tags
        flat = (*ops.shape(probabilities)[:2], self.max_length * self.num_tags)
        flat = ops.reshape(probabilities, flat)
        of_first = ops.take_along_axis(flat, places[..., None], axis=2)[..., 0]
        of_steps = at_the_last(found.begins, of_first)
        return chain.moved_back(ops.where(chain.valid, of_steps, 0))

    def __dir__(self):
        # Keras saves the state of all that dir() lists, but this one is new at each access
        return [name for name in super().__dir__() if name != "loss"]

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        config = super().get_config()
        for name in ("num_tags", "max_length", "use_begins", "use_boundaries", "use_kernel"):
            config[name] = getattr(self, name)
        for name in WEIGHTS:
            for kind in KINDS:
                serialize = getattr(keras, f"{kind}s").serialize
                config[f"{name}_{kind}"] = serialize(getattr(self, f"{name}_{kind}"))
        if self.constraints is not None:
            rules = (None if rule is None else rule.tolist() for rule in self.constraints)
            config["constraints"] = list(rules)
        own = {"learning_rate_multiplier": self.learning_rate_multiplier, "engine": self.engine}
        return config | own

    def _add(self, name, shape):
        initializer, regularizer, constraint = (getattr(self, f"{name}_{kind}") for kind in KINDS)
        return self.add_weight(
            shape, initializer, name=name, regularizer=regularizer, constraint=constraint
        )

    def _parts(self, emissions):
        """Emissions, and scores to begin or None."""
        if not self.use_begins:
            return emissions, None
        return emissions[..., : self.num_tags], emissions[..., self.num_tags :]

    def _scores(self, emissions):
        """The scores that the layer owns, in the dtype of the emissions."""
        scores = {**scores_of(self), "durations": self.durations}
        return {
            name: score if score is None else ops.cast(score, emissions.dtype)
            for name, score in scores.items()
        }

    def _problem(self, chain, scores, gold=None):
        """The arguments of the functions of `crf.semi_markov`.

        With the scores of the gold segments by step, those of all segmentations are less by their
        sum: so log Z is −log p of these, and no difference of two numbers that grow with the steps.
        """
        content, begins = self._parts(chain.emissions)
        if gold is not None:
            content = content - gold[..., None]
        problem, lengths = {"emissions": content, **scores}, chain.lengths
        if self.use_begins:
            problem, lengths = with_begins(content, begins, scores), 2 * lengths
        return {**problem, "lengths": lengths, "engine": "keras" if is_exporting() else self.engine}

    def _best(self, chain, problem):
        """Labels of the best segmentations, in the order of the chain, and scores."""
        tags, begins, score = semi_markov.viterbi(**problem)
        if self.use_begins:  # every second step is one of the inputs
            tags, begins = tags[:, 1::2], begins[:, 1::2]
        return ops.where(begins, tags, INSIDE), score

    def _marginals(self, problem):
        """The marginals of the layer's own tags and steps, in the order of the chain."""
        marginals = semi_markov.marginals(**problem)
        return without_begins(*marginals) if self.use_begins else marginals

    def _compact(self, emissions, mask):
        """The emissions with the valid steps first, in at least float32."""
        return Compact(*self._checked(emissions, mask))

    def _checked(self, emissions, mask):
        """The emissions in at least float32, and the mask, which may come with them."""
        if not self.built:
            raise ValueError(f"the layer {self.name!r} has no weights yet: call it on inputs first")
        emissions = ops.convert_to_tensor(emissions)
        return at_least_float32(emissions), mask_of(emissions) if mask is None else mask
