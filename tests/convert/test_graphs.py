"""ONNX files are recognised by their graphs, whatever exporters call their tensors."""

import functools

import jax
import numpy as np
import pytest

from fr_jax import convert, models
from fr_jax.errors import UserError
from fr_jax.models import layers
from fr_jax.models.backbones import sphere
from fr_jax.models.preprocess import InputSpec
from tests.support import published_networks as published
from tests.support import weight_files as made
from tests.support.networks import random_variables
from tests.support.onnx_files import Style, network_file

SMALL = {"width": 0.125, "embedding_size": 16}
# Dialect: architecture, its reference implementation, input size.
NETWORKS = {
    "arcface_torch": (
        "iresnet18",
        lambda net, x: published.iresnet(net, x, (2, 2, 2, 2)),
        (32, 32),
    ),
    "insightface_pytorch": (
        "ir_se50",
        lambda net, x: published.ir(
            net, x, (3, 4, 14, 3), middle_norm=False, squeeze="5"
        ),
        (32, 32),
    ),
    "adaface": (
        "adaface_ir18",
        lambda net, x: published.ir(
            net, x, (2, 2, 2, 2), middle_norm=True, squeeze=None
        ),
        (32, 32),
    ),
    "arcface_torch_mbf": (
        "mbf",
        lambda net, x: published.arcface_mbf(net, x, (1, 4, 6, 2)),
        (32, 32),
    ),
    "foamliu_mobilefacenet": (
        "mobilefacenet_v2",
        published.foamliu_mobilefacenet,
        (32, 32),
    ),
    "sphere": (
        "sphere20",
        lambda net, x: published.sphere(net, x, (1, 2, 4, 1)),
        (112, 96),
    ),
    "sphereface_pytorch": ("sphere20a", published.sphere20a, (112, 96)),
    "facenet_pytorch": ("inception_resnet_v1", published.facenet, (160, 160)),
}


@functools.cache
def state_of(dialect):
    architecture, _, (height, width) = NETWORKS[dialect]
    spec = InputSpec(max(height, width), crop=(height, width))
    variables = random_variables(models.create(architecture, **SMALL), spec)
    state = convert.to_state_dict(variables, dialect)
    return {name: a for name, a in state.items() if "num_batches" not in name}


def written(dialect, style=None, state=None):
    _, network, size = NETWORKS[dialect]
    style = style or Style()
    if dialect == "facenet_pytorch":
        style = style._replace(epsilon=1e-3)
    return network_file(network, state or state_of(dialect), style, size=size)


@pytest.fixture
def read(tmp_path):
    """Returns a function: bytes of a file -> the network in it."""

    def convert_bytes(data, *arguments, **options):
        path = tmp_path / "network.onnx"
        path.write_bytes(data)
        return convert.from_weights(convert.read_weights(path), *arguments, **options)

    return convert_bytes


class Reference(published.NumpyOperations):
    def pool(self, x):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        return windows[:, :, ::2, ::2].max((4, 5))

    def scale(self, x, number):
        return x * number


def assert_equal_function(converted, dialect, epsilon=1e-5):
    """The state dicts of both give one output, in the reference implementation."""
    _, network, size = NETWORKS[dialect]
    images = np.random.default_rng(0).uniform(-1, 1, (1, 3, *size))
    outputs = []
    imported = convert.to_state_dict(converted.variables, converted.dialect)
    norms = (getattr(converted.model, "bn_epsilon", epsilon), epsilon)
    for state, number in zip((imported, state_of(dialect)), norms):
        wide = {name: array.astype(np.float64) for name, array in state.items()}
        net = published.Network(Reference(), wide)
        net.epsilon = 1e-3 if dialect == "facenet_pytorch" else number
        outputs.append(network(net, images))
    actual, expected = outputs
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < 1e-5


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "whole"])
@pytest.mark.parametrize(
    "dialect",
    [
        pytest.param(name, marks=pytest.mark.long)
        if name not in ("arcface_torch", "foamliu_mobilefacenet")
        else name
        for name in NETWORKS
    ],
)
def test_network_without_names_is_recognised(dialect, fold, read):
    converted = read(written(dialect, Style(fold=fold)))
    assert converted.dialect == dialect
    assert converted.architecture == NETWORKS[dialect][0]
    assert converted.unused == ()
    assert {k: converted.options[k] for k in SMALL} == SMALL
    height, width, _ = converted.input_spec.shape
    assert (height, width) == NETWORKS[dialect][2]
    if fold:
        assert_equal_function(converted, dialect)
        return
    back = convert.to_state_dict(converted.variables, dialect)
    for name, array in state_of(dialect).items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


