"""The engine `torch_native` of the optimizers: torch tensors, updated in place by the kernels."""

import keras
import numpy as np
import pytest
from keras import ops

torch = pytest.importorskip("torch", reason="the tensors are torch's")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

from fastkeras import optimizers  # noqa: E402
from fastkeras.optimizers import transforms, update  # noqa: E402
from fastkeras.optimizers._engines import native, torch_native  # noqa: E402
from fastkeras.optimizers.hyperparameters import DEFAULTS  # noqa: E402
from fastkeras.optimizers.rules import RULES  # noqa: E402
from fastkeras.optimizers.step import Extras  # noqa: E402

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = ((300, 20), (17,), (0, 3), ())
DTYPES = ("float16", "bfloat16", "float32", "float64")
KERNELS = [name for name, row in RULES.items() if row.has_kernel]


def built(optimizer, *values, dtype="float32"):
    variables = [keras.Variable(value, dtype=dtype, name=f"v{i}") for i, value in enumerate(values)]
    optimizer.build(variables)
    return variables


def tensors(rng, dtype, scale=1.0):
    return [torch.tensor(scale * rng.normal(size=s)).to(getattr(torch, dtype)) for s in SHAPES]


def as_array(tensor):
    return ops.convert_to_numpy(tensor.detach())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", KERNELS)
def test_the_bits_are_those_of_native(rule, dtype, rng):
    parameters, gradients = tensors(rng, dtype), tensors(rng, dtype)
    wide = torch.float64 if dtype == "float64" else torch.float32
    slots = [
        [torch.tensor(rng.uniform(size=p.shape), dtype=wide) for _ in RULES[rule].slots]
        for p in parameters
    ]
    is_half = dtype in DTYPES[:2]
    remainders = [torch.zeros(p.shape) if is_half else None for p in parameters]
    count = len(parameters)
    width = len(RULES[rule].coefficients(np, *coefficients_of(rule)))
    rest = (
        np.zeros(count, bool),
        rng.uniform(0.1, 0.9, (count, width)),
        np.full(count, 1e-3),
        [(transforms.clip_by_norm(0.5),)] * count,
    )
    rates = np.full(count, 0.1)

    def copied(list_of_tensors):
        return [None if t is None else torch_native._array_of(t.clone()) for t in list_of_tensors]

    def extras(remainders):
        return Extras([None] * count, remainders, [False] * count, [False] * count, rates, None)

    arrays = copied(parameters), copied(gradients), [copied(of_one) for of_one in slots]
    rests = copied(remainders)
    native.step(rule, *arrays, *rest, extras(rests))
    before = [p.data_ptr() for p in parameters]
    result = torch_native.step(rule, parameters, gradients, slots, *rest, extras(remainders))
    assert result[0] is parameters and [p.data_ptr() for p in parameters] == before
    ours = [*parameters, *(s for of_one in slots for s in of_one), *remainders]
    theirs = [*arrays[0], *(s for of_one in arrays[2] for s in of_one), *rests]
    for tensor, array in zip(ours, theirs, strict=True):
        assert (tensor is None) == (array is None)
        if tensor is not None:
            assert torch_native._array_of(tensor).tobytes() == array.tobytes()  # even NaN


def coefficients_of(rule):
    return {**DEFAULTS, "u_product": np.float64(0.9)}, np.float64(0.1), np.ones(1), np.ones(1)


def test_fused_adamw_of_keras_has_the_bits_of_update(rng):
    values = [rng.normal(size=shape).astype("float32") for shape in SHAPES[:2]]
    gradients = [rng.normal(size=v.shape).astype("float32") for v in values]
    optimizer = optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.5)
    variables = built(optimizer, *values)
    arrays = [v.copy() for v in values]
    slots = [(np.zeros_like(v), np.zeros_like(v)) for v in values]
    before = [v.value.data_ptr() for v in variables]
    for number in (1, 2, 3):
        optimizer.apply([torch.tensor(g) for g in gradients], variables)
        update(
            "adam",
            arrays,
            gradients,
            slots,
            # Keras keeps its learning rate in float32
            learning_rate=float(np.float32(0.01)),
            step=number,
            weight_decays=[0.1, 0.1],
            transforms=[(transforms.clip_by_global_norm(0.5),)] * 2,
            epsilon=1e-7,
            engine="native",
        )
    assert optimizer._engine_and_reason() == ("torch_native", "")
    assert [v.value.data_ptr() for v in variables] == before
    for variable, array in zip(variables, arrays, strict=True):
        np.testing.assert_array_equal(as_array(variable.value), array)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float64"))
