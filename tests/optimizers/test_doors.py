"""Malformed input is refused by name by the function `update`, and by the extension module.

tests/optimizers/test_op_doors.py has the same of the TensorFlow op.
"""

import numpy as np
import pytest
import tensorflow as tf
from ml_dtypes import bfloat16

from engine_parameters import engines_of
from fastkeras import _core
from fastkeras.optimizers import transforms, update
from optimizer_arguments import copied, good, numbers, read_only, strided, unaligned
from optimizer_steps import has_rule

NAN, INF = np.nan, np.inf


@pytest.fixture(scope="module", params=engines_of("optimizers"))
def engine(request):
    return request.param


X, G, S = numbers(4, 6), numbers(4, 6, seed=1), numbers(4, 6, seed=2)
SHARED = numbers(8, 6)


def of_adafactor(row, column):
    return {"rule": "adafactor", "slots": [(numbers(row), numbers(column), numbers(4, 6))]}


BAD = [
    ({"rule": "adan"}, "rule='adan' is unknown (did you mean 'adam'?)"),
    ({"rule": 3}, "rule=3 is unknown"),
    ({"rule": ["adam"]}, "is unknown"),
    ({"parameters": 3}, "parameters must be a list"),
    ({"parameters": None}, "parameters must be a list"),
    ({"parameters": [X.tolist()]}, "parameters[0] must be a NumPy array, got list"),
    ({"parameters": [np.float32(3)]}, "parameters[0] must be a NumPy array, got float32"),
    ({"parameters": [tf.zeros((4, 6))]}, "parameters[0] must be a NumPy array"),
    ({"parameters": [np.ma.masked_array(X)]}, "parameters[0] must be a NumPy array"),
    ({"parameters": [X.astype(object)]}, "parameters[0] must be floating, got object"),
    ({"parameters": [X.astype(">f4")]}, "parameters[0] must be floating, got >f4"),
    ({"parameters": [X.astype(complex)]}, "parameters[0] must be floating, got complex128"),
    ({"parameters": [X.astype(bool)]}, "parameters[0] must be floating, got bool"),
    ({"parameters": [X.astype("U4")]}, "parameters[0] must be floating"),
    ({"parameters": [np.asfortranarray(X)]}, "parameters[0] must be contiguous"),
    ({"parameters": [X[::-1]]}, "parameters[0] must be contiguous"),
    ({"parameters": [strided(X, 1)]}, "parameters[0] must be contiguous"),
    ({"parameters": [np.broadcast_to(X[0], X.shape)]}, "parameters[0] must be contiguous"),
    ({"parameters": [read_only(X)]}, "contiguous, aligned and writeable"),
    ({"parameters": [unaligned(X)]}, "contiguous, aligned and writeable"),
    ({"gradients": [G, G]}, "gradients must be 1, one for each parameter, got 2"),
    ({"gradients": [G.astype(object)]}, "gradients[0] must be float32, got object"),
    ({"gradients": [G.astype(">f4")]}, "gradients[0] must be float32, got >f4"),
    ({"gradients": [G.astype("float64")]}, "gradients[0] must be float32, got float64"),
    ({"gradients": [G.astype("int32")]}, "gradients[0] must be float32, got int32"),
    ({"gradients": [G[0]]}, "gradients[0] must have the shape of its parameter, (4, 6), got (6,)"),
    ({"gradients": [G.T]}, "gradients[0] must have the shape"),
    ({"gradients": [None]}, "gradients[0] must be a NumPy array, got NoneType"),
    ({"slots": [None]}, "slots must be a list"),
    ({"slots": [(S,)]}, "slots[0] of rule 'adam' must be ('momentum', 'velocity'), got 1 arrays"),
    ({"slots": [(S, S[:2])]}, "slots[0], velocity, must have the shape (4, 6), got (2, 6)"),
    ({"slots": [(S, S.astype("float64"))]}, "slots[0], velocity, must be float32, got float64"),
    ({"slots": [(S, S)]}, "slots[0][1] and slots[0][0] must not share memory"),
    ({"slots": [(S.T.copy().T, S)]}, "slots[0][0] must be contiguous"),
    ({"slots": [(S, read_only(S))]}, "slots[0][1] must be contiguous, aligned and writeable"),
    ({"parameters": [SHARED[:4]], "slots": [(SHARED[2:6], S)]}, "must not share memory"),
    ({"slots": [(S.astype("uint8"), numbers(1)) * 2]}, "must not share memory"),
    ({"slots": [(S.astype("uint8"), numbers(2), S.astype("uint8"), numbers(1))]}, "scales"),
    (of_adafactor(6, 4), "slots[0], row, must have the shape (4,), got (6,)"),
    (of_adafactor(4, 4), "slots[0], column, must have the shape (6,), got (4,)"),
    ({"learning_rate": NAN}, "learning_rate must be a finite number, got nan"),
    ({"learning_rate": INF}, "learning_rate must be a finite number, got inf"),
    ({"learning_rate": "0.1x"}, "learning_rate must be a finite number, got '0.1x'"),
    ({"learning_rate": [0.1, 0.2]}, "learning_rate must be a finite number"),
    ({"step": 0}, "step must be a whole number from 1, or one for each parameter, got 0"),
    ({"step": -3}, "step must be a whole number from 1"),
    ({"step": 1.5}, "step must be a whole number from 1"),
    ({"step": [1, 2]}, "step must be a whole number from 1"),
    ({"multipliers": [-1.0]}, "multipliers must be a finite number of at least 0"),
    ({"multipliers": [NAN]}, "multipliers must be a finite number of at least 0"),
    ({"multipliers": [[1.0]]}, "multipliers must be a finite number"),
    ({"multipliers": [None]}, "multipliers must be a finite number"),
    ({"weight_decays": [INF]}, "weight_decays must be a finite number"),
    ({"weight_decays": [0.1, 0.1]}, "weight_decays must be 1, one for each parameter, got 2"),
    ({"transforms": transforms.scale(2.0)}, "transforms must be a tuple of transforms for each"),
    ({"transforms": [("scale",)]}, "transforms must be those of"),
    ({"transforms": [(transforms.Transform("scael"),)]}, "no transform is named 'scael'"),
    ({"transforms": [(transforms.Transform("scale", NAN),)]}, "operand of 'scale'"),
    ({"rows": [[0.5]]}, "rows[0] must be whole numbers, got float64"),
    ({"rows": [[True, False]]}, "rows[0] must be whole numbers, got bool"),
    ({"rows": [[-1]], "gradients": [G[:1]]}, "rows[0] must be of 0 to 3, each once"),
    ({"rows": [[4]], "gradients": [G[:1]]}, "rows[0] must be of 0 to 3, each once"),
    ({"rows": [[1, 1]], "gradients": [G[:2]]}, "rows[0] must be of 0 to 3, each once"),
    ({"rows": [[[1]]], "gradients": [G[:1]]}, "rows[0] must have one axis"),
    ({"rows": [[1, 2]]}, "gradients[0] must have the shape of its parameter, (2, 6)"),
    ({"remainders": [S.astype("float64")]}, "remainders[0] must be float32"),
    ({"remainders": [S]}, "remainders[0] must be None: float32 loses nothing"),
    ({"layer_adaptation": 3}, "layer_adaptation must be a list"),
    ({"layer_adaptation": ["no"]}, "layer_adaptation[0] must be True or False, got 'no'"),
    ({"stochastic_rounding": "no"}, "stochastic_rounding must be True or False, got 'no'"),
    ({"beta_1": 1.0}, "beta_1 must be a number from 0 to below 1, got 1.0"),
    ({"beta_2": NAN}, "beta_2 must be a number from 0 to below 1, got nan"),
    ({"epsilon": -1e-7}, "epsilon must be a number at least 0"),
    ({"epsilon": "small"}, "epsilon must be a number at least 0, got 'small'"),
    ({"rule": "nadam"}, "u_product is missing: rule 'nadam' needs"),
    ({"rule": "nadam", "u_product": 1.0}, "u_product must be a number from 0 to below 1"),
    ({"rule": "nadam", "u_product": [0.1, 0.2]}, "u_product must be a number, or 1"),
]  # fmt: skip


