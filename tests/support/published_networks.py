"""Reference implementations of published networks, independent of fr_jax.

Each takes a PyTorch state dict and an image batch [B, C, H, W] and returns the output
of the published network in evaluation mode. Operations are NumPy's in float64, or
PyTorch's if it is installed.
"""

import numpy as np


class NumpyOperations:
    """The operations of PyTorch that the networks need, in NumPy."""

    def convolution(self, x, weight, bias=None, stride=1, padding=0, groups=1):
        x = np.pad(x, ((0, 0), (0, 0), *_both_axes(padding)))
        size = weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(x, size, (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        if groups == 1:
            out = np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)
        elif groups == len(weight):
            out = np.einsum("bchwij,cij->bchw", windows, weight[:, 0], optimize=True)
        else:
            count, depth, height, width = windows.shape[:4]
            shape = (count, groups, depth // groups, height, width, *size)
            grouped = weight.reshape(groups, -1, *weight.shape[1:])
            out = np.einsum("bgchwij,gocij->bgohw", windows.reshape(shape), grouped)
            out = out.reshape(count, len(weight), height, width)
        return out if bias is None else out + bias[:, None, None]

    def transposed(self, x, weight, bias, stride, padding, output_padding=0):
        count, _, height, width = x.shape
        last = 3 + output_padding
        sides = stride * (height - 1) + last, stride * (width - 1) + last
        full = np.zeros((count, weight.shape[1], *sides))
        for i, j in np.ndindex(3, 3):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            full[:, :, rows, columns] += np.einsum(
                "bchw,co->bohw", x, weight[:, :, i, j]
            )
        rows, columns = (slice(padding, side - padding) for side in sides)
        return full[:, :, rows, columns] + bias[:, None, None]

    def linear(self, x, weight, bias):
        return x @ weight.T + bias

    def pad(self, x, low, high):
        return np.pad(x, ((0, 0), (0, 0), (low, high), (low, high)))

    def pool(self, x):
        count, channels, height, width = x.shape
        cells = x.reshape(count, channels, height // 2, 2, width // 2, 2)
        return cells.max((3, 5))

    def relu(self, x):
        return np.maximum(x, 0)

    def clip(self, x, low, high):
        return np.clip(x, low, high)

    def where(self, condition, x, y):
        return np.where(condition, x, y)

    def exp(self, x):
        return np.exp(x)

    def join(self, parts):
        return np.concatenate(parts, 1)


def _both_axes(padding):
    low, high = (padding, padding) if isinstance(padding, int) else padding
    return (low, high) if isinstance(low, tuple) else ((low, high), (low, high))


class TorchOperations:
    """The operations of PyTorch itself."""

    def __init__(self, torch):
        self.torch, self.functional = torch, torch.nn.functional

    def convolution(self, x, weight, bias=None, stride=1, padding=0, groups=1):
        if not isinstance(padding, int):
            x, padding = self.pad(x, *padding), 0
        return self.functional.conv2d(x, weight, bias, stride, padding, groups=groups)

    def transposed(self, x, weight, bias, stride, padding, output_padding=0):
        return self.functional.conv_transpose2d(
            x, weight, bias, stride, padding, output_padding
        )

    def linear(self, x, weight, bias):
        return self.functional.linear(x, weight, bias)

    def pad(self, x, low, high):
        return self.functional.pad(x, (low, high, low, high))

    def pool(self, x):
        return self.functional.max_pool2d(x, 2)

    def relu(self, x):
        return self.torch.relu(x)

    def clip(self, x, low, high):
        return self.torch.clamp(x, low, high)

    def where(self, condition, x, y):
        return self.torch.where(condition, x, y)

    def exp(self, x):
        return self.torch.exp(x)

    def join(self, parts):
        return self.torch.cat(parts, 1)


class Network:
    """Operations on the tensors of a state dict, by name."""

    epsilon = 1e-5

    def __init__(self, operations, state):
        self.do, self.state = operations, state

    def conv(self, x, name, **options):
        bias = self.state.get(f"{name}.bias")
        return self.do.convolution(x, self.state[f"{name}.weight"], bias, **options)

    def norm(self, x, name):
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, var = (
            self.state[f"{name}.running_{what}"].reshape(shape)
            for what in ("mean", "var")
        )
        x = (x - mean) / (var + self.epsilon) ** 0.5
        if f"{name}.weight" not in self.state:
            return x
        weight, bias = (
            self.state[f"{name}.{what}"].reshape(shape) for what in ("weight", "bias")
        )
        return x * weight + bias

    def prelu(self, x, name):
        slope = self.state[f"{name}.weight"].reshape(1, -1, 1, 1)
        return self.do.where(x > 0, x, slope * x)

    def linear(self, x, name):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias", 0)
        return self.do.linear(x.reshape(len(x), -1), weight, bias)

    def sigmoid(self, x):
        return 1 / (1 + self.do.exp(-x))

    def elu(self, x):
        return self.do.where(x > 0, x, self.do.exp(self.do.clip(x, -50, 0)) - 1)

    def tanh(self, x):
        return 2 * self.sigmoid(2 * x) - 1


def ir(net, x, units, *, middle_norm, squeeze):
    """AdaFace (with the BatchNorm in the middle) and CurricularFace (without)."""
    x = net.norm(net.conv(x, "input_layer.0", padding=1), "input_layer.1")
    x = net.prelu(x, "input_layer.2")
    number = 0
    for count in units:
        for index in range(count):
            block, stride = f"body.{number}", 2 if index == 0 else 1
            layer = f"{block}.res_layer"
            out = net.conv(net.norm(x, f"{layer}.0"), f"{layer}.1", padding=1)
            position = 2
            if middle_norm:
                out, position = net.norm(out, f"{layer}.2"), 3
            out = net.prelu(out, f"{layer}.{position}")
            out = net.conv(out, f"{layer}.{position + 1}", stride=stride, padding=1)
            out = net.norm(out, f"{layer}.{position + 2}")
            if squeeze:
                gate = out.mean((2, 3)).reshape(*out.shape[:2], 1, 1)
                gate = net.do.relu(net.conv(gate, f"{layer}.{squeeze}.fc1"))
                out = out * net.sigmoid(net.conv(gate, f"{layer}.{squeeze}.fc2"))
            if f"{block}.shortcut_layer.0.weight" in net.state:
                short = net.conv(x, f"{block}.shortcut_layer.0", stride=stride)
                short = net.norm(short, f"{block}.shortcut_layer.1")
            else:
                short = x[:, :, ::stride, ::stride]
            x, number = out + short, number + 1
    x = net.linear(net.norm(x, "output_layer.0"), "output_layer.3")
    return net.norm(x, "output_layer.4")


def iresnet(net, x, units):
    """arcface_torch and MagFace."""
    x = net.prelu(net.norm(net.conv(x, "conv1", padding=1), "bn1"), "prelu")
    for stage, count in enumerate(units, 1):
        for index in range(count):
            block, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            out = net.conv(net.norm(x, f"{block}.bn1"), f"{block}.conv1", padding=1)
            out = net.prelu(net.norm(out, f"{block}.bn2"), f"{block}.prelu")
            out = net.conv(out, f"{block}.conv2", stride=stride, padding=1)
            out = net.norm(out, f"{block}.bn3")
            if index == 0:
                x = net.conv(x, f"{block}.downsample.0", stride=stride)
                x = net.norm(x, f"{block}.downsample.1")
            x = out + x
    return net.norm(net.linear(net.norm(x, "bn2"), "fc"), "features")


def arcface_mbf(net, x, units):
    """arcface_torch's mbf and mbf_large; `units` are the residual blocks."""

    def unit(x, name, activated=True, **options):
        x = net.norm(net.conv(x, f"{name}.layers.0", **options), f"{name}.layers.1")
        return net.prelu(x, f"{name}.layers.2") if activated else x

    def bottleneck(x, name, stride=1):
        out = unit(x, f"{name}.layers.0")
        groups = out.shape[1]
        out = unit(out, f"{name}.layers.1", stride=stride, padding=1, groups=groups)
        return unit(out, f"{name}.layers.2", activated=False)

    def residuals(x, name, count):
        for index in range(count):
            x = x + bottleneck(x, f"{name}.layers.{index}")
        return x

    x = unit(x, "layers.0", stride=2, padding=1)
    first, *units = units
    if first == 1:
        x = unit(x, "layers.1", padding=1, groups=x.shape[1] // 2)
    else:
        x = residuals(x, "layers.1", first)
    for stage, count in enumerate(units, 1):
        x = bottleneck(x, f"layers.{2 * stage}", stride=2)
        x = residuals(x, f"layers.{2 * stage + 1}", count)
    x = unit(x, "conv_sep")
    x = unit(x, "features.layers.0", activated=False, groups=x.shape[1])
    return net.norm(net.linear(x, "features.layers.2"), "features.layers.3")


def facenet(net, x):
    """facenet-pytorch's InceptionResnetV1, before it normalises its output."""

    def unit(x, name, **options):
        x = net.norm(net.conv(x, f"{name}.conv", **options), f"{name}.bn")
        return net.do.relu(x)

    def block(x, name, kernels, factor):
        outs = []
        for branch, sides in enumerate(kernels):
            out = x
            for index, (height, width) in enumerate(sides):
                last = f".{index}" if len(sides) > 1 else ""
                pads = ((height // 2,) * 2, (width // 2,) * 2)
                out = unit(out, f"{name}.branch{branch}{last}", padding=pads)
            outs.append(out)
        out = net.conv(net.do.join(outs), f"{name}.conv2d")
        return x + (out if factor == 1 else net.do.scale(out, factor))

    def reduction(x, name, kernels):
        outs = []
        for branch, sides in enumerate(kernels):
            out = x
            for index, side in enumerate(sides):
                last = index == len(sides) - 1
                options = {"stride": 2} if last else {"padding": side // 2}
                number = f".{index}" if len(sides) > 1 else ""
                out = unit(out, f"{name}.branch{branch}{number}", **options)
            outs.append(out)
        return net.do.join([*outs, net.do.pool(x)])

    one, three = (1, 1), (3, 3)
    x = unit(unit(x, "conv2d_1a", stride=2), "conv2d_2a")
    x = net.do.pool(unit(x, "conv2d_2b", padding=1))
    x = unit(unit(unit(x, "conv2d_3b"), "conv2d_4a"), "conv2d_4b", stride=2)
    kernels = [[one], [one, three], [one, three, three]]
    for index in range(5):
        x = net.do.relu(block(x, f"repeat_1.{index}", kernels, 0.17))
    x = reduction(x, "mixed_6a", [[3], [1, 3, 3]])
    for index in range(10):
        kernels = [[one], [one, (1, 7), (7, 1)]]
        x = net.do.relu(block(x, f"repeat_2.{index}", kernels, 0.10))
    x = reduction(x, "mixed_7a", [[1, 3], [1, 3], [1, 3, 3]])
    kernels = [[one], [one, (1, 3), (3, 1)]]
    for index in range(5):
        x = net.do.relu(block(x, f"repeat_3.{index}", kernels, 0.20))
    x = block(x, "block8", kernels, 1.0).mean((2, 3))
    return net.norm(net.linear(x, "last_linear"), "last_bn")


def sphere20a(net, x):
    """sphereface_pytorch."""

    def unit(x, number, stride=1):
        x = net.conv(x, f"conv{number}", stride=stride, padding=1)
        return net.prelu(x, f"relu{number}")

    for stage, pairs in enumerate((1, 2, 4, 1), 1):
        x = unit(x, f"{stage}_1", stride=2)
        for pair in range(1, pairs + 1):
            out = unit(x, f"{stage}_{2 * pair}")
            x = x + unit(out, f"{stage}_{2 * pair + 1}")
    return net.linear(x, "fc5")


def sphere(net, x, units):
    for stage, count in enumerate(units, 1):
        x = net.conv(x, f"layer{stage}.0", stride=2, padding=1)
        x = net.prelu(x, f"layer{stage}.1")
        for index in range(2, count + 2):
            block, out = f"layer{stage}.{index}", x
            for half in (1, 2):
                out = net.conv(out, f"{block}.conv{half}", padding=1)
                out = net.prelu(out, f"{block}.prelu{half}")
            x = x + out
    return net.linear(x, "fc")


def foamliu_mobilefacenet(net, x):
    def relu6(x):
        return net.do.clip(x, 0, 6)

    def depthwise(x, name, **options):
        return net.conv(x, name, groups=x.shape[1], **options)

    x = relu6(net.norm(net.conv(x, "conv1.0", stride=2, padding=1), "conv1.1"))
    x = net.norm(depthwise(x, "dw_conv.depthwise", padding=1), "dw_conv.bn1")
    x = net.conv(net.do.relu(x), "dw_conv.pointwise")
    x = net.do.relu(net.norm(x, "dw_conv.bn2"))
    number = 0
    for count, stride in ((5, 2), (1, 2), (6, 1), (1, 2), (2, 1)):
        for index in range(count):
            block = f"features.{number}.conv"
            step = stride if index == 0 else 1
            out = relu6(net.norm(net.conv(x, f"{block}.0.0"), f"{block}.0.1"))
            out = depthwise(out, f"{block}.1.0", stride=step, padding=1)
            out = net.conv(relu6(net.norm(out, f"{block}.1.1")), f"{block}.2")
            out = net.norm(out, f"{block}.3")
            x = x + out if step == 1 and out.shape == x.shape else out
            number += 1
    x = relu6(net.norm(net.conv(x, "conv2.0"), "conv2.1"))
    x = net.norm(depthwise(x, "gdconv.depthwise"), "gdconv.bn")
    return net.norm(net.conv(x, "conv3"), "bn").reshape(len(x), -1)


_STRIDES = (1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)  # of the encoder's convolutions
_UPS = (1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)  # of the decoder's
_NAMES = [f"Conv{s}{n}" for s in range(1, 6) for n in (1, 2, 3) if (s, n) != (1, 3)]


def vgg_face(net, x):
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        for index in range(1, count + 1):
            x = net.do.relu(net.conv(x, f"conv{stage}_{index}", padding=1))
        x = net.do.pool(x)
    return net.do.relu(net.linear(net.do.relu(net.linear(x, "fc6")), "fc7"))


def zhangjunh_trunk(net, x, prefix=""):
    """Pooled features of encoder or discriminator."""
    for number, stride in enumerate(_STRIDES):
        unit, first = f"{prefix}conv_layers.{number}.layers", 0
        padding = 1
        if stride == 2:
            padding, first = (0, 1), 1
        x = net.conv(x, f"{unit}.{first}", stride=stride, padding=padding)
        x = net.elu(net.norm(x, f"{unit}.{first + 1}"))
    return x.mean((2, 3))


def zhangjunh_generator(net, x, pose, noise):
    feature = zhangjunh_trunk(net, x, "enc.")
    depth = net.state["dec.Fconv_layers.0.layers.0.weight"].shape[0]
    if feature.shape[1] > depth:  # raw confidence; images of one identity
        weight = feature[:, -1:]
        feature = (feature[:, :-1] * weight).sum(0) / (weight.sum() + 1e-6)
        feature = feature.reshape(1, -1)
    x = net.linear(net.do.join([feature, pose, noise]), "dec.fc")
    side = int((x.shape[1] // depth) ** 0.5)
    x = x.reshape(len(x), depth, side, side)
    for number, stride in enumerate(_UPS):
        unit = f"dec.Fconv_layers.{number}.layers"
        weight, bias = (net.state[f"{unit}.0.{leaf}"] for leaf in ("weight", "bias"))
        x = net.do.transposed(x, weight, bias, stride, 1)
        if stride == 2:
            x = net.do.pad(x, 0, 1)
        x = net.elu(net.norm(x, f"{unit}.{stride}"))
    return feature, x


def zhangjunh_discriminator(net, x):
    return net.linear(zhangjunh_trunk(net, x), "fc")


def milankinen_generator(net, x, pose, noise):
    """Images of one identity; a decoder seed of 3 is upsampled in the first layer."""

    def unit(x, name, stride=1):
        return net.norm(net.conv(x, name, stride=stride, padding=1), f"{name}_bn")

    for name, stride in zip(_NAMES[:-1], _STRIDES):
        x = net.elu(unit(x, f"enc.conv.{name}", stride))
    feature = net.elu(unit(x, "enc.emb.Conv53")).mean((2, 3))
    weight = net.elu(unit(x, "enc.coefficient.Conv53_W")).mean((2, 3))
    weight = net.sigmoid(weight)
    feature = (feature * weight).sum(0) / (weight.sum() + 1e-6)
    feature = feature.reshape(1, -1)
    x = net.linear(net.do.join([feature, pose, noise]), "dec.fc")
    depth = feature.shape[1]
    side = int((x.shape[1] // depth) ** 0.5)
    x = x.reshape(len(x), depth, side, side)
    names = ["FConv52", "FConv51", "FConv43", "FConv42", "FConv41", "FConv33"]
    names += ["FConv32", "FConv31", "FConv23", "FConv22", "FConv21", "FConv13"]
    names += ["FConv12", "FConv11"]
    for number, (name, stride) in enumerate(zip(names, _UPS)):
        stride = 2 if number == 0 and side == 3 else stride
        name = f"dec.x_h.{name}"
        weight, bias = (net.state[f"{name}.{leaf}"] for leaf in ("weight", "bias"))
        x = net.do.transposed(x, weight, bias, stride, 1, stride - 1)
        x = net.norm(x, f"{name}_bn")
        x = net.tanh(x) if name.endswith("FConv11") else net.elu(x)
    return feature, x


def milankinen_discriminator(net, x):
    for name, stride in zip(_NAMES, _STRIDES):
        name = f"conv.{name}"
        x = net.conv(x, name, stride=stride, padding=1)
        x = net.elu(net.norm(x, f"{name}_bn"))
    return net.linear(x.mean((2, 3)), "fc")
