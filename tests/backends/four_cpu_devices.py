"""Run by test_jax_optimizers.py: the Keras optimizers with a CPU as four devices of JAX."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastkeras import optimizers
from fastkeras.optimizers import transforms

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
CALL = "fastkeras_optimizer_step"
SANITIZED = (transforms.sanitize(), transforms.clip_by_value(0.2))


def trained(name="AdamW", units=8, dtype="float32", **settings):
    keras.utils.set_random_seed(3)
    sizes = (units, "cut"), (1, "out")
    layers = [keras.layers.Dense(n, name=part, dtype=dtype) for n, part in sizes]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = getattr(optimizers, name)(0.01, **{"global_clipnorm": 0.5} | settings)
    model.compile(optimizer, "mse")
    model.fit(X, X.sum(1, keepdims=True), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


def engine_of(model):
    return model.optimizer._engine_and_reason()


def bytes_of_each_device(model):
    """The bytes of all moments on each device."""
    optimizer, held = model.optimizer, {}
    for position in range(len(model.trainable_variables)):
        for variable in optimizer._state_of(position):
            for part in variable.value.addressable_shards:
                held[part.device.id] = held.get(part.device.id, 0) + part.data.nbytes
    return held


def check_copies(model):
    """Copies of one part of a variable are the same bits on all devices."""
    for variable in model.variables + model.optimizer.variables:
        first = {}
        for part in variable.value.addressable_shards:
            bits = np.asarray(part.data).tobytes()
            assert first.setdefault(str(part.index), bits) == bits, variable.path


def compare(ours, theirs):
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def of_replicas():
    """Variables on both devices, each of which gets half of a batch."""
    alone = trained()
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    both = trained()
    assert engine_of(both) == ("jax_native", "")
    assert len(both.trainable_variables[0].value.devices()) == 4
    compare(both, alone)
    return alone, both


SPREAD = "whole variables, and one is spread over devices"
KINDS = {  # which engine does the step of parts
    "plain": ("AdamW", {}, "jax_native"),
    "transforms": (
        "AdamW",
        {"gradient_transforms": transforms.chain(transforms.clip_by_norm(0.3), *SANITIZED)},
        "jax_native",
    ),
    "kept beside": (
        "SGD",
        {"momentum": 0.9, "gradient_accumulation_steps": 2, "use_ema": True, "lookahead_period": 2},
        "jax_native",
    ),
    "rows": (
        "Lion",
        {"lazy": ["cut/kernel"], "learning_rate_multipliers": [("cut/bias", 0.0)]},
        "jax_native",
    ),
    "matrices": ("Muon", {}, "jax_native"),
    "whole variables": ("AdamW", {"layer_adaptation": True}, "keras"),
    "a rule by whole variables": ("AdamW", {"cautious": True}, "keras"),
}


def of_divided_states():
    """Each of the replicas has a quarter of the state, and all have the same variables."""
    for name, settings, engine in KINDS.values():
        keras.distribution.set_distribution(None)
        alone = trained(name, **settings)
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        divided = trained(name, shard_states=True, **settings)
        assert engine_of(divided)[0] == engine, engine_of(divided)
        assert engine != "keras" or engine_of(divided)[1].endswith(SPREAD)
        check_copies(divided)
        compare(divided, alone)


def of_memory(replicated):
    divided = trained(shard_states=True)
    compare(divided, replicated)
    whole, quarter = bytes_of_each_device(replicated), bytes_of_each_device(divided)
    last = 2 * 4  # the moments of the last bias, one number, cannot be divided
    assert len(quarter) == 4
    for device, size in quarter.items():
        assert size == (whole[device] - last) // 4 + last
    text = []
    divided.optimizer.report(print_fn=text.append)
    total, each = sum(v.nbytes for v in moments(replicated)), quarter[0]
    assert f"state {total / 1024:.1f} KiB, {each / 1024:.1f} KiB on each device" in text[0], text[0]
    store, state = {}, {}
    divided.optimizer.save_own_variables(store)
    replicated.optimizer.save_own_variables(state)
    for key, value in state.items():
        np.testing.assert_allclose(store[key], value, rtol=1e-5, atol=1e-6)
    divided.optimizer.load_own_variables(store)
    assert bytes_of_each_device(divided) == quarter
    again = optimizers.AdamW.from_config(divided.optimizer.get_config())
    assert again.shard_states


def moments(model):
    positions = range(len(model.trainable_variables))
    return [v.value for i in positions for v in model.optimizer._state_of(i)]


def of_narrow_states():
    """8-bit moments are divided where their blocks are; what is random is so in each part."""
    settings = {"units": 4096, "moment_bits": 8, "global_clipnorm": None}
    alone, divided = (trained(shard_states=shard, **settings) for shard in (False, True))
    assert engine_of(divided) == ("jax_native", "")
    check_copies(divided)
    codes = [v for v in moments(divided) if v.dtype == "uint8"]
    assert codes and all(v.addressable_shards[0].data.nbytes * 4 == v.nbytes for v in codes)
    scales = [v for v in moments(divided) if v.shape == (codes[0].size // 256,)]
    assert scales and all(v.addressable_shards[0].data.nbytes * 4 == v.nbytes for v in scales)
    for one, other in zip(divided.get_weights(), alone.get_weights(), strict=True):
        assert np.abs(one - other).mean() < 0.1 * 0.01 * 8  # of 8 steps of the rate
    check_copies(trained(moment_bits=16, shard_states=True, units=4096))
    for kind in ("stochastic_rounding", "master_weights"):
        check_copies(trained(dtype="bfloat16", shard_states=True, **{kind: True}))


def of_a_compiled_step():
    """Only variables are gathered from their parts, once; no moment is."""
    variables = [keras.Variable(np.ones(shape, "float32")) for shape in ((64, 8), (8,))]
    optimizer = optimizers.AdamW(0.01, shard_states=True)
    optimizer.build(variables)
    w, state = [v.value for v in variables], [v.value for v in optimizer.variables]
    step = jax.jit(lambda w, state: optimizer.stateless_apply(state, w, w), donate_argnums=(0, 1))
    text = step.lower(w, state).compile().as_text()
    assert text.count(" all-gather(") == 2 and text.count(f'"{CALL}"') == 1
    whole = w[0].sharding
    assert all(a.sharding == whole for a in step(w, state)[0][:1])


def of_parts(alone):
    """Variables split over the devices, and their state also over the replicas."""
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*cut/kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    for shard, count in ((False, 2), (True, 4)):
        parts = trained(shard_states=shard)
        assert engine_of(parts) == ("jax_native", ""), engine_of(parts)
        (moment,) = [v for v in moments(parts) if v.shape == (4, 8)][:1]
        assert moment.addressable_shards[0].data.size * count == moment.size
        check_copies(parts)
        compare(parts, alone)


def of_a_sharded_batch():
    """Gradients of a batch on two devices, summed by XLA without Keras' distribution."""
    keras.distribution.set_distribution(None)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    whole, halves = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    optimizer = optimizers.AdamW(0.01, learning_rate_multipliers=[0.5])
    optimizer.build([keras.Variable(np.ones((4, 1), "float32"))])

    def step(w, state, x):
        gradient = jax.grad(lambda w: ((x @ w - 1) ** 2).mean())(w)
        (w,), state = optimizer.stateless_apply(state, [gradient], [w])
        return w, state

    def run(place, of_batch):
        w = jax.device_put(jnp.ones((4, 1)), place)
        state = [jax.device_put(jnp.array(v.value), place) for v in optimizer.variables]
        x = jax.device_put(X, of_batch)
        compiled = jax.jit(step, donate_argnums=(0, 1))
        text = compiled.lower(w, state, x).compile().as_text()
        assert CALL in text and f"{CALL}_" not in text
        for _ in range(3):
            before = [s.data.unsafe_buffer_pointer() for s in w.addressable_shards]
            w, state = compiled(w, state, x)
            assert before == [s.data.unsafe_buffer_pointer() for s in w.addressable_shards]
        return np.asarray(w)

    one = jax.devices()[0]
    np.testing.assert_allclose(run(whole, halves), run(one, one), rtol=1e-6)


assert len(jax.devices()) == 4
alone, replicated = of_replicas()
of_memory(replicated)
of_divided_states()
of_narrow_states()
of_a_compiled_step()
of_parts(alone)
of_a_sharded_batch()