def test_no_variable_of_a_dtype_goes_to_keras(dtype, rng):
    optimizer = optimizers.AdamW(0.01, master_weights=dtype != "float64")
    (variable,) = built(optimizer, rng.normal(size=(40, 30)), dtype=dtype)
    optimizer.apply([ops.ones((40, 30), dtype)], [variable])
    assert optimizer._engine_and_reason() == ("torch_native", "")


def test_what_the_kernels_cannot_take_is_done_by_keras_and_the_report_says_why(rng):
    text = []
    strided = torch.nn.Parameter(torch.ones(3, 4).t())
    both = torch.zeros(8)
    shared = [torch.nn.Parameter(both[:5]), torch.nn.Parameter(both[3:])]
    apart = [torch.nn.Parameter(both[:4]), torch.nn.Parameter(both[4:])]
    for parameters, name, reason in (
        ([strided], "keras", ": a variable is not contiguous"),
        (shared, "keras", ": two variables share memory"),
        (apart, "torch_native", ""),
    ):
        optimizer = optimizers.SGD(0.5)
        variables = built(optimizer, *parameters)
        assert all(v.value is p for v, p in zip(variables, parameters, strict=True))
        optimizer.apply([torch.ones_like(p) for p in parameters], variables)
        optimizer.report(print_fn=text.append)
        assert text[-1].splitlines()[-1] == f"the engine is {name}{reason}"
    assert (strided == 0.5).all()
    assert both.tolist() == [-1] * 8  # `keras` computes all from the old values
    adafactor = optimizers.Adafactor(0.1)
    built(adafactor, np.ones((2, 2)))
    assert adafactor._engine_and_reason() == ("keras", "the kernels have no adafactor")


def test_a_stateless_step_leaves_what_it_is_given_alone():
    optimizer = optimizers.Adam(0.1)
    variables = built(optimizer, np.ones(3))
    given = [torch.ones(3)]
    state = [v.value.detach().clone() for v in optimizer.variables]
    new, _ = optimizer.stateless_apply(state, [torch.ones(3)], given)
    assert (given[0] == 1).all() and (variables[0].value == 1).all()
    assert (new[0] < 1).all()


@pytest.mark.parametrize("of", ["itself", "integers", "float64", "strided", "expanded"])
def test_gradients_of_any_kind(of):
    optimizer = optimizers.SGD(0.5)
    (variable,) = built(optimizer, np.arange(6.0).reshape(2, 3))
    before = as_array(variable.value).copy()
    gradient = {
        "itself": lambda: variable.value,
        "integers": lambda: torch.ones(2, 3, dtype=torch.int32),
        "float64": lambda: torch.ones(2, 3, dtype=torch.float64),
        "strided": lambda: torch.arange(6.0).reshape(3, 2).t(),
        "expanded": lambda: torch.tensor(3.0).expand(2, 3),
    }[of]()
    expected = before - 0.5 * as_array(gradient).astype("float32")
    optimizer.apply([gradient], [variable])
    assert optimizer._engine_and_reason()[0] == "torch_native"
    np.testing.assert_array_equal(as_array(variable.value), expected)


def test_autograd_notices_that_a_variable_has_moved():
    optimizer = optimizers.SGD(0.5)
    (variable,) = built(optimizer, np.ones(3))
    loss = (variable.value**2).sum()
    optimizer.apply([torch.ones(3)], [variable])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("before", [(), (transforms.centralize(),)])
def test_lazy_rows_are_those_of_the_keras_engine(before, rng, monkeypatch):
    value, gradient = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)).astype("float32")
    gradient[[1, 4]] = 0
    results = []
    for forced in ("", "keras"):
        monkeypatch.setenv("FASTKERAS_ENGINE", forced)
        settings = {"weight_decay": 0.1, "gradient_transforms": before or None}
        optimizer = optimizers.AdamW(0.01, lazy=["v0"], **settings)
        (variable,) = built(optimizer, value)
        for scale in (1.0, 2.0):
            optimizer.apply([torch.tensor(scale * gradient)], [variable])
        assert optimizer._engine_and_reason()[0] == (forced or "torch_native")
        results.append(as_array(variable.value))
    np.testing.assert_allclose(*results, rtol=1e-6, atol=1e-7)
    if not before:
        np.testing.assert_array_equal(results[0][[1, 4]], value[[1, 4]].astype("float32"))


def test_a_lazy_variable_whose_gradient_is_zero_everywhere_stays(rng):
    optimizer = optimizers.Adam(0.1, lazy=True)
    (variable,) = built(optimizer, rng.normal(size=(5, 3)))
    before = as_array(variable.value)
    optimizer.apply([torch.zeros(5, 3)], [variable])  # its rows are an empty tensor, at null
    np.testing.assert_array_equal(as_array(variable.value), before)
    optimizer.apply([torch.ones(5, 3)], [variable])
    assert (as_array(variable.value) < before).all()
