"""`compat.torch_optim.AdamW` with moments in 16 and 8 bits: its steps, and its states."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the optimizer is for torch's parameters")

from fastkeras._arrays import NUMPY  # noqa: E402
from fastkeras.compat import _torch_moments as moments  # noqa: E402
from fastkeras.compat.torch_optim import AdamW  # noqa: E402
from fastkeras.optimizers import quantization, slots_on_disk, update  # noqa: E402

BITS = (32, 16, 8)
SHAPES = ((80, 60), (7,), (70, 70))  # of which the second is too small for narrow moments


def parameters_of(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def train(optimizer, parameters, steps, first=0):
    for step in range(first, first + steps):
        for parameter in parameters:
            parameter.grad = torch.cos(3 * parameter.detach() + step)
        optimizer.step()


def numbers_of(state):
    """The moments in a state as float32."""
    held = moments.of(state)
    if not moments.are_codes(state):
        return [moment.float().numpy() for moment in held]
    arrays = [tensor.numpy() for tensor in held]
    pairs = zip(arrays[::2], arrays[1::2], (True, False), strict=True)
    return [quantization.dequantize(NUMPY, *pair) for pair in pairs]


@pytest.mark.parametrize("bits", [16, 8])
def test_the_bits_are_those_of_update(bits):
    """`update` rounds by the place of a parameter among all, and by the number of the step."""
    ours = parameters_of()
    optimizer = AdamW(ours, lr=0.01, eps=0.0, weight_decay=0.0, moment_bits=bits)
    arrays = [p.detach().numpy().copy() for p in ours]
    slots = []
    for array in arrays:
        is_small = array.size < quantization.SMALLEST
        state = moments.zeros(32 if is_small else bits, torch.from_numpy(array))
        slots.append([as_array(tensor) for tensor in moments.of(state)])
    for step in (1, 2, 3):
        for parameter in ours:
            parameter.grad = torch.cos(3 * parameter.detach() + step)
        gradients = [p.grad.numpy() for p in ours]
        optimizer.step()
        settings = {"learning_rate": 0.01, "epsilon": 0.0, "step": step, "engine": "native"}
        update("adam", arrays, gradients, slots, **settings)
    for parameter, array, of_one in zip(ours, arrays, slots, strict=True):
        np.testing.assert_array_equal(parameter.detach().numpy(), array)
        for tensor, slot in zip(moments.of(optimizer.state[parameter]), of_one, strict=True):
            assert as_array(tensor).tobytes() == slot.tobytes()


def as_array(tensor):
    import ml_dtypes

    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("bits", BITS)
def test_a_saved_state_goes_on_to_the_same_bits(bits):
    parameters = parameters_of()
    first = AdamW(parameters, lr=0.01, moment_bits=bits)
    train(first, parameters, 2)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    second = AdamW(others, lr=0.01, moment_bits=bits)
    second.load_state_dict(torch.load(file))
    copied = copy.deepcopy(first)
    train(first, parameters, 2, 2)
    train(second, others, 2, 2)
    torch.testing.assert_close(others, parameters, rtol=0, atol=0)
    of_copy = [p for group in copied.param_groups for p in group["params"]]
    train(copied, of_copy, 2, 2)
    torch.testing.assert_close(of_copy, parameters, rtol=0, atol=0)


@pytest.mark.parametrize("after", BITS)
@pytest.mark.parametrize("before", BITS)
def test_states_of_all_bits_go_into_each_other(before, after):
    parameters = parameters_of()
    first = AdamW(parameters, moment_bits=before)
    train(first, parameters, 2)
    second = AdamW(parameters, moment_bits=after)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameter in parameters:
        one, other = (optimizer.state[parameter] for optimizer in (first, second))
        assert one["step"] == other["step"]
        kept = moments.zeros(second._bits_of(parameter), parameter)
        assert {n: x.dtype for n, x in kept.items()} == {n: other[n].dtype for n in kept}
        assert set(other) == {"step", *kept}
        # half the distance of two bfloat16 or codes; codes below the smallest become it, or 0
        apart = {32: 0, 16: 2.0**-8, 8: 2.0**-3}[after if parameter.numel() > 7 else 32]
        for x, y in zip(numbers_of(one), numbers_of(other), strict=True):
            largest = 2.0**-32 * np.abs(x).max() if apart else 0
            assert (np.abs(y - x) <= apart * np.abs(x) * (1 + 1e-6) + largest).all()


def test_torch_loads_16_bits_and_refuses_codes():
    parameters = parameters_of()
    for bits in (16, 8):
        ours = AdamW(parameters, moment_bits=bits)
        train(ours, parameters, 1)
        theirs = torch.optim.AdamW(parameters)
        theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
        if bits == 16:
            train(theirs, parameters, 1)
            assert theirs.state[parameters[0]]["exp_avg"].dtype is torch.float32
        else:
            with pytest.raises(KeyError, match="exp_avg"):
                train(theirs, parameters, 1)


def test_codes_that_mean_other_numbers_are_refused():
    parameters = parameters_of()
    optimizer = AdamW(parameters, moment_bits=8)
    train(optimizer, parameters, 1)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    for meaning in (None, [x + 1 for x in state["moment_codes"]]):
        with pytest.raises(ValueError, match=r"8-bit moments .* another version"):
            optimizer.load_state_dict(state | {"moment_codes": meaning})
    with pytest.raises(ValueError, match="moment_bits must be 8, 16 or 32, got 4"):
        AdamW(parameters, moment_bits=4)


@pytest.mark.parametrize("bits", [16, 8])
def test_narrow_moments_may_lie_in_a_file(tmp_path, bits):
    ours, theirs = parameters_of(), parameters_of()
    optimizer = AdamW(ours, moment_bits=bits)
    arrays = [p.detach().numpy() for p in ours]
    slots = slots_on_disk("adam", arrays, tmp_path, moment_bits=bits)
    for parameter, of_one in zip(ours, slots, strict=True):
        tensors = [
            torch.from_numpy(s.view("int16")).view(torch.bfloat16)
            if s.dtype.name == "bfloat16"
            else torch.from_numpy(s)
            for s in of_one
        ]
        names = moments.CODES if len(tensors) == 4 else moments.WIDE
        state = {"step": torch.tensor(0.0), **dict(zip(names, tensors, strict=True))}
        optimizer.state[parameter] = state
    train(optimizer, ours, 2)
    train(AdamW(theirs, moment_bits=bits), theirs, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert slots[0][0].any()  # the steps were done in the file
