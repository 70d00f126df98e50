"""`fit` on several machines: the loop that Keras lacks under `MultiWorkerMirroredStrategy`."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

import keras

from fastkeras.training.arguments import integer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastkeras.typing import FilePath


def fit_on_workers(
    model: keras.Model,
    data: Any,
    epochs: int = 1,
    *,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    backup: FilePath | None = None,
    backup_every: int | None = None,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Train as `model.fit` does, under any strategy of `tf.distribute`, with restarts.

    For `MultiWorkerMirroredStrategy`, under which `fit` itself fails (keras#20585): each process
    calls this with the same arguments. It calls `model.train_step` and `test_step`, so loss,
    metrics and steps of your own work. Metrics at the end of an epoch are those of all workers;
    those that the progress bar of the first worker shows within an epoch are its own.

    When a worker is lost, all others raise `tf.errors.UnavailableError` within seconds. Start all
    of them again: with `backup` they go on after the last batch that was saved, with the same
    weights, moments, random numbers and metrics. The backup stays when training is done, so that a
    restart then changes nothing; remove it before another training.

    Args:
        model: compiled and built in the scope of the strategy.
        data: a finite `tf.data.Dataset` of batches for all workers, as for `fit`. A last batch that
            is not full is left out, since it could not be divided. Or a function that takes the
            number of the epoch, from 0, and returns it; if it shuffles by a seed made of that, a
            restart within an epoch sees each example once.
        epochs: how often to go through the data.
        validation_data: a `tf.data.Dataset` of batches, the last of any size; all of it is used.
        callbacks: each worker calls its own. `stop_training` counts at the end of an epoch, for all
            workers if any of them sets it. What they have counted themselves (the patience of
            `EarlyStopping`) begins anew after a restart.
        backup: a folder that all workers see. The first one writes to it, and keeps two states.
        backup_every: save after every so many batches, too; by default, after each epoch only.
        verbose: as for `fit`; only the first worker prints.

    Returns:
        The history, as of `fit`: of the epochs since the last start.

    Raises:
        ValueError: the backend is not TensorFlow; the model is not compiled, not built, or not made
            in the strategy's scope; `data` is infinite, has no full batch in an epoch, or its
            batches cannot be divided equally; `validation_data` is something else;
            or `backup` has the state of another model, or not all workers see the same.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from fastkeras.training import fit_on_workers
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 2)), np.ones((8, 1)))).batch(4)
        >>> history = fit_on_workers(model, data, epochs=3, verbose=0)
        >>> len(history.history["loss"])
        3
    """
    _check_model(model)
    epochs = integer("epochs", epochs, 0)
    if backup_every is not None:
        if backup is None:
            raise ValueError("backup_every needs a folder: give backup=… too")
        integer("backup_every", backup_every, 1)
    import tensorflow as tf

    if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
        kind = type(validation_data).__name__
        raise ValueError(f"validation_data must be a tf.data.Dataset of batches, got {kind}")
    strategy = model.distribute_strategy
    first = data(0) if callable(data) else data
    batch_size = _batch_size("data", first, strategy.num_replicas_in_sync)
    is_first = _is_first(strategy)
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
        _build_metrics(model, strategy, first)
    train, test = _compiled(model, strategy)
    summed = _summing(strategy)
    with ExitStack() as stack:
        save, (begin, done) = _saving(model, strategy, summed, backup, is_first, stack)
        listed = keras.callbacks.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=is_first and verbose != 0,
            verbose=verbose,
            epochs=epochs,
            steps=_number_of_batches(first, batch_size),
            model=model,
        )
        model.stop_training = False
        listed.on_train_begin()
        logs: dict[str, Any] = {}
        try:
            for epoch in range(begin, epochs):
                if not done:
                    model.reset_metrics()
                listed.on_epoch_begin(epoch)
                batches = _full(data(epoch) if callable(data) else data, batch_size)
                batches = strategy.experimental_distribute_dataset(batches.skip(done))
                number = done - 1
                for number, batch in enumerate(batches, done):
                    listed.on_train_batch_begin(number)
                    listed.on_train_batch_end(number, train(batch))
                    if backup_every and (number + 1) % backup_every == 0:
                        save(epoch, number + 1)
                if number < 0:  # its loss would be 0
                    raise ValueError(f"data has no full batch of {batch_size} in epoch {epoch}")
                done = 0
                logs = _metrics(model)
                if validation_data is not None:
                    model.reset_metrics()
                    listed.on_test_begin()
                    for batch in strategy.experimental_distribute_dataset(validation_data):
                        test(batch)
                    of_validation = _metrics(model)
                    listed.on_test_end(of_validation)
                    logs |= {f"val_{name}": value for name, value in of_validation.items()}
                listed.on_epoch_end(epoch, logs)
                stops = summed(model.stop_training) > 0
                save(epochs if stops else epoch + 1, 0)
                if stops:
                    break
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            again = f"training goes on from {backup}" if backup else "without `backup`, from anew"
            error.add_note(f"A worker is lost. Start all of them again: {again}.")
            raise
        with strategy.scope():
            model.optimizer.finalize_variable_values(model.trainable_variables)
        listed.on_train_end(logs)
    return model.history


