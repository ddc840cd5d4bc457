import pytest

from delf_jax.conversion.names import application_name, pycls_name, torch_name
from tests.helpers import naive_resnet

UNITS = (3, 4, 6, 3)
FAMILIES = {
    torch_name: naive_resnet.TORCHVISION,
    pycls_name: naive_resnet.PYCLS,
    application_name: naive_resnet.APPLICATIONS,
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "model"])
def test_every_variable_of_a_resnet_has_a_place_of_its_own(rng, name, prefix):
    family = FAMILIES[name]
    prefix += prefix and ("." if family.pytorch else "/")
    found = {}
    for theirs in naive_resnet.random_weights(family, UNITS, 4, rng):
        ours = name(prefix + theirs)
        assert ours not in found, theirs
        if not theirs.endswith("num_batches_tracked"):
            found[ours] = theirs
    leaves = 6 if family.bias else 5
    layers = 1 + 3 * sum(UNITS) + 4
    assert None not in found and len(found) == leaves * layers


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layer3.5.conv2.weight", "params/backbone/block3_unit6/conv2/kernel"),
        ("module.layer1.0.downsample.1.running_var",)
        + ("batch_stats/backbone/block1_unit1/shortcut/var",),
        ("bn1.bias", "params/backbone/conv1/offset"),
        ("fc.weight", "params/classifier/kernel"),
        ("bn1.num_batches_tracked", None),
        ("layer1.0.se.fc1.weight", None),
    ],
)
def test_torchvision(theirs, ours):
    assert torch_name(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("globalmodel.s3.b6.f.b_bn.weight", "params/backbone/block3_unit6/conv2/scale"),
        ("model_state.globalmodel.s1.b1.proj.weight",)
        + ("params/backbone/block1_unit1/shortcut/kernel",),
        ("globalmodel.head.fc.weight", "params/whitening/kernel"),
        ("globalmodel.head.pool.p", "architecture/gem_power"),
        ("head.fc.weight", "params/classifier/kernel"),
        ("localmodel.bn.running_mean", "batch_stats/local/attention/conv1/mean"),
        ("localmodel.conv2.bias", "params/local/attention/conv2/bias"),
        ("fc_t.weight", None),
    ],
)
def test_pycls(theirs, ours):
    assert pycls_name(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv5_block3_3_bn/gamma:0", "params/backbone/block4_unit3/conv3/scale"),
        ("conv2_block1_0_conv/conv2_block1_0_conv/bias:0",)
        + ("params/backbone/block1_unit1/shortcut/bias",),
        ("predictions/kernel", "params/classifier/kernel"),
        ("conv2_block1_preact_bn/gamma", None),  # of a ResNet v2
        ("kernel", None),
    ],
)
def test_keras_applications(theirs, ours):
    assert application_name(theirs) == ours
