"""Calls every function of fastkeras.crf as where Keras is not installed; a test runs it."""

import sys
from pathlib import Path

sys.modules["keras"] = None  # as where it is not installed
sys.path.insert(0, str(Path(__file__).parents[1] / "crf"))

import numpy as np  # noqa: E402

from every_function import calls, leaves  # noqa: E402

backend = sys.argv[1]
if backend == "torch":
    import torch

    arrays, dtype, near = torch.as_tensor, "float64", {"rtol": 1e-11, "atol": 1e-12}
else:
    from jax import numpy as jnp

    arrays, dtype, near = jnp.asarray, "float32", {"rtol": 1e-5, "atol": 1e-5}

functions, of_numpy = calls(arrays, dtype), calls(np.asarray, dtype)
family = type(arrays(np.zeros(1)))
for name, function in functions.items():
    more = {}
    if name == "marginal_log_likelihood":  # whose derivatives only the engine `keras` has
        try:
            function()
        except ImportError as error:
            assert "pip install keras" in str(error), error
        else:
            raise AssertionError(name)
        more = {"engine": f"{backend}_native"}
    results, expected = leaves(function(**more)), leaves(of_numpy[name]())
    for result, exact in zip(results, expected, strict=True):
        assert isinstance(result, family), (name, type(result))
        assert tuple(result.shape) == exact.shape, name
        if name == "sample":  # every family has numbers of its own
            continue
        np.testing.assert_allclose(np.asarray(result), exact, **near, err_msg=name)
