"""Names of variables in the weights of others, and ours."""

import re

from delf_jax.conversion.names import KERAS_LEAVES

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
