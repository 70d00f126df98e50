"""What `log_likelihood_and_gradients` returns besides the value."""

from typing import Any, NamedTuple


class Gradients(NamedTuple):
    """Gradients of the weighted sum of the log-likelihoods.

    emissions has shape (batch, steps, num_tags), transitions the shape that was given, as a rule
    (num_tags, num_tags), start_transitions and end_transitions (num_tags,).
    """

    emissions: Any
    transitions: Any
    start_transitions: Any
    end_transitions: Any
