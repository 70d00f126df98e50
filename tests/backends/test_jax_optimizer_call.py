"""The optimizers' call of XLA by itself: it takes what is well-formed, and refuses all else."""

import keras
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the calls are of JAX")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402

from fastkeras.optimizers import transforms  # noqa: E402
from fastkeras.optimizers._engines import jax_native  # noqa: E402
from fastkeras.optimizers.step import Extras  # noqa: E402


def of_call():
    b = np.random.default_rng(0).normal(size=(4, 2, 5)).astype("float32")
    return {
        "held": [b[0], b[1], b[2]],
        "read": [b[3], np.zeros(1, bool), np.full((1, 4), 0.1, "float32")],
        "decays": np.zeros(1, "float32"),
        "rates": np.zeros(1, "float32"),
        "seeds": np.zeros(0, "int32"),
        "results": None,
        "aliases": None,
        "attributes": {
            "rule": "adam",
            "N": np.int32(1),
            "M": np.int32(2),
            "quantized": "0",
            "has_remainder": "0",
            "has_rows": "0",
            "adapted": "0",
            "dithered": "0",
            **of_chain([0]),
        },
    }


def of_chain(lengths, kinds=(), operands=(), groups=()):
    return {
        "chain_lengths": np.array(lengths, "int32"),
        "chain_kinds": np.array(kinds, "int32"),
        "chain_operands": np.array(operands, "float64"),
        "chain_groups": np.array(groups, "int32"),
    }


def called(given):
    arrays = [*given["held"], *given["read"], given["decays"], given["rates"], given["seeds"]]
    results = given["results"]
    if results is None:
        results = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in given["held"]]
        results += [jax.ShapeDtypeStruct((), "bool")]
    aliases = given["aliases"]
    if aliases is None:
        aliases = {i: i for i in range(len(given["held"]))}
    call = jax.ffi.ffi_call(jax_native.NAME, results, input_output_aliases=aliases)
    attributes = {k: v for k, v in given["attributes"].items() if v is not None}
    return jax.block_until_ready(jax.jit(lambda *arrays: call(*arrays, **attributes))(*arrays))


def test_the_call_takes_what_is_well_formed():
    given = of_call()
    *new, finite = called(given)
    assert finite and all((a != b).any() for a, b in zip(new, given["held"], strict=True))


def replaced(name, index, change):
    """Return a function that changes one array in a list of `of_call`."""

    def of(given):
        given[name] = list(given[name])
        given[name][index] = change(given[name][index])

    return of


def attribute(**changes):
    return lambda given: given["attributes"].update(changes)


def entry(**changes):
    return lambda given: given.update(changes)


def both(*changes):
    return lambda given: [change(given) for change in changes]


