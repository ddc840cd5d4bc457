"""EfficientNet-Lite2 in plain numpy, from weights named as in its PyTorch package."""

import numpy as np

# (kernel, stride, expansion, inputs, outputs) of each block.
BLOCKS = (
    [(3, 1, 1, 32, 16), (3, 2, 6, 16, 24), *[(3, 1, 6, 24, 24)] * 2]
    + [(5, 2, 6, 24, 48), *[(5, 1, 6, 48, 48)] * 2]
    + [(3, 2, 6, 48, 88), *[(3, 1, 6, 88, 88)] * 3]
    + [(5, 1, 6, 88, 120), *[(5, 1, 6, 120, 120)] * 3]
    + [(5, 2, 6, 120, 208), *[(5, 1, 6, 208, 208)] * 4, (3, 1, 6, 208, 352)]
)
LAST_STRIDE = 15
# Where the package pads at the end alone.
_AT_END = ("_conv_stem", "_blocks.1._depthwise_conv")


def random_weights(rng):
    """Tensors of the shapes of the package's .pth file, its counters too."""
    weights = {}

    def add(conv, norm, shape):
        fan_in = np.prod(shape[1:])
        weights[f"{conv}.weight"] = rng.normal(0, (2 / fan_in) ** 0.5, shape)
        # small where residuals are added: noise must not grow from unit to unit
        low, high = (0.1, 0.4) if norm.endswith("._bn2") else (0.5, 1.5)
        weights[f"{norm}.weight"] = rng.uniform(low, high, shape[0])
        weights[f"{norm}.bias"] = rng.normal(0, 0.2, shape[0])
        weights[f"{norm}.running_mean"] = rng.normal(0, 0.2, shape[0])
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0])

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    for number, (side, _, expansion, inputs, outputs) in enumerate(BLOCKS):
        scope, wide = f"_blocks.{number}", inputs * expansion
        if expansion != 1:
            add(f"{scope}._expand_conv", f"{scope}._bn0", (wide, inputs, 1, 1))
        add(f"{scope}._depthwise_conv", f"{scope}._bn1", (wide, 1, side, side))
        add(f"{scope}._project_conv", f"{scope}._bn2", (outputs, wide, 1, 1))
    add("_conv_head", "_bn1", (1280, 352, 1, 1))
    weights["_fc.weight"], weights["_fc.bias"] = np.zeros((9, 1280)), np.zeros(9)
    return {name: x.astype(np.float32) for name, x in weights.items()}


def forward(weights, image):
    """The maps of stride 16 and 32 of one image [H, W, 3], normalised."""

    def conv(x, name, norm, stride=1, relu6=True):
        kernel = weights[f"{name}.weight"].astype(np.float64)
        outputs, inputs, side, _ = kernel.shape
        half = side // 2
        border = (0, 1) if name in _AT_END else (half, half)
        x = np.pad(x, (border, border, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (0, 1))
        windows = windows[::stride, ::stride]  # [h, w, C, side, side]
        if inputs == 1 and outputs == x.shape[2]:
            y = np.einsum("hwcij,cij->hwc", windows, kernel[:, 0])
        else:
            y = np.einsum("hwcij,fcij->hwf", windows, kernel, optimize=True)
        mean, var, scale, bias = (
            weights[f"{norm}.{leaf}"].astype(np.float64)
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        y = (y - mean) / np.sqrt(var + 1e-3) * scale + bias
        return np.clip(y, 0, 6) if relu6 else y

    x, maps = conv(image.astype(np.float64), "_conv_stem", "_bn0", 2), {}
    for number, (_, stride, expansion, inputs, outputs) in enumerate(BLOCKS):
        if number == LAST_STRIDE:
            maps["block3"] = x
        scope, y = f"_blocks.{number}", x
        if expansion != 1:
            y = conv(y, f"{scope}._expand_conv", f"{scope}._bn0")
        y = conv(y, f"{scope}._depthwise_conv", f"{scope}._bn1", stride)
        y = conv(y, f"{scope}._project_conv", f"{scope}._bn2", relu6=False)
        x = x + y if stride == 1 and inputs == outputs else y
    return maps | {"block4": conv(x, "_conv_head", "_bn1")}
