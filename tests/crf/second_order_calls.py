"""The functions of fastkeras.crf on second-order chains, each by the way that docs/engines.md has.

△ is a function of `second_order`, □ one for the chain of `pair_chain`, ◇ one of `SecondOrderCRF`.
"""

import keras
import numpy as np

from fastkeras import crf
from fastkeras.crf import second_order
from fastkeras.layers import SecondOrderCRF

LOSSES = {"marginal_log_likelihood": "marginal", "expected_cost": "risk"}


def call_triples(function, chain, more):
    """Call a function of `second_order`."""
    return getattr(second_order, function)(**chain, **more)


def call_pairs(function, chain, more):
    """Call a function of `crf` for the pairs of tags; states that it returns become tags."""
    engine, tags = more.pop("engine"), more.pop("tags", None)
    pairs = second_order.pair_chain(**chain, engine=engine)
    more = {**pairs.arguments, **more}
    if tags is not None:
        more["tags"] = pairs.states(tags)
    if "allowed" in more:
        more["allowed"] = more["allowed"][:, pairs.tag_of_state]
    if "weights" in more:
        more["weights"] = more["weights"][pairs.tag_of_state]
    other = {name: more.pop(f"other_{name}") for name in chain if f"other_{name}" in more}
    if other:
        shared = {name: chain[name] for name in ("triples", "constraints")}
        arguments = second_order.pair_chain(**other, **shared).arguments
        more |= {f"other_{name}": arguments[name] for name in other}
    results = getattr(crf, function)(**more)
    if function not in ("k_best", "sample"):
        return results
    states, *scores = results if isinstance(results, tuple) else (results,)
    mask = chain["mask"] if function == "sample" else chain["mask"][:, None]
    return np.where(mask, pairs.tags(np.asarray(states)), 0), *scores


def call_layer(function, chain, more):
    """Call a loss of the layer, or its decoding of single tags."""
    layer = SecondOrderCRF(chain["emissions"].shape[2], constraints=chain["constraints"])
    layer.build(chain["emissions"].shape)
    transitions = np.where(chain["constraints"].transitions, chain["transitions"], 0)
    ends = [chain[f"{name}_transitions"] for name in ("start", "end")]
    layer.set_weights([transitions, *ends, chain["triples"]])
    x, mask = chain["emissions"].astype("float32"), chain["mask"]
    if function == "posterior_decode":
        inputs = [keras.Input(x.shape[1:]), keras.Input(mask.shape[1:], dtype="bool")]
        model = keras.Model(inputs, layer(inputs[0], mask=inputs[1]))
        decode = layer.decode(model, confidence=True, posterior=True)
        return tuple(decode.predict([x, mask], verbose=0))
    mode = LOSSES.get(function, function.removesuffix("_loss"))
    given = (keras.ops.convert_to_tensor(value) for value in (x, more["tags"], mask))
    loss = layer.objective(mode, *given, num_paths=more.get("num_paths", 8))
    loss = keras.ops.convert_to_numpy(loss)
    return -loss if mode == "marginal" else loss


CALLS = {"△": call_triples, "□": call_pairs, "◇": call_layer}
