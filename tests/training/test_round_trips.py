"""Every argument of layers, losses and models is saved and restored, even if it is falsy."""

import copy
import inspect
import json
import pickle

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import layers, losses, training
from fastkeras.compat import bert4keras, crf_keras

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@keras.saving.register_keras_serializable("tests")
def squares(*inputs, **named):
    return ops.square([*inputs, *named.values()][0])


OF_LAYERS = {"name": ["other"], "dtype": ["bfloat16"], "trainable": [False]}
INITIALIZERS = ["ones", keras.initializers.Constant(0)]
CASES = {  # for each class: the arguments that it needs, and values of each other than the default
    layers.LossLayer: (
        {},
        {"fn": [squares], "weight": [0, 0.0, -1.5], "output": [1, "y", ""]} | OF_LAYERS,
    ),
    layers.TripletLossLayer: (
        {},
        {"margin": [0, 0.0, 2], "distance": ["dot"], "weight": [0, 0.0], "output": [1, "a"]}
        | OF_LAYERS,
    ),
    layers.CenterLossLayer: (
        {"classes": 3},
        {"classes": [1], "weight": [0, 0.0], "centers_initializer": INITIALIZERS, "output": [1]}
        | OF_LAYERS,
    ),
    layers.CenterDistances: (
        {"classes": 3},
        {"classes": [1], "centers_initializer": INITIALIZERS} | OF_LAYERS,
    ),
    layers.MetricLayer: ({"name": "m"}, {"fn": [squares]} | OF_LAYERS),
    layers.GradientReversal: ({}, {"scale": [0, 0.0, -0.5]} | OF_LAYERS),
    layers.Reparameterize: (
        {"layer": keras.layers.Dense(3), "transform": squares},
        {
            "layer": [keras.layers.Dense(3, use_bias=False)],
            "transform": [training.WeightNorm(), training.Masked(np.zeros((4, 3)))],
            "weights": ["bias", ["kernel", "bias"]],
        }
        | OF_LAYERS,
    ),
    training.SpectralNorm: (
        {},
        {"iterations": [1], "persistent": [True], "axis": [0, -2]} | OF_LAYERS,
    ),
    training.WeightNorm: ({}, OF_LAYERS),
    training.L2Normalize: ({}, {"axis": [0, -1, (0, 1)]} | OF_LAYERS),
    training.WeightStandardization: ({}, {"epsilon": [0, 0.0]} | OF_LAYERS),
    training.LowRank: ({"rank": 2}, {"rank": [1]} | OF_LAYERS),
    training.Masked: (
        {},
        {"mask": [np.zeros(3), np.eye(4, 3), False, np.zeros((0, 3)), [[1, 0, 1]]]} | OF_LAYERS,
    ),
    losses.SmoothedCrossentropy: (
        {},
        {
            "smoothing": [0, 0.0, 1],
            "from_logits": [False],
            "sparse": [False],
            "reduction": [None, "sum"],
            "name": ["other"],
        },
    ),
    losses.CenterLoss: ({}, {"reduction": [None, "sum"], "name": ["other"]}),
    crf_keras.CRF: ({}, {"ignore_last_label": [True]} | OF_LAYERS),
    bert4keras.ConditionalRandomField: ({}, {"lr_multiplier": [0.5]} | OF_LAYERS),
}


def pairs():
    for of_class, (needed, values) in CASES.items():
        for name, each in values.items():
            for value in each:
                label = f"{of_class.__name__}-{name}-{type(value).__name__}"
                yield pytest.param(of_class, {**needed, name: value}, name, id=label)


def through_json(item):
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(item)))
    return keras.saving.deserialize_keras_object(written)


def plain(config):
    """A configuration that can be compared and tells 0, 0.0 and False apart."""
    return json.dumps(keras.saving.serialize_keras_object(config), sort_keys=True)


@pytest.mark.parametrize(("of_class", "arguments", "name"), [*pairs()])
def test_every_argument_comes_back(of_class, arguments, name):
    needed, _ = CASES[of_class]
    default, item = of_class(**needed), of_class(**arguments)
    config = item.get_config()
    assert plain(config) != plain(default.get_config()) or name in ("dtype", "trainable")
    for again in (of_class.from_config(copy.deepcopy(config)), through_json(item)):
        assert plain(again.get_config()) == plain(config)
        if name in ("name", "trainable") and not issubclass(of_class, keras.losses.Loss):
            assert getattr(again, name) == arguments[name]
    if not isinstance(item, training.Masked):  # its name is in the paths of its weights
        for again in (copy.deepcopy(item), pickle.loads(pickle.dumps(item))):
            assert plain(again.get_config()) == plain(config)


def test_all_arguments_are_tried():
    for of_class, (needed, values) in CASES.items():
        parameters = inspect.signature(of_class.__init__).parameters.values()
        named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD} - {"self"}
        assert named <= {*needed, *values}, of_class