@pytest.mark.parametrize("bad, message", BAD, ids=[message[:60] for _, message in BAD])
def test_what_is_malformed_is_named_and_changes_nothing(engine, bad, message):
    if not has_rule(engine, bad.get("rule", "adam")):
        pytest.skip("no kernel")
    given = good() | bad
    before = copied(given)
    with pytest.raises((ValueError, TypeError)) as raised:
        update(**given, engine=engine)
    assert message in str(raised.value)
    if isinstance(given["parameters"], list) and isinstance(given["parameters"][0], np.ndarray):
        np.testing.assert_array_equal(given["parameters"][0], before["parameters"][0])


@pytest.mark.parametrize("name", ["native", "tensorflow_native"])
def test_a_rule_without_a_kernel_goes_to_an_engine_that_has_it(name, monkeypatch):
    given = good("sgd") | of_adafactor(4, 6)
    with pytest.raises(ValueError, match=f"engine='{name}' does not take the rule 'adafactor'"):
        update(**given, engine=name)
    monkeypatch.setenv("FASTKERAS_ENGINE", name)
    assert update(**given)


# The function of the extension module, with one fault at a time.
def of_core(rule="adam", count=2):
    arrays = [numbers(count, 5, seed=k) for k in range(4)]
    return {
        "rule": rule,
        "parameters": [arrays[0]],
        "gradients": [arrays[1]],
        "slots": [[arrays[2], arrays[3]]],
        "frozen": [False],
        "coefficients": np.full((1, 4), 0.1),
        "decays": [0.0],
        "chains": [[]],
        "rows": [None],
        "remainders": [None],
        "adapted": [False],
        "dithered": [False],
        "rates": [0.1],
        "seeds": [],
    }


