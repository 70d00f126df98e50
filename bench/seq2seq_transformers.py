"""Beam search with a small GPT-2 of random weights: ours, transformers.generate, CTranslate2.

Run as a program, with KERAS_BACKEND=torch, it prints what it measured, as JSON. Each provider is a
function problem → call; a call returns the tokens (batch, `STEPS`) of the best sequences, whose end
follows.
"""

import json
import sys
import tempfile
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np

STEPS, BEAMS, START, END = 32, 4, 2, 3
NEVER = (0, 1, START)


class Problem(NamedTuple):
    """A model of transformers, on torch, and the first token of each sentence."""

    model: Any
    starts: Any  # int (batch,)


def draw(batch=32, vocabulary=8192, size=256, layers=2, heads=4, seed=0):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=STEPS + 2, n_embd=size, n_layer=layers, n_head=heads,
        bos_token_id=START, eos_token_id=END, pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    return Problem(GPT2LMHeadModel(config).eval(), np.arange(10, 10 + batch))


def decoder_step(model):
    """GPT-2, one token of each hypothesis at a time, for a `BeamSearch`: its step and its caches.

    Keys and values stay where they were written. A hypothesis reads those of all beams of its
    sentence, and the mask, made from the ancestry, leaves its own.
    """
    import torch
    from torch.nn.functional import gelu, layer_norm, linear

    config, w = model.config, {k: v.detach() for k, v in model.state_dict().items()}
    heads, size = config.n_head, config.n_embd

    def normal(x, name):
        return layer_norm(x, (size,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def dense(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def context(batch, beams):
        shape = (batch, beams, STEPS + 1, heads, size // heads)
        return [[torch.zeros(shape), torch.zeros(shape)] for _ in range(config.n_layer)]

    @torch.no_grad()
    def step(tokens, states, context, ancestry):
        _, beams, length = ancestry.shape
        x = w["transformer.wte.weight"][tokens.long()] + w["transformer.wpe.weight"][length - 1]
        mine = ancestry[:, :, None, :] == torch.arange(beams)[:, None]  # (batch, beams, of, steps)
        bias = torch.zeros(mine.shape).masked_fill(~mine, -torch.inf).flatten(2)[:, None]
        for i, cache in enumerate(context):
            name = f"transformer.h.{i}"
            q, k, v = dense(normal(x, f"{name}.ln_1"), f"{name}.attn.c_attn").split(size, -1)
            for array, new in zip(cache, (k, v), strict=True):
                array[:, :, length - 1] = new.unflatten(-1, (heads, -1))
            keys, values = (
                array[:, :, :length].permute(0, 3, 1, 2, 4).flatten(2, 3) for array in cache
            )
            q = q.unflatten(-1, (heads, -1)).transpose(1, 2)
            weights = (q @ keys.mT * (size // heads) ** -0.5 + bias).softmax(-1)
            read = (weights @ values).transpose(1, 2).flatten(2)
            x = x + dense(read, f"{name}.attn.c_proj")
            inner = dense(normal(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            x = x + dense(gelu(inner, approximate="tanh"), f"{name}.mlp.c_proj")
        x = normal(x, "transformer.ln_f")
        return linear(x, w["transformer.wte.weight"]), states, context

    return step, context


def ours(engine, problem):
    from fastkeras.seq2seq import BeamSearch

    step, context = decoder_step(problem.model)
    search = BeamSearch(
        END, num_beams=BEAMS, min_length=STEPS, max_length=STEPS, suppressed=NEVER, engine=engine
    )
    starts = problem.starts

    def call():
        found = search(step, None, context(len(starts), BEAMS), start=starts)
        return np.asarray(found.tokens)[:, 0]

    return call


def transformers_generate(problem):
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    class OnlyTheEnd(LogitsProcessor):
        """After the last token comes the end, whose probability counts; as in `BeamSearch`."""

        def __call__(self, input_ids, scores):
            if input_ids.shape[1] < STEPS + 1:
                return scores
            return torch.full_like(scores, -torch.inf).index_copy(
                1, torch.tensor([END]), scores[:, END : END + 1]
            )

    starts = torch.tensor(problem.starts)[:, None]
    options = {
        "num_beams": BEAMS,
        "do_sample": False,
        "length_penalty": 0.0,
        "min_new_tokens": STEPS,
        "max_new_tokens": STEPS + 1,
        "suppress_tokens": list(NEVER),
        "logits_processor": LogitsProcessorList([OnlyTheEnd()]),
        "attention_mask": torch.ones_like(starts),
    }

    def call():
        with torch.no_grad():
            return problem.model.generate(starts, **options)[:, 1 : STEPS + 1].numpy()

    return call


def ctranslate2_generate(problem):
    import ctranslate2
    from ctranslate2.specs import Activation, TransformerDecoderModelSpec

    config = problem.model.config
    weights = {k: v.detach().numpy() for k, v in problem.model.state_dict().items()}
    spec = TransformerDecoderModelSpec.from_config(
        config.n_layer, config.n_head, pre_norm=True, activation=Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["transformer.wte.weight"]
    decoder.position_encodings.encodings = weights["transformer.wpe.weight"]
    decoder.projection.weight = weights["transformer.wte.weight"]

    def normal(layer, name):
        layer.gamma, layer.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]

    def dense(layer, name):
        layer.weight, layer.bias = weights[f"{name}.weight"].T.copy(), weights[f"{name}.bias"]

    normal(decoder.layer_norm, "transformer.ln_f")
    for i, layer in enumerate(decoder.layer):
        name = f"transformer.h.{i}"
        normal(layer.self_attention.layer_norm, f"{name}.ln_1")
        dense(layer.self_attention.linear[0], f"{name}.attn.c_attn")
        dense(layer.self_attention.linear[1], f"{name}.attn.c_proj")
        normal(layer.ffn.layer_norm, f"{name}.ln_2")
        dense(layer.ffn.linear_0, f"{name}.mlp.c_fc")
        dense(layer.ffn.linear_1, f"{name}.mlp.c_proj")
    names = [str(token) for token in range(config.vocab_size)]
    spec.register_vocabulary(names)
    spec.config.bos_token, spec.config.eos_token = str(START), str(END)
    spec.config.unk_token = "1"
    with tempfile.TemporaryDirectory() as folder:
        spec.validate()
        spec.optimize(quantization=None)
        spec.save(folder)
        generator = ctranslate2.Generator(folder, "cpu", intra_threads=2)
    starts = [[str(token)] for token in problem.starts]

    def call():
        found = generator.generate_batch(
            starts, beam_size=BEAMS, length_penalty=0, min_length=STEPS, max_length=STEPS,
            suppress_sequences=[[str(token)] for token in NEVER], include_prompt_in_result=False,
        )  # fmt: skip
        return np.array([result.sequences_ids[0][:STEPS] for result in found])

    return call


PROVIDERS = {
    "fastkeras": partial(ours, "torch_native"),
    "transformers": transformers_generate,
    "CTranslate2": ctranslate2_generate,
}


def log_likelihoods(problem, tokens):
    """By the model, of each sentence with its end."""
    import torch

    tokens = np.concatenate([problem.starts[:, None], tokens], axis=1)
    tokens = torch.from_numpy(np.pad(tokens, [(0, 0), (0, 1)], constant_values=END)).long()
    with torch.no_grad():
        log_p = problem.model(tokens[:, :-1]).logits.double().log_softmax(-1)
    return log_p.gather(2, tokens[:, 1:, None]).sum((1, 2)).numpy()


def compare(rounds):
    """Rows for all providers that are installed, in turns; the tokens are compared first."""
    import torch

    torch.set_num_threads(2)
    problem, calls, rows, expected = draw(), {}, {}, None
    for name, make in PROVIDERS.items():
        try:
            call = make(problem)
        except ImportError as error:
            rows[name] = {"missing": str(error)}
            continue
        tokens = call()
        expected = tokens if expected is None else expected
        ours, other = log_likelihoods(problem, expected), log_likelihoods(problem, tokens)
        # where two sequences are equally likely, either is right
        same = (tokens == expected).all(axis=1) | (np.abs(other - ours) < 1e-4 * np.abs(ours))
        calls[name], rows[name] = (
            call,
            {
                "same": float(same.mean()),
                "log_likelihood": float(other.mean()),
            },
        )
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        low, median, high = np.percentile(values, (20, 50, 80)).tolist()
        rows[name] |= {"median": median, "p20": low, "p80": high}
        rows[name]["tokens_per_second"] = len(problem.starts) * STEPS / median
    return rows


if __name__ == "__main__":
    print(json.dumps(compare(int(sys.argv[1]))))
