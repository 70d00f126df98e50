"""Run by test_jax_processes.py: one of two processes of JAX that train together on CPUs.

python two_processes.py PROCESS ADDRESS OUTPUT
"""

import os
import sys

import keras
import numpy as np

BATCH, BATCHES = 16, 4
X = np.random.default_rng(0).normal(size=(BATCH * BATCHES, 4)).astype("float32")


def trained(process=0, processes=1, folder=None):
    """The weights and losses of a training, and the states that it saves, at its end and after."""
    from fastkeras.optimizers import AdamW

    def mine(array):
        """The rows of each batch that this process has."""
        parts = array.reshape(BATCHES, processes, BATCH // processes, -1)[:, process]
        return parts.reshape(-1, array.shape[1])

    x, y = mine(X), mine(X.sum(1, keepdims=True))
    settings = {"batch_size": BATCH // processes, "shuffle": False, "verbose": 0}
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(AdamW(0.1, global_clipnorm=1.0, shard_states=True), "mse")
    losses = model.fit(x, y, epochs=2, **settings).history["loss"]
    if folder:  # each has to save, since each has parts of the states
        model.save(os.path.join(folder, f"{process}.keras"))
        model = keras.models.load_model(os.path.join(folder, f"{process}.keras"))
    losses += model.fit(x, y, epochs=1, **settings).history["loss"]
    losses.append(model.evaluate(x, y, batch_size=BATCH // processes, verbose=0))
    states = {}
    model.optimizer.save_own_variables(states)
    assert model.optimizer._engine_and_reason() == ("jax_native", "")
    parts = {len(v.value.sharding.device_set) for v in model.trainable_variables}
    moment = model.optimizer._momentums[0].value
    assert parts == {processes} and moment.addressable_shards[0].data.size * processes == 32
    values = [*(v.value for v in model.weights), *states.values(), np.array(losses)]
    return {str(i): np.asarray(value) for i, value in enumerate(values)}


def main(process, address, output):
    keras.distribution.initialize(address, num_processes=2, process_id=process)
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    np.savez(output, **trained(process, 2, os.path.dirname(output)))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