B = numbers(2, 5)
BAD_OF_CORE = [
    {"rule": "adafactor"}, {"rule": ""}, {"rule": 13}, {"rule": -1}, {"rule": "sgd"},
    {"parameters": []}, {"parameters": [B, B]}, {"parameters": [None]}, {"parameters": 3},
    {"parameters": [B.T]}, {"parameters": [B[:, ::-1]]}, {"parameters": [strided(B, 1)]},
    {"parameters": [np.broadcast_to(B[0], B.shape)]}, {"parameters": [read_only(B)]},
    {"parameters": [unaligned(B)]}, {"parameters": [B.astype(">f4")]},
    {"parameters": [B.astype("float64")]}, {"parameters": [B.astype(object)]},
    {"parameters": [B.astype("int32")]}, {"parameters": [B[:1]]}, {"parameters": [B[0]]},
    {"gradients": []}, {"gradients": [B.T]}, {"gradients": [B[:1]]}, {"gradients": [B.ravel()]},
    {"gradients": [strided(B, 3)]}, {"gradients": [B.astype("float64")]},
    {"gradients": [B.astype("S4")]}, {"gradients": [np.broadcast_to(B[0], B.shape)]},
    {"slots": []}, {"slots": [[]]}, {"slots": [[B]]}, {"slots": [[B, B]]},
    {"slots": [[B, numbers(3, 5)]]}, {"slots": [[B.copy(), B.astype("float16")]]},
    {"slots": [[B, B[::-1]]]}, {"slots": [[B.copy(), read_only(B)]]},
    {"slots": [[B.astype("uint8"), numbers(1), B.astype("uint8"), numbers(0)]]},
    {"slots": [[numbers(2, 5), numbers(1), numbers(2, 5), numbers(1)]]},
    {"frozen": []}, {"frozen": [False] * 2}, {"frozen": 1},
    {"coefficients": np.zeros((1, 3))}, {"coefficients": np.zeros((1, 99))},
    {"coefficients": np.zeros((2, 4))}, {"coefficients": np.zeros(4)},
    {"coefficients": np.zeros((1, 4), object)[:, :2]}, {"coefficients": "abcd"},
    {"decays": []}, {"decays": [[0.0]]}, {"rates": []}, {"rates": [0.1, 0.1]},
    {"chains": []}, {"chains": [[(9, 1.0, 0)]]}, {"chains": [[(-1, 1.0, 0)]]},
    {"chains": [[(2**40, 1.0, 0)]]}, {"chains": [[(0, 1.0)]]}, {"chains": [[(0, "one", 0)]]},
    {"chains": [[(7, 1.0, 2**31)]]},
    {"rows": []}, {"rows": [np.arange(2, dtype="int32")]}, {"rows": [np.array([0, 2])]},
    {"rows": [np.array([-1, 0])]}, {"rows": [np.array([1, 1])]}, {"rows": [np.array([0])]},
    {"rows": [np.array([[0, 1]])]}, {"rows": [np.array([1, 0, 0, 0])[::2]]},
    {"rows": [np.array([2**62, 0])]}, {"rows": [np.array([0, 1])], "adapted": [True]},
    {"remainders": []}, {"remainders": [numbers(2, 5)]}, {"adapted": []},
    {"seeds": [1, 2]}, {"seeds": [-1]}, {"seeds": [2**32]}, {"dithered": []}, {"dithered": [True]},
    {"slots": [[B.astype("uint8"), numbers(1), B.astype("uint8"), numbers(1)]]},
    {"slots": [[B.astype(bfloat16), B.astype(bfloat16)]]},
    {"slots": [[B.astype(bfloat16), numbers(2, 5)]], "seeds": [1]},
    {"slots": [[numbers(2, 5), B.astype(bfloat16)]], "seeds": [1]},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_OF_CORE, ids=lambda bad: repr(bad)[:60])
def test_the_extension_module_refuses_what_could_do_harm(bad):
    given = of_core() | bad
    before = of_core()
    with pytest.raises((ValueError, TypeError)):
        _core.optimizer_step(**given)
    assert _core.optimizer_step(**before)


def test_the_extension_module_refuses_shared_memory():
    memory = numbers(40)
    for at in (0, 9, 1):
        given = of_core()
        given["parameters"] = [memory[:10].reshape(2, 5)]
        for name in ("gradients", "slots"):
            other = memory[at : at + 10].reshape(2, 5)
            bad = {"gradients": [other]} if name == "gradients" else {"slots": [[other, B.copy()]]}
            with pytest.raises(ValueError, match="overlap"):
                _core.optimizer_step(**given | bad)
    given["gradients"] = [memory[10:20].reshape(2, 5)]  # memory next to it is allowed
    assert _core.optimizer_step(**given)