def _check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "fit_on_workers is for KERAS_BACKEND=tensorflow, and this is "
            f"{keras.backend.backend()}: use keras.distribution and model.fit"
        )
    import tensorflow as tf

    if getattr(model, "optimizer", None) is None:
        raise ValueError("the model is not compiled: call model.compile in the strategy's scope")
    if not model.built:
        raise ValueError("the model is not built: give it an Input, or call it on a batch")
    strategy = model.distribute_strategy
    scoped = [strategy.extended.variable_created_in_scope(v.value) for v in model.weights]
    if not all(scoped):
        raise ValueError("weights of the model were made outside of the scope of its strategy")
    if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not strategy:
        raise ValueError("the model was made in the scope of another strategy than this")


def _is_first(strategy):
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type is None:
        return True
    workers = resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or ("chief" not in workers and resolver.task_id == 0)


def _leaf(element):
    return keras.tree.flatten(element)[0]


def _batch_size(name, data, replicas):
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"{name} must be a tf.data.Dataset of batches, got {type(data).__name__}")
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} has no end: use {name}.take(…), or a function of the epoch")
    size = _known_size(data)
    if size is None:
        batch = next(iter(data.take(1)), None)
        if batch is None or not _leaf(batch).shape.rank:
            raise ValueError(f"{name} has no batches: use {name}.batch(…)")
        size = int(_leaf(batch).shape[0])
    if size % replicas:
        raise ValueError(
            f"{name}: a batch of {size} cannot be divided equally among {replicas} replicas"
        )
    return size


def _known_size(data):
    """The size of all batches, if TensorFlow knows it."""
    shape = _leaf(data.element_spec).shape
    return shape[0] if shape.rank else None


def _full(data, batch_size):
    """The data without a last batch that is smaller, of which some workers would have nothing."""
    if _known_size(data) == batch_size:
        return data
    return data.rebatch(batch_size, drop_remainder=True)


def _number_of_batches(data, batch_size):
    """How many batches an epoch has, for the progress bar; None if that shows only at its end."""
    count = int(_full(data, batch_size).cardinality())
    return count if count >= 0 else None


def _build_metrics(model, strategy, data):
    """Make the variables of metrics, which cannot be made within a compiled step."""
    import tensorflow as tf

    example = tf.nest.map_structure(
        lambda spec: tf.zeros((1, *spec.shape[1:].as_list()), spec.dtype), data.element_spec
    )
    tf.function(lambda: strategy.run(model.test_step, (example,)), autograph=False)()
    model.reset_metrics()


def _compiled(model, strategy):
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def train(batch):
        logs = strategy.run(model.train_step, (batch,))
        return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

    def test_if_any(batch):
        def test_some():
            model.test_step(batch)
            return 0

        tf.cond(tf.shape(_leaf(batch))[0] > 0, test_some, lambda: 0)

    @tf.function(reduce_retracing=True, autograph=False)
    def test(batch):
        strategy.run(test_if_any, (batch,))

    return train, test


def _summing(strategy):
    """A function of an integer that each worker has, which returns the sum over all replicas."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def of_all(number):
        return strategy.reduce("SUM", strategy.run(tf.identity, (number,)), axis=None)

    return lambda number: int(of_all(tf.constant(number, "int64")))


def _metrics(model):
    """The metrics of all workers, each of which has to ask for them."""
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def _saving(model, strategy, summed, backup, is_first, stack):
    """Return a function that saves where training is, and where it was when it was last saved."""
    if backup is None:
        return lambda epoch, batches: None, (0, 0)
    import tensorflow as tf

    position = tf.Variable([0, 0], dtype="int64", trainable=False)  # epochs, batches of the next
    metrics = [variable.value for variable in model.metrics_variables]
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=model.optimizer, metrics=metrics, position=position
    )
    folder = os.fspath(backup)
    latest = tf.train.latest_checkpoint(folder)
    if latest:
        try:
            checkpoint.restore(latest).assert_existing_objects_matched()
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"backup={folder!r} has the state of another model, so remove it: {error}"
            ) from error
    epoch, batches = (int(value) for value in position.numpy())
    replicas = strategy.num_replicas_in_sync
    if (summed(epoch), summed(batches)) != (replicas * epoch, replicas * batches):
        raise ValueError(
            f"backup={folder!r} is not the same on all workers: it must be a folder that all see"
        )
    if not is_first:  # all workers have to take part, and only one must write there
        folder = stack.enter_context(tempfile.TemporaryDirectory())
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2)

    def save(epoch, batches):
        position.assign([epoch, batches])
        manager.save()

    return save, (epoch, batches)
