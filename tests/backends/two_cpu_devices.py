"""Run by test_jax_optimizers.py: the Keras optimizers with a CPU as two devices of JAX."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastkeras import optimizers

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
CALL = "fastkeras_optimizer_step"


def trained(**settings):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, name="cut"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizers.AdamW(0.01, global_clipnorm=0.5, **settings), "mse")
    model.fit(X, X.sum(1, keepdims=True), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


def compare(ours, theirs):
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def of_replicas():
    """Variables on both devices, each of which gets half of a batch."""
    alone = trained()
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    both = trained()
    assert both.optimizer._engine_and_reason() == ("jax_native", "")
    assert len(both.trainable_variables[0].value.devices()) == 2
    compare(both, alone)
    return alone


def of_parts(alone):
    """Variables split over the devices; only the engine `keras` leaves the parts there."""
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"])
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*cut/kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    parts = trained()
    reason = ("keras", "a variable is spread over devices")
    assert parts.optimizer._engine_and_reason() == reason, parts.optimizer._engine_and_reason()
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


assert len(jax.devices()) == 2
of_parts(of_replicas())
of_a_sharded_batch()