COUNTED = {
    name: (count, dialect)
    for dialect, scheme in convert.DIALECTS.items()
    for count, names in scheme.linear_layers.items()
    for name in names
}
SHALLOW = ("adaface_ir34", "adaface_ir_se18", "ir50", "mbf", "sphere20a")


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in SHALLOW else pytest.param(name, marks=pytest.mark.long)
        for name in COUNTED
    ],
)
def test_number_of_linear_layers_finds_the_architecture(architecture):
    variables = random_variables(models.create(architecture, **SMALL), 112)
    kernels = [
        path
        for path, _ in jax.tree_util.tree_flatten_with_path(variables["params"])[0]
        if path[-1].key == "kernel"
    ]
    assert len(kernels) == COUNTED[architecture][0]


def test_every_deep_embedder_is_found_by_its_graph():
    """Vision transformers and VGG-16 are not: they have layers of other kinds.

    Nor is the regressor of landmarks, which no repository publishes.
    """
    embedders = {
        name
        for name, (module, _) in models.ARCHITECTURES.items()
        if issubclass(module, layers.Backbone | sphere.Sphere)
    }
    others = {"vit_t", "vit_s", "vit_b", "vit_l", "landmark_regressor"}
    assert embedders - set(COUNTED) == others


STYLES = {
    "names of torch's new exporter": Style(names=True),
    "transposed matrices": Style(linear="Gemm^T", fold=False),
    "products and sums": Style(linear="MatMul", norm="Mul", fold=False),
    "products, folded": Style(linear="MatMul"),
    "linear layers as convolutions": Style(linear="Conv"),
    "weights as constants": Style(constants=True),
    "weights as inputs": Style(listed=True, slopes=(1, -1, 1, 1)),
    "unit embeddings": Style(unit=True),
    "another order": Style(reordered=True),
    "another order, whole": Style(reordered=True, fold=False),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "dialect",
    ["arcface_torch", pytest.param("arcface_torch_mbf", marks=pytest.mark.long)],
)
def test_exporters_may_write_a_network_in_many_ways(dialect, style, read):
    converted = read(written(dialect, STYLES[style]))
    assert converted.dialect == dialect
    assert set(converted.alternatives) <= {"magface"}  # an epsilon may be folded
    assert_equal_function(converted, dialect)


@pytest.mark.long
@pytest.mark.parametrize("dialect", ["insightface_pytorch", "facenet_pytorch"])
def test_order_of_parallel_branches_is_free(dialect, read):
    converted = read(written(dialect, Style(reordered=True)))
    assert_equal_function(converted, dialect)


def test_epsilon_distinguishes_magface(read):
    converted = read(written("arcface_torch", Style(epsilon=2e-5)))
    assert (converted.dialect, converted.alternatives) == ("magface", ())
    assert converted.input_spec.colour == "BGR"
    assert_equal_function(converted, "arcface_torch", 2e-5)
    chosen = read(written("arcface_torch", Style(epsilon=2e-5)), "arcface_torch")
    assert chosen.dialect == "arcface_torch"
    assert_equal_function(chosen, "arcface_torch", 2e-5)


def test_preprocessing_in_the_graph_becomes_the_input_specification(read):
    converted = read(written("arcface_torch", Style(scaled=128.0)))
    assert converted.input_spec[1:4] == ("RGB", 127.5, 128.0)
    with pytest.raises(UserError, match="scales its input, which is no image"):
        read(written("arcface_torch", Style(scaled=0.5)))


@pytest.mark.long
def test_last_norm_without_scale_distinguishes_curricularface(read):
    """It is written with scale 1 and offset 0."""
    state = dict(state_of("insightface_pytorch"))
    for leaf, number in (("weight", 1), ("bias", 0)):
        name = f"output_layer.4.{leaf}"
        state[name] = np.full_like(state[name], number)
    data = written("insightface_pytorch", Style(fold=False), state)
    converted = read(data)
    assert converted.dialect == "curricularface"
    assert "output_layer.4.weight" not in convert.to_state_dict(
        converted.variables, "curricularface"
    )