def test_a_mask_masks_in_a_copy_of_the_layer_and_in_a_clone_of_the_model():
    mask = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    x = keras.Input((4,))
    layer = layers.Reparameterize(keras.layers.Dense(3), training.Masked(mask))
    model = keras.Model(x, layer(x))
    for again in (copy.deepcopy(model), keras.models.clone_model(model)):
        (weight,) = again.layers[-1].transformed_weights().values()
        np.testing.assert_array_equal(ops.convert_to_numpy(weight != 0), mask)


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "wasserstein", "reverse": True},
        {"generator_weight": 0.25},
        {"name": "other"},
        {"trainable": False},
        {"dtype": "bfloat16"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_argument_of_a_gan_comes_back(changed):
    g = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    d = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    gan = training.SingleLossGAN(g, d, **changed)
    config = gan.get_config()
    for again in (training.SingleLossGAN.from_config(copy.deepcopy(config)), through_json(gan)):
        assert plain(again.get_config()) == plain(config)
        for name in ("generator_weight", "reverse", "name", "trainable"):
            assert getattr(again, name) == getattr(gan, name)
        assert again.compute_dtype == gan.compute_dtype


def test_the_weight_of_the_generator_counts_after_another_optimizer():
    """λ is a multiplier for one optimizer, and a factor of the loss for the next."""
    from fastkeras import optimizers

    g = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False)])
    d = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    gan = training.SingleLossGAN(g, d, generator_weight=0.5)
    start, steps = gan.generator.get_weights(), {}
    for optimizer in (keras.optimizers.SGD(1.0), optimizers.SGD(1.0), keras.optimizers.SGD(1.0)):
        gan.generator.set_weights(start)
        d.set_weights([np.ones((3, 1)), np.zeros(1)])
        gan.compile(optimizer)
        gan._noise.state.assign([1, 2])
        gan.train_on_batch(np.ones((8, 3), "float32"))
        steps[len(steps)] = gan.generator.get_weights()[0] - start[0]
    np.testing.assert_allclose(steps[1], steps[0], 1e-5, 1e-7)
    np.testing.assert_allclose(steps[2], steps[0], 1e-5, 1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LossLayer("fn"), "fn='fn' must be a function"),
        (lambda: layers.LossLayer(weight=None), "weight=None must be a number"),
        (lambda: layers.MetricLayer("m", 3), "fn=3 must be a function"),
        (lambda: layers.GradientReversal("1"), "scale='1' must be a number"),
        (lambda: layers.TripletLossLayer("1"), "margin='1' must be at least 0"),
        (lambda: layers.TripletLossLayer(distance=["dot"]), "distance=.* must be one of"),
        (lambda: layers.CenterDistances(2.0), "classes=2.0 must be an integer of at least 1"),
        (lambda: layers.CenterLossLayer(True), "classes=True must be an integer of at least 1"),
        (lambda: layers.Reparameterize(keras.layers.Dense(1), squares, []), "must name at least"),
        (lambda: losses.SmoothedCrossentropy(None), "smoothing=None must be from 0 to 1"),
        (lambda: training.SpectralNorm("5"), "iterations='5' must be an integer of at least 1"),
        (lambda: training.LowRank(0), "rank=0 must be an integer of at least 1"),
        (lambda: training.WeightStandardization(-1), "epsilon=-1 must be at least 0"),
        (lambda: training.SAM("0.1"), "rho='0.1' must be above 0"),
        (lambda: training.ASAM(eta=-1), "eta=-1 must be at least 0"),
        (lambda: training.FGM(epsilon=None), "epsilon=None must be above 0"),
        (lambda: training.FGM(None), "weights=None must be a name, or a tuple of names"),
        (lambda: training.PGD(()), r"weights=\(\) must be a name, or a tuple of names"),
        (lambda: training.GradientPenalty(["", "a"]), "must be names, not empty"),
        (lambda: training.SingleLossGAN(None, None), "generator must be a model of Keras"),
        (lambda: layers.LossLayer(lambda x: None)(np.ones(3)), "the loss of .* is None"),
        (lambda: training.PGD(rounds=1.5), "rounds=1.5 must be an integer of at least 1"),
        (lambda: training.PGD(clean=2), "clean=2 must be from 0 to 1"),
        (lambda: training.VirtualAdversarial(rounds=0), "rounds=0 must be an integer of at least"),
        (lambda: training.SingleLossGAN(None, None, None), "loss=None must be one of"),
        (lambda: training.SingleLossGAN(None, None, generator_weight="1"), "='1' must be above 0"),
    ],
)
def test_arguments_are_named_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rule_is_made_before_it_is_given():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for wrong in (training.SAM, "SAM", 3):
        with pytest.raises(ValueError, match="must be a rule such as SAM"):
            training.train_with(model, wrong)
