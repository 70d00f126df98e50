"""Unusual arrays and numbers are treated by every engine as by the engine `reference`."""

import numpy as np
import pytest

from engine_parameters import engines_of
from fastkeras.optimizers import transforms, update
from fastkeras.optimizers.rules import RULES
from optimizer_arguments import copied, good, numbers, read_only, strided, unaligned, written
from optimizer_steps import has_rule

NAN, INF = np.nan, np.inf


@pytest.fixture(scope="module", params=engines_of("optimizers"))
def engine(request):
    return request.param


# Gradients with an unusual layout: the result is that of a plain copy.
LAYOUTS = {
    "transposed": lambda g: np.asfortranarray(g),
    "every second number": lambda g: strided(g, 1),
    "backwards": lambda g: np.ascontiguousarray(g[::-1, ::-1])[::-1, ::-1],
    "broadcast rows": lambda g: np.broadcast_to(g[0], g.shape),
    "broadcast number": lambda g: np.broadcast_to(g[0, 0], g.shape),
    "read-only": read_only,
    "not aligned": unaligned,
    "memory map": lambda g: g.view(np.memmap),
    "float32 of a half": lambda g: g,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", ["sgd", "adam", "adafactor"])
def test_the_layout_of_a_gradient_does_not_matter(engine, rule, layout):
    if not has_rule(engine, rule):
        pytest.skip("no kernel")
    given = good(rule, dtype="float16" if "half" in layout else "float32")
    given["gradients"] = [LAYOUTS[layout](numbers(4, 6, seed=1))]
    if rule == "adafactor":
        given["slots"] = [(numbers(4) ** 2, numbers(6) ** 2, numbers(4, 6) ** 2)]
    plain = copied(given)
    assert update(**plain, engine="reference")
    assert update(**given, engine=engine)
    for result, expected in zip(written(given), written(plain), strict=True):
        tolerance = 1e-3 if result.dtype == np.float16 else 2e-6
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("of", ["parameters", "slots", "part"])
def test_a_gradient_that_is_what_it_changes_is_read_first(engine, of):
    memory = numbers(12)
    given = good("momentum", shape=(8,))
    if of == "parameters":
        given["parameters"] = given["gradients"] = [memory[:8]]
    elif of == "slots":
        given["slots"], given["gradients"] = [(memory[:8],)], [memory[:8]]
    else:
        given["parameters"], given["gradients"] = [memory[:8]], [memory[3:11]]
    plain = copied(given)
    update(**plain, engine="reference")
    update(**given, engine=engine)
    for result, expected in zip(written(given), written(plain), strict=True):
        np.testing.assert_allclose(result, expected, rtol=2e-6, atol=2e-6)


# NaN and inf in the gradient or the slots have the same effect as in the reference.
@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if row.has_kernel])
@pytest.mark.parametrize("value", [NAN, INF, -INF, 0.0, -0.0, 1e18, 1e-45])
@pytest.mark.parametrize("where", ["gradients", "slots", "parameters"])
def test_every_number_goes_as_in_the_reference(engine, rule, value, where):
    given = good(rule, shape=(7,))
    given |= {"u_product": 0.3} if rule == "nadam" else {}
    arrays = given["slots"][0] if where == "slots" else given[where]
    for array in arrays:
        array[3] = value
    plain = copied(given)
    with np.errstate(all="ignore"):
        update(**plain, engine="reference")
        update(**given, engine=engine)
    if rule == "lamb" and where == "parameters" and np.isinf(value):
        assert not np.isfinite(given["parameters"]).any()  # the step is infinite or NaN
        return
    for result, expected in zip(written(given), written(plain), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 2**40), (1, 1, 1, 1, 1, 1, 1)])
def test_shapes_without_axes_or_numbers(engine, shape):
    for rule in ("sgd", "adam", "lamb"):
        given = good(rule, shape=shape)
        given["transforms"] = [(transforms.sanitize(), transforms.clip_by_norm(1.0))]
        plain = copied(given)
        assert update(**plain, engine="reference")
        assert update(**given, engine=engine)
        for result, expected in zip(written(given), written(plain), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_no_parameters_at_all():
    assert update("adam", [], [], [], learning_rate=0.1, engine="native")


def test_squares_too_large_for_a_double_are_finite_all_the_same(engine):
    given = good("sgd", shape=(5,), dtype="float64")
    given["gradients"] = [np.array([1e200, -1e300, 0.0, 1.0, 2.0])]
    given["transforms"] = [(transforms.sanitize(), transforms.clip_by_value(1.0))]
    before = given["parameters"][0].copy()
    assert update(**given, engine=engine)
    np.testing.assert_allclose(given["parameters"][0], before - [0.1, -0.1, 0, 0.1, 0.1])