def test_other_networks_are_refused(read):
    state = state_of("arcface_torch")

    def refused(match, network, style=None, state=state):
        with pytest.raises(UserError, match=match) as caught:
            read(network_file(network, state, style, size=(32, 32)))
        assert len(str(caught.value).splitlines()) == 1

    def with_stride(net, x):
        conv = net.conv

        def changed(x, name, stride=1, **options):
            other = 1 if name == "layer2.0.conv2" else stride
            return conv(x, name, stride=other, **options)

        net.conv = changed
        return published.iresnet(net, x, (2, 2, 2, 2))

    refused("unlike iresnet18, its layers are connected otherwise", with_stride)

    def with_padding(net, x):
        conv = net.conv

        def changed(x, name, padding=0, **options):
            other = 2 if name == "layer2.0.conv2" else padding
            return conv(x, name, padding=other, **options)

        net.conv = changed
        return published.iresnet(net, x, (2, 2, 2, 2))

    refused("unlike iresnet18, its layers are connected otherwise", with_padding)

    def with_activation(net, x):
        prelu = net.prelu
        net.prelu = lambda x, name: net.do.relu(prelu(x, name))
        return published.iresnet(net, x, (2, 2, 2, 2))

    refused("unlike iresnet18, its layers are connected otherwise", with_activation)

    def with_swapped_channels(net, x):
        order = net.do.tensor("order", np.array([2.0, 1.0, 0.0]))
        x = net.do.emit("Gather", [x, order], x.shape, axis=1)
        return published.iresnet(net, x, (2, 2, 2, 2))

    refused("unlike iresnet18, its layers are connected", with_swapped_channels)

    def with_channels_last(net, x):
        linear = net.linear

        def changed(x, name):
            _, channels, height, width = x.shape
            shape = (1, height, width, channels)
            return linear(net.do.emit("Transpose", [x], shape, perm=(0, 2, 3, 1)), name)

        net.linear = changed
        return published.iresnet(net, x, (2, 2, 2, 2))

    refused("unlike iresnet18, its layers are connected", with_channels_last)

    def with_softmax(net, x):
        out = published.iresnet(net, x, (2, 2, 2, 2))
        return net.do.emit("Softmax", [out], out.shape)

    refused("unlike iresnet18, it ends otherwise .Softmax.", with_softmax)

    def with_another_layer(net, x):
        return net.linear(published.iresnet(net, x, (2, 2, 2, 2)), "fc2")

    matrix = {"fc2.weight": np.eye(16, dtype=np.float32)}
    refused(
        "it has 23 convolutions and linear", with_another_layer, None, state | matrix
    )

    def without_blocks(net, x):
        return published.iresnet(net, x, (2, 1, 2, 2))

    refused("it has 20 convolutions and linear layers", without_blocks)


def test_published_onnx_file_is_its_published_checkpoint(real):
    """Its BatchNorms are folded."""
    stored = convert.read_weights(real("weights/mobilefacenet.pt"))
    file = convert.read_weights(real("weights/MobileFaceNet.onnx"))
    numbers = {name: f"{at}" for at, name in enumerate(file.tensors)}
    nodes = [
        node._replace(inputs=tuple(numbers.get(name, name) for name in node.inputs))
        for node in file.graph.nodes
    ]
    anonymous = file._replace(
        tensors={numbers[name]: array for name, array in file.tensors.items()},
        graph=file.graph._replace(nodes=nodes),
    )
    converted = convert.from_weights(anonymous)
    assert converted.dialect == "foamliu_mobilefacenet"
    images = np.random.default_rng(0).uniform(-1, 1, (1, 3, 112, 112))
    back = convert.to_state_dict(converted.variables, converted.dialect)
    outputs = []
    for state in (back, stored.tensors):
        wide = {name: array.astype(np.float64) for name, array in state.items()}
        net = published.Network(Reference(), wide)
        outputs.append(published.foamliu_mobilefacenet(net, images))
    error = np.linalg.norm(outputs[0] - outputs[1]) / np.linalg.norm(outputs[1])
    assert error < 1e-5


def test_weights_in_another_file_have_a_remedy(read):
    location = made.field(13, made.field(1, b"location") + made.field(2, b"net.data"))
    weight = made.initialiser("conv1.weight", np.zeros((2, 3, 3, 3), np.float32))
    with pytest.raises(UserError, match=r"torch\.onnx\.export\(.*external_data=False"):
        read(made.onnx(made.field(5, weight + location)))


def test_odd_graphs_are_refused(read):
    def node(operator, inputs, output):
        body = b"".join(made.field(1, name.encode()) for name in inputs)
        body += made.field(2, output.encode()) + made.field(4, operator.encode())
        return made.field(1, body)

    def graph(*nodes, inputs=("x",)):
        ends = [made.field(11, made.field(1, name.encode())) for name in inputs]
        weight = made.initialiser("w", np.ones((4, 3, 1, 1), np.float32))
        return made.onnx(*nodes, made.field(5, weight), *ends)

    conv = node("Conv", ("x", "w"), "y")
    for data, match in (
        (graph(conv), "it has 1 convolutions and linear layers"),
        (graph(conv, inputs=("x", "z")), "a graph with 2 inputs instead of one"),
        (graph(conv, inputs=()), "a graph with 0 inputs instead of one"),
        (graph(node("Conv", ("y", "w"), "z"), conv), "'y' is used before it is"),
        (graph(node("Conv", ("w", "x"), "y")), "it has 0 convolutions"),
        (graph(node("Gemm", ("x", "w"), "y")), "a Gemm of other than rows"),
        (graph(node("Loop", ("x",), "y"), conv), "it has 1 convolutions"),
    ):
        with pytest.raises(UserError, match=match) as caught:
            read(data)
        assert len(str(caught.value).splitlines()) == 1


def test_graph_with_many_joined_layers_is_refused(read):
    """Sums of all earlier layers: their sets would grow with the square."""

    def network(net, x):
        total = x = net.conv(x, "conv1", padding=1)
        for _ in range(400):
            x = net.prelu(x, "prelu")
            total = total + x
        return total

    with pytest.raises(UserError, match="depends on over 256 layers"):
        read(network_file(network, state_of("arcface_torch"), size=(32, 32)))
