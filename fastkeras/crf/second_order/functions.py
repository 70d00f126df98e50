"""An engine's functions for chains with given triples, called as those of linear chains are.

So the objectives of `fastkeras.crf`, which call the functions of an engine, serve both.
"""

from typing import Any, NamedTuple

from fastkeras._arrays import array_functions
from fastkeras._engines import engine_of_family
from fastkeras.crf.arguments import engine_of
from fastkeras.crf.second_order.pairs import pairs_of


class WithTriples(NamedTuple):
    """What has no kernel of its own is computed for the chain of pairs."""

    engine: str | None
    triples: Any
    allowed: Any

    def log_likelihood(self, chain, tags):
        return self._of(chain).log_likelihood(chain, tags, self.triples, self.allowed)

    def sequence_score(self, chain, tags):
        return self._of(chain).sequence_score(chain, tags, self.triples, self.allowed)

    def marginals(self, chain):
        return self._of(chain).marginals(chain, self.triples, self.allowed)

    def viterbi(self, chain):
        """The best path; without derivatives by the triples, which kernels refuse."""
        triples = array_functions(chain.emissions).stop_gradient(self.triples)
        return self._of(chain).viterbi(chain, triples, self.allowed)

    def k_best(self, chain, k):
        """The best paths, without derivatives by the triples."""
        triples = array_functions(chain.emissions).stop_gradient(self.triples)
        of_pairs, pairs = pairs_of(chain, triples, self.allowed)
        states, scores = engine_of(of_pairs, self.engine).k_best(of_pairs, k)
        return pairs.tags(states), scores

    def _of(self, chain):
        return engine_of_family("crf.second_order", chain.family, self.engine)