STRUCT = jax.ShapeDtypeStruct
OF_RESULTS = [STRUCT((2, 5), "float32")] * 3
MALFORMED = {
    "rule='adafactor' has no kernel": attribute(rule="adafactor"),
    "the rule keeps 0 slots": attribute(rule="sgd"),
    "the rule keeps 1 slots": attribute(rule="lion"),
    "the rule has no 8 bits": both(attribute(quantized="1", rule="amsgrad")),
    "seeds are missing": attribute(dithered="1"),
    "a list of flags has 2 entries for 1": attribute(adapted="00"),
    "a list of flags has 1 entries for -1": attribute(N=np.int32(-1)),
    "a list of flags has 1 entries for 2": attribute(N=np.int32(2)),
    "remainders or rows are not as many": attribute(has_rows="1"),
    "there are 3 results for 3 variables": both(
        entry(results=OF_RESULTS), entry(aliases={0: 0, 1: 1, 2: 2})
    ),
    "the last result must be one bool": entry(results=[*OF_RESULTS, STRUCT((), "int32")]),
    "the last result must be one bool, got bool": entry(
        results=[*OF_RESULTS, STRUCT((2,), "bool")]
    ),
    "result 0 must be the buffer of input 0": entry(aliases={1: 1, 2: 2}),
    "result 1 must be the buffer of input 1": entry(aliases={0: 0, 1: 2, 2: 1}),
    "result 2 must be the buffer of input 2": entry(
        aliases={0: 0, 1: 1},
        results=[*OF_RESULTS[:2], STRUCT((5, 2), "float32"), STRUCT((), "bool")],
    ),
    r"gradient 0 is float32\[5,2\], its variable float32\[2,5\]": replaced(
        "read", 0, lambda g: g.T
    ),
    "gradient 0 is": replaced("read", 0, lambda g: g[0]),
    "no kernel for int32": replaced("read", 0, lambda g: g.astype("int32")),
    r"no kernel for another type\[2,5\]": replaced("held", 0, lambda p: p.astype("int16")),
    r"slot 0 of variable 0 is float32\[5\]": replaced("held", 1, lambda s: s[0]),
    "slot 1 of variable 0 is float16": replaced("held", 2, lambda s: s.astype("float16")),
    "slot 1 of variable 0 is bfloat16": replaced("held", 2, lambda s: s.astype("bfloat16")),
    "frozen must be bool": replaced("read", 1, lambda f: f.astype("int32")),
    "frozen must be one for each": replaced("read", 1, lambda f: np.zeros(2, bool)),
    "coefficients must be float64, got int32": replaced("read", 2, lambda c: c.astype("int32")),
    "coefficients must be 4 of each": replaced("read", 2, lambda c: c[:, :3]),
    r"coefficients must be 4 of each of 1 variables, got float32\[4\]": replaced(
        "read", 2, lambda c: c[0]
    ),
    "decays must be one": entry(decays=np.zeros((1, 1), "float32")),
    "rates must be float64": entry(rates=np.zeros(1, "float16")),
    "rates must be one": entry(rates=np.zeros(0, "float32")),
    "seeds must be uint32": entry(seeds=np.zeros(1, "float32")),
    "seeds must be one": entry(seeds=np.zeros(2, "int32")),
    "the chain of variable 0 is malformed": attribute(**of_chain([1])),
    "chain of variable 0": attribute(**of_chain([-1])),
    "variable 0 is malformed": attribute(**of_chain([1], [99], [1.0], [0])),
    "chains have 0 transforms, got 1": attribute(**of_chain([0], [0], [1.0], [0])),
    "as many kinds as operands and groups": attribute(**of_chain([1], [0], [1.0, 2.0], [0])),
    "the lengths of the chains must be one for each": attribute(**of_chain([0, 0])),
    "the attribute chain_kinds": attribute(chain_kinds=None),
    "the attribute chain_operands": attribute(chain_operands=np.zeros(0, "float32")),
    "the attribute quantized": attribute(quantized=np.int32(0)),
    "the attribute rule": attribute(rule=None),
    "the attribute N": attribute(N=1.5),
}


@pytest.mark.parametrize("named", MALFORMED)
def test_the_call_refuses_what_could_do_harm(named):
    given = of_call()
    MALFORMED[named](given)
    with pytest.raises(Exception, match=named):
        called(given)


ROWS_OF_CALL = {
    "rows of variable 0 must be of 0 to 1, each once": [0, 2],
    "of 0 to 1, each once": [1, 1],
    "must be of 0 to 1": [-1, 0],
    r"rows of variable 0 are int32\[3\]": [0, 1, 0],
    r"rows of variable 0 are bool\[1\]": np.array([True]),
    r"rows of variable 0 are int32\[1,2\]": [[0, 1]],
    r"rows of variable 0 are float32\[2\]": np.zeros(2, "float32"),
}


@pytest.mark.parametrize("named", ROWS_OF_CALL)
def test_the_call_refuses_rows_that_are_none(named):
    given = of_call()
    rows = np.asarray(ROWS_OF_CALL[named])
    given["read"].insert(1, rows.astype("int32") if rows.dtype == "int64" else rows)
    given["attributes"]["has_rows"] = "1"
    with pytest.raises(Exception, match=named):
        called(given)


def test_the_call_refuses_a_remainder_of_what_loses_nothing():
    given = of_call()
    given["held"].append(np.zeros((2, 5), "float32"))
    given["attributes"]["has_remainder"] = "1"
    with pytest.raises(Exception, match="the remainder of variable 0"):
        called(given)
    given["held"][0] = given["held"][0].astype(ml_dtypes.bfloat16)
    called(given)


def test_groups_that_wait_for_each_other_are_an_error():
    first, second = (transforms.clip_by_global_norm(1.0)._replace(of=of) for of in (1, 2))
    arrays, none = [jnp.ones(3)] * 2, np.zeros(2)
    chains = [(first, second), (second, first)]
    extras = Extras([None] * 2, [None] * 2, [False] * 2, [False] * 2, none, None)
    with pytest.raises(Exception, match="wait for each other"):
        jax.block_until_ready(
            jax_native.step(
                "sgd", arrays, arrays, [(), ()], none == 1, none[:, None], none, chains, extras
            )
        )
