"""Fine-tune BERT or GPT-2 of keras-hub: LoRA, rates by layer, narrow dtypes, 8 bits, restarts.

pip install tensorflow keras-hub
pip install --editable '.[tensorflow]'

python examples/finetune_keras_hub.py
python examples/finetune_keras_hub.py --model gpt2 --lora 4 --dtype mixed_bfloat16 --moment-bits 8

The models are small, with random weights, and the data invented, so that it takes seconds and no
download. A training that was killed goes on after its last epoch, to the same bits.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

OUTPUT = Path("build/finetune_keras_hub")
VOCABULARY = 256
LENGTH = 16
BATCH = 16
STEPS = 10  # an epoch
SMALL = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 2, "hidden_dim": 64}
SMALL |= {"intermediate_dim": 128, "max_sequence_length": LENGTH}


def main(arguments=None):
    options = parsed(arguments)
    import keras

    keras.utils.set_random_seed(options.seed)
    model, backbone = MODELS[options.model](SMALL, options.dtype)
    if options.lora:
        backbone.enable_lora(options.lora)  # before `compile`: it freezes all but the adapters
    compile_with(model, backbone, options)
    options.output.mkdir(parents=True, exist_ok=True)
    return train(model, options, options.output / "state.npz")


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("bert", "gpt2"), default="bert")
    parser.add_argument("--lora", type=int, default=0, help="rank of the adapters (default: none)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "mixed_bfloat16", "bfloat16"),
        default="float32",
        help="bfloat16: the weights too, with remainders in float32 beside them",
    )
    parser.add_argument("--moment-bits", type=int, choices=(8, 16, 32), default=32)
    parser.add_argument("--decay", type=float, default=0.9, help="of the rate, a layer down")
    parser.add_argument("--epochs", type=int, default=3, help=f"of {STEPS} steps (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    if options.lora < 0:
        parser.error("--lora must be at least 0")
    return options


def bert(sizes, dtype):
    """A classifier of two classes, and its backbone."""
    import keras
    import keras_hub

    # Yours: keras_hub.models.BertBackbone.from_preset("bert_base_en", dtype=dtype)
    backbone = keras_hub.models.BertBackbone(**sizes, dtype=dtype)
    head = keras.layers.Dense(2, name="head", dtype="float32")
    return keras.Model(backbone.input, head(backbone.output["pooled_output"])), backbone


def gpt2(sizes, dtype):
    """A model of the next token, and its backbone."""
    import keras_hub

    # Yours: keras_hub.models.GPT2CausalLM.from_preset("gpt2_base_en", dtype=dtype)
    backbone = keras_hub.models.GPT2Backbone(**sizes, dtype=dtype)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None, dtype=dtype), backbone


MODELS = {"bert": bert, "gpt2": gpt2}


def compile_with(model, backbone, options):
    import keras

    from fastkeras.optimizers import AdamW, layerwise_decay

    rates = layerwise_decay(backbone, options.decay)
    if options.model == "bert":
        rates += [(model.get_layer("head"), 10.0)]  # it has everything yet to learn
    adamw = AdamW(
        3e-3 if options.lora else 1e-3,
        weight_decay=0.01,
        learning_rate_multipliers=rates,
        weight_decay_overrides=[("bias|beta|gamma", 0.0)],
        global_clipnorm=1.0,
        moment_bits=options.moment_bits,
        master_weights=options.dtype == "bfloat16",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(adamw, loss, jit_compile=False)
    adamw.build(model.trainable_variables)


def train(model, options, state):
    """Train what is still to be trained; return the losses of these epochs."""
    done = 0
    if state.exists():
        load_state(model, state)
        done = int(model.optimizer.iterations) // STEPS
        print(f"{state}: going on after epoch {done}")
    losses = []
    for epoch in range(done, options.epochs):
        inputs, targets = batches_of(options.model, epoch)
        fitted = model.fit(inputs, targets, batch_size=BATCH, shuffle=False, verbose=0)
        losses += fitted.history["loss"]
        save_state(model, state)
        print(f"epoch {epoch + 1} of {options.epochs}: loss {losses[-1]:.3f}", flush=True)
    model.optimizer.report(model, lambda text: print(*text.split("\n")[-3:], sep="\n"))
    return losses


def batches_of(name, epoch):
    """The data of an epoch. They depend on its number alone, so that a restart gets the same."""
    import numpy as np

    random = np.random.default_rng(epoch)
    start, stride = random.integers(1, [[VOCABULARY], [4]], (2, BATCH * STEPS))
    steps = np.arange(LENGTH + 1)
    tokens = (start[:, None] + stride[:, None] * steps) % VOCABULARY
    inputs = {"token_ids": tokens[:, :-1], "padding_mask": np.ones((BATCH * STEPS, LENGTH))}
    if name == "gpt2":
        return inputs, tokens[:, 1:]
    return inputs | {"segment_ids": np.zeros_like(tokens[:, :-1])}, start % 2


def save_state(model, path):
    """Write all a training needs to go on exactly: weights, random states, the optimizer.

    `model.save_weights` does for a model without LoRA. With it, Keras adds the product of the
    adapters to the kernel, and loads adapters of zeros, both of them, whose gradients are zeros.
    """
    import numpy as np
    from keras import ops

    arrays = {f"model/{i}": ops.convert_to_numpy(v.value) for i, v in enumerate(model.variables)}
    store = {}
    model.optimizer.save_own_variables(store)
    arrays |= {f"optimizer/{name}": np.asarray(value) for name, value in store.items()}
    # NumPy's files know no bfloat16, so they get the bits, and the dtype in the name.
    bits = {
        f"{name}:{a.dtype}": a.view("uint16") if a.itemsize == 2 else a
        for name, a in arrays.items()
    }
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        np.savez(file, **bits)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)  # so a kill, or a full disk, leaves the state before


def load_state(model, path):
    """Load what `save_state` wrote, into a model that was made and compiled in the same way."""
    import ml_dtypes  # noqa: F401 - gives NumPy the name bfloat16; it comes with Keras
    import numpy as np

    with np.load(path) as file:
        named = (name.rpartition(":") for name in file.files)
        arrays = {name: file[f"{name}:{dtype}"].view(dtype) for name, _, dtype in named}
    variables = model.variables
    if sum(name.startswith("model/") for name in arrays) != len(variables):
        raise SystemExit(f"{path} is of a model with other variables: give another --output")
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"model/{i}"])
    start = "optimizer/"
    model.optimizer.load_own_variables(
        {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
    )


if __name__ == "__main__":
    main()
