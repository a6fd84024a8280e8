"""Independent float64 definitions of the networks, from their published parameter names: tests compare with these."""

import numpy as np
import torch
import torch.nn.functional as F

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def resnet_shapes(name="resnet18", channels=3, classes=0):
    """Name -> shape of every tensor of torchvision's ResNet state dict."""
    shapes = {"conv1.weight": (64, channels, 7, 7)}

    def bn(prefix, width):
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}.{key}"] = (width,)
        shapes[f"{prefix}.num_batches_tracked"] = ()

    bn("bn1", 64)
    before = 64
    for stage, depth in enumerate(DEPTHS[name], start=1):
        width = 32 * 2**stage
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            if name == "resnet18":
                convs, after = [(width, before, 3, 3), (width, width, 3, 3)], width
            else:
                after = 4 * width
                convs = [(width, before, 1, 1), (width, width, 3, 3), (after, width, 1, 1)]
            for i, shape in enumerate(convs, start=1):
                shapes[f"{prefix}.conv{i}.weight"] = shape
                bn(f"{prefix}.bn{i}", shape[0])
            if block == 0 and before != after:
                shapes[f"{prefix}.downsample.0.weight"] = (after, before, 1, 1)
                bn(f"{prefix}.downsample.1", after)
            before = after
    if classes:
        shapes |= {"fc.weight": (classes, before), "fc.bias": (classes,)}
    return shapes


def random_state(shapes, seed=0):
    """Tensors that keep activations near 1, with BatchNorm statistics far from their defaults."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=g)
        if name.endswith("num_batches_tracked"):
            x = torch.tensor(7)
        elif name.endswith("running_var"):
            x = 1 + 0.3 * x.abs()
        elif len(shape) == 4:
            x = x * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif len(shape) == 2:
            x = x * shape[1] ** -0.5
        elif name.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x = 0.1 * x
        state[name] = x
    return state


def resnet(state, x, name="resnet18", last_stride=2):
    """layer4's output [N, D, h, w] in evaluation mode, float64."""
    state = {k: v.double() for k, v in state.items()}

    def bn(x, p):
        mean, var = (state[f"{p}.running_{s}"][:, None, None] for s in ("mean", "var"))
        scale, shift = (state[f"{p}.{s}"][:, None, None] for s in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def conv(x, p, stride=1):
        w = state[f"{p}.weight"]
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    x = F.max_pool2d(bn(conv(x.double(), "conv1", 2), "bn1").clamp(min=0), 3, 2, 1)
    for stage, depth in enumerate(DEPTHS[name], start=1):
        for block in range(depth):
            p = f"layer{stage}.{block}"
            stride = 1 if block or stage == 1 else (2 if stage < 4 else last_stride)
            y, n = x, 2 if name == "resnet18" else 3
            for i in range(1, n + 1):
                at = stride if i == n - 1 else 1  # the 3x3 that strides: first of two, second of three
                y = bn(conv(y, f"{p}.conv{i}", at), f"{p}.bn{i}")
                y = y.clamp(min=0) if i < n else y
            if f"{p}.downsample.0.weight" in state:
                x = bn(conv(x, f"{p}.downsample.0", stride), f"{p}.downsample.1")
            x = (x + y).clamp(min=0)
    return x


def normalised(x, dim=1):
    return x / x.pow(2).sum(dim, keepdim=True).sqrt()


SOUNDNET = [(64, 16, 8), (32, 32, 8), (16, 64, 1), (8, 128, 1), (4, 256, 4), (4, 512, 1), (4, 1024, 1)]


def soundnet_arrays(seed=0):
    """sound8.npy's dict: layer -> array name -> float32 array, weights [k, 1, in, out]."""
    rng = np.random.default_rng(seed)
    layers, before = {}, 1
    for i, (k, width, _) in enumerate(SOUNDNET, start=1):
        layers[f"conv{i}"] = {
            "weights": rng.normal(0, (2 / (k * before)) ** 0.5, (k, 1, before, width)),
            "biases": rng.normal(0, 0.1, width),
            "mean": rng.normal(0, 0.1, width),
            "var": rng.uniform(0.5, 1.5, width),
            "gamma": rng.uniform(0.5, 1.5, width),
            "beta": rng.normal(0, 0.1, width),
        }
        before = width
    for name, classes in (("conv8", 1000), ("conv8_2", 401)):
        layers[name] = {
            "weights": rng.normal(0, 0.01, (8, 1, before, classes)),
            "biases": rng.normal(0, 0.1, classes),
        }
    return {name: {k: v.astype(np.float32) for k, v in arrays.items()} for name, arrays in layers.items()}


def soundnet_conv7(layers, wave):
    """wave [T] -> [time, 1024] float64, as the TensorFlow port computes it: pad, valid convolution, BN, ReLU, pool."""
    x = wave.astype(np.float64)[:, None]
    for i, (k, _, pool) in enumerate(SOUNDNET, start=1):
        arrays = {n: a.astype(np.float64) for n, a in layers[f"conv{i}"].items()}
        x = np.pad(x, ((k // 2, k // 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, k, axis=0)[::2]  # [time, in, k]
        x = np.tensordot(windows, arrays["weights"][:, 0], ([2, 1], [0, 1])) + arrays["biases"]
        x = (x - arrays["mean"]) / np.sqrt(arrays["var"] + 1e-5) * arrays["gamma"] + arrays["beta"]
        x = np.maximum(x, 0)
        x = x[: len(x) // pool * pool].reshape(-1, pool, x.shape[1]).max(1)
    return x


def efficientnet_lite0(state, x):
    """Block table of the paper (B0 without squeeze-and-excitation), padding as TensorFlow's SAME.

    Returns the last grids of stride 16 and 32.
    """
    s = {k: v.double() for k, v in state.items()}

    def conv(name, x, stride=1, groups=1):
        k = s[name].shape[-1]
        padded = x
        for axis in (2, 3):
            n = padded.shape[axis]
            want = (int(np.ceil(n / stride)) - 1) * stride + k - n
            before = max(want, 0) // 2
            pad = [0, 0, 0, 0]
            pad[2 * (3 - axis)], pad[2 * (3 - axis) + 1] = before, max(want, 0) - before
            padded = F.pad(padded, pad)
        return F.conv2d(padded, s[name], stride=stride, groups=groups)

    def bn(prefix, x):
        mean, var = s[f"{prefix}.running_mean"][:, None, None], s[f"{prefix}.running_var"][:, None, None]
        scale, shift = s[f"{prefix}.weight"][:, None, None], s[f"{prefix}.bias"][:, None, None]
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    x = bn("_bn0", conv("_conv_stem.weight", x, 2)).clamp(0, 6)
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    before = 32
    fine = None
    for i, stride in enumerate(strides):
        p, y = f"_blocks.{i}.", x
        if i > 0:
            y = bn(p + "_bn0", conv(p + "_expand_conv.weight", y)).clamp(0, 6)
        y = bn(p + "_bn1", conv(p + "_depthwise_conv.weight", y, stride, y.shape[1])).clamp(0, 6)
        y = bn(p + "_bn2", conv(p + "_project_conv.weight", y))
        after = y.shape[1]
        x = x + y if stride == 1 and before == after else y
        before = after
        if i == 10:
            fine = x
    return fine, x
