import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from delf_jax.extraction.model_folder import (
    BUNDLED_DETECTOR,
    Model,
    build_module,
    leave_out_backbone,
    load_model,
    read_model,
    save_model,
)
from delf_jax.extraction.pca import Whitening
from delf_jax.extraction.settings import global_settings, settings_for
from delf_jax.files import InputError, sha256_of
from delf_jax.formats.delf.datum import write_datum
from delf_jax.manifests import write_manifest
from delf_jax.models.architecture import fold_batch_norm
from delf_jax.models.receptive_field import receptive_field

WHOLE_THIN = "whole", "thin"
ARCHITECTURE = {
    "name": "delg",
    "depth": 18,
    "width": 4,
    "layout": "v1.5",
    "attention_width": 8,
    "reduced_dimension": 6,
    "global_dimension": 10,
}


def random_variables(architecture, train=False):
    module = build_module(architecture)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, x: module.init(key, x, train=train), jax.random.key(0), image
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (
            rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
            * (0.1 if len(x.shape) > 1 else 1)
        ),
        shapes,
    )


@pytest.fixture
def folder(tmp_path):
    variables = random_variables(ARCHITECTURE)
    save_model(tmp_path / "m", ARCHITECTURE, variables, {"max_features": 5}, {"by": 1})
    return tmp_path / "m"


@pytest.mark.parametrize("layout", ["v1.5", "keras"])
def test_folding_leaves_the_outputs(rng, layout):
    architecture = ARCHITECTURE | {"layout": layout}
    module, variables = build_module(architecture), random_variables(architecture)
    images = jnp.asarray(rng.normal(size=(1, 64, 64, 3)).astype(np.float32))
    folded, folded_variables = fold_batch_norm(module, variables)
    assert "batch_stats" not in folded_variables
    expected = jax.jit(module.apply)(variables, images)
    ours = jax.jit(folded.apply)(folded_variables, images)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5)


def test_saved_models_come_back_folded_without_the_classifiers(tmp_path):
    training = ARCHITECTURE | {"num_classes": 3}
    variables = random_variables(training, train=True)
    assert "classifier" in variables["params"]
    save_model(tmp_path / "m", training, variables, {}, {}, dtype="float32")
    model = load_model(tmp_path / "m")
    assert model.name == "m" and model.config["architecture"]["num_classes"] == 0
    stripped = random_variables(ARCHITECTURE)
    paths = jax.tree_util.tree_structure(stripped["params"])
    kept = {name: variables["params"][name] for name in stripped["params"]}
    kept["local"] = kept["local"] | {
        "autoencoder": {"reduce": kept["local"]["autoencoder"]["reduce"]}
    }
    del kept["local"]["attention_classifier"]
    assert jax.tree_util.tree_structure(kept) == paths
    expected = fold_batch_norm(
        build_module(ARCHITECTURE), {**variables, "params": kept}
    )[1]
    jax.tree.map(np.testing.assert_array_equal, model.variables, expected)


def test_a_model_prints_in_three_lines(folder):
    model = load_model(folder)
    name, parameters, gives = repr(model).splitlines()
    assert name == "m: DELG, ResNet-18 of width 4"
    count = sum(x.size for x in jax.tree.leaves(model.variables)) / 1e6
    assert parameters.startswith(f"{count:.1f} million parameters, fingerprint ")
    assert model.fingerprint.startswith(parameters.split()[-1])
    assert gives == (
        "gives local descriptors of 6 dimensions and a global descriptor of 10"
    )
    assert str(model) == repr(model)


@pytest.mark.parametrize("depth", [18, 26])
def test_a_model_says_what_its_network_gives(depth):
    architecture = {"name": "delf", "depth": depth, "width": 4, "attention_width": 8}
    variables = random_variables(architecture)
    module = build_module(architecture)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    dimension = jax.eval_shape(module.apply, variables, image)["descriptors"].shape[-1]
    model = Model(module, variables, {}, "0" * 64, "a")
    assert model.has_local and not model.has_global
    last = repr(model).splitlines()[-1]
    assert last == f"gives local descriptors of {dimension} dimensions"
    pca = Whitening(np.zeros(dimension), np.zeros((3, dimension)))
    projecting = model._replace(config={"extraction": {"pca": pca}})
    assert "local descriptors of 3 dimensions" in repr(projecting)


def test_a_model_says_where_its_local_features_look(folder):
    model = load_model(folder)
    assert model.receptive_field(160) == receptive_field(18, "v1.5", "block3", 160)
    bundled = load_model()
    size, stride, _ = bundled.receptive_field(160)
    assert stride == 8 < size  # as docs/model.md says.
    architecture = {"name": "global", "depth": 18, "width": 4, "global_dimension": 10}
    blind = Model(build_module(architecture), {}, {}, "0" * 64, "blind")
    with pytest.raises(InputError, match="model blind has no local features"):
        blind.receptive_field(160)


def test_transposed_arrays_are_saved_as_they_read(tmp_path):
    variables = random_variables(ARCHITECTURE)
    turned = jax.tree.map(lambda x: np.asarray(x).T.copy().T, variables)
    save_model(tmp_path / "m", ARCHITECTURE, turned, {}, {}, dtype="float32")
    _, stored = read_model(tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, stored, variables)


def test_fingerprint_follows_weights_and_architecture(folder, tmp_path):
    first = load_model(folder).fingerprint
    variables = random_variables(ARCHITECTURE)
    save_model(tmp_path / "same", ARCHITECTURE, variables, {}, {"by": "another"})
    assert load_model(tmp_path / "same").fingerprint == first
    variables["params"]["whitening"]["bias"] += 1
    save_model(tmp_path / "other", ARCHITECTURE, variables, {}, {})
    assert load_model(tmp_path / "other").fingerprint != first


def edit_config(folder, **fields):
    path = folder / "config.json"
    write_manifest(path, json.loads(path.read_text()) | fields)


def test_no_such_model():
    with pytest.raises(InputError, match="no/such.*no such model folder"):
        load_model("no/such")


def test_a_file_of_weights_is_to_be_converted_first(tmp_path):
    (tmp_path / "lite.pth").write_bytes(b"weights")
    with pytest.raises(
        InputError, match="lite.pth: a file, not .*; run `convert .*lit"
    ):
        load_model(tmp_path / "lite.pth")


def test_misspelt_architecture_names_the_field(folder):
    edit_config(folder, architecture=ARCHITECTURE | {"dpth": 50})
    with pytest.raises(InputError, match="dpth"):
        load_model(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "resnext"), ("depth", 19), ("layout", "v2"), ("normalization", "group")],
)
def test_unknown_choices_name_the_field(field, value):
    with pytest.raises(InputError, match=field):
        build_module(ARCHITECTURE | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gem_power", "x"),
        ("gem_power", 0),
        ("width", 8.5),
        ("width", 0),
        ("reduced_dimension", -1),
        ("block3_strides", 1),
    ],
)
def test_fields_of_another_type_or_sign_are_named(field, value):
    with pytest.raises(InputError, match=rf"architecture\.{field}: {value!r} is not"):
        build_module(ARCHITECTURE | {field: value})


@pytest.mark.parametrize(
    ("pca", "message"),
    [
        (5, "must name the files mean and projection"),
        ({"mean": "m.datum"}, "must name the files mean and projection"),
        ({"mean": 3, "projection": "p.datum"}, "mean: 3 is not allowed"),
        ({"mean": "", "projection": "", "dimension": "4"}, "dimension: '4' is not"),
        ({"mean": "", "projection": "", "rank": 4}, "rank: 4 is not allowed"),
    ],
)
def test_a_projection_that_is_described_in_another_way_is_refused(folder, pca, message):
    edit_config(folder, extraction={"pca": pca})
    with pytest.raises(InputError, match=rf"config\.json: extraction\.pca.*{message}"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layout": "slim"}, "depth is 18"),
        ({"block4_dilation": 2}, "block4_dilation"),
        ({"block4_dilation": 3}, "block4_dilation is 3"),
    ],
)
def test_architectures_that_no_layout_has_are_refused(changes, field):
    with pytest.raises(InputError, match=field):
        build_module(ARCHITECTURE | changes)


def test_weights_of_another_architecture_name_the_variable(folder):
    edit_config(folder, architecture=ARCHITECTURE | {"attention_width": 9})
    with pytest.raises(InputError, match=r"local/attention/conv1/\w+ is .*9"):
        load_model(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="model.safetensors"):
        load_model(folder)


def test_missing_parts_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors"):
        load_model(tmp_path / "bare")
    edit_config(folder, format=2)
    with pytest.raises(InputError, match="config.json.*format"):
        load_model(folder)


def test_a_config_that_was_changed_by_hand_or_damage_is_named(folder):
    path = folder / "config.json"
    whole = path.read_text()
    path.write_text(whole.replace('"max_features": 5', '"max_features": 7'))
    with pytest.raises(InputError, match="config.json: damaged: its checksum differs"):
        load_model(folder)
    changed = json.loads(path.read_text())
    del changed["checksum"]  # As the message says.
    path.write_text(json.dumps(changed))
    assert load_model(folder).config["extraction"]["max_features"] == 7


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_weights_that_are_not_finite_are_refused(folder, tmp_path, value):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    name = next(name for name, array in tensors.items() if array.ndim == 4)
    with np.errstate(over="ignore"):
        tensors[name][-1, ..., -1] = value
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    edit_config(folder, sha256=sha256_of(folder / "model.safetensors"))
    with pytest.raises(InputError, match=f"{name} has numbers that are not finite"):
        load_model(folder)
    variables = random_variables(ARCHITECTURE)
    kernels = variables["params"]["backbone"]
    while "kernel" not in kernels:
        kernels = next(iter(kernels.values()))
    kernels["kernel"][0] = value
    with pytest.raises(InputError, match="not finite in float16"):
        save_model(tmp_path / "n", ARCHITECTURE, variables, {}, {})
    assert not (tmp_path / "n").exists()


def test_a_variance_below_zero_is_refused(folder):
    """Folded it is not finite."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("/var"))
    tensors[name][:] = -1
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    edit_config(folder, sha256=sha256_of(folder / "model.safetensors"))
    with pytest.raises(InputError, match="has numbers that are not finite"):
        load_model(folder)


def test_projections_of_a_model_are_verified_and_lie_in_its_folder(tmp_path, rng):
    out = tmp_path / "m"
    pca = {"mean": "pca/mean.datum", "projection": "pca/projection.datum"}
    write_datum(out / pca["mean"], rng.normal(size=6).astype(np.float32))
    write_datum(out / pca["projection"], rng.normal(size=(4, 6)).astype(np.float32))
    variables = random_variables(ARCHITECTURE)
    save_model(out, ARCHITECTURE, variables, {"pca": pca}, {})
    assert load_model(out).config["extraction"]["pca"].projection.shape == (4, 6)
    data = bytearray((out / pca["mean"]).read_bytes())
    data[-1] ^= 1
    (out / pca["mean"]).write_bytes(data)
    with pytest.raises(InputError, match="mean.datum: not the file that"):
        load_model(out)
    for path in ("../mean.datum", "/mean.datum", "pca/../../mean.datum", "a\0"):
        edit_config(out, extraction={"pca": pca | {"mean": path}})
        with pytest.raises(InputError, match="is no file of this folder"):
            load_model(out)


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": None},
        {"architecture": {"name": []}},
        {"architecture": {"name": {}}},
        {"architecture": ARCHITECTURE | {"width": 10**30}},
        {"architecture": ARCHITECTURE | {"width": 10**9}},
        {"architecture": ARCHITECTURE | {"block3_strides": [[2]]}},
        {"extraction": 3},
        {"extraction": {"pca": {"mean": {}, "projection": []}}},
        {"sha256": 3},
        {"sha256": "0" * 64},
        {"files": {"a": 1}},
        {"provenance": []},
    ],
)
def test_fields_that_cannot_be_are_one_sentence(folder, fields):
    edit_config(folder, **fields)
    with pytest.raises(InputError):
        load_model(folder)


def test_saving_too_few_variables_names_the_missing(tmp_path):
    variables = random_variables(ARCHITECTURE)
    del variables["params"]["whitening"]
    with pytest.raises(InputError, match="whitening"):
        save_model(tmp_path, ARCHITECTURE, variables, {}, {})


def test_of_a_workdir_the_model_is_named(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="run: the workdir of a training; .*run/model"):
        load_model(tmp_path / "run")


def test_a_global_model_stands_beside_one_of_local_features(folder, tmp_path):
    architecture = {"name": "global", "depth": 18, "width": 4, "global_dimension": 12}
    variables = random_variables(architecture)
    scales = {"image_scales": [0.25, 0.5, 1.0], "global_scales": [2], "max_features": 0}
    save_model(tmp_path / "g", architecture, variables, scales, {})
    pair = load_model(folder, tmp_path / "g")
    assert pair.has_local and pair.global_model.folder == str(tmp_path / "g")
    assert "local descriptors of 6 dimensions and the global descriptor of g" in (
        repr(pair)
    )
    # Its scales are chosen from its own, of which it has other numbers.
    assert settings_for(pair).global_scales == (2,)
    assert settings_for(pair, image_scales=(1.0,)).image_scales == (1.0,)
    with pytest.raises(InputError, match="indices of image_scales, below 3"):
        settings_for(pair, global_scales=(3,))
    edit_config(tmp_path / "g", extraction=scales | {"gem_power": 4.6})
    pair = load_model(folder, tmp_path / "g")
    chosen = settings_for(pair, scale_power=0.0)
    assert chosen.gem_power == global_settings(pair, chosen).gem_power == 4.6
    assert global_settings(pair, chosen).scale_power == 0
    # The other half of a DELG will do.
    edit_config(folder, extraction={"global_scales": [0]})
    assert load_model(None, folder).global_model.name == "m"


def test_models_that_cannot_share_an_image_are_refused(folder, tmp_path):
    for name in ("delf", "global"):
        architecture = {"name": name, "depth": 18, "width": 4}
        variables = random_variables(architecture)
        save_model(tmp_path / name, architecture, variables, {}, {})
    with pytest.raises(InputError, match="^model delf has no global branch: --global_"):
        load_model(folder, tmp_path / "delf")
    with pytest.raises(InputError, match="^model global has no local branch: beside"):
        load_model(tmp_path / "global", folder)
    edit_config(folder, extraction={"global_scales": []})
    with pytest.raises(InputError, match="^model m has no global_scales: --global_mod"):
        load_model(None, folder)
    with pytest.raises(InputError, match="gone: no such model folder"):
        load_model(folder, tmp_path / "gone")


def test_a_model_on_the_bundled_backbone_can_leave_it_out(tmp_path):
    config, variables = read_model(BUNDLED_DETECTOR)
    architecture = config["architecture"]
    save_model(tmp_path / "whole", architecture, variables, config["extraction"], {})
    leave_out_backbone(tmp_path / "whole", tmp_path / "thin", 24)
    sizes = [(tmp_path / x / "model.safetensors").stat().st_size for x in WHOLE_THIN]
    assert sizes[1] < 0.1 * sizes[0]
    whole, thin = (load_model(tmp_path / name) for name in WHOLE_THIN)
    jax.tree.map(np.testing.assert_array_equal, whole.variables, thin.variables)
    assert whole.module == thin.module
    assert len({x.fingerprint for x in (whole, thin)}) == 2


def test_a_backbone_that_is_not_here_is_named(tmp_path):
    config, variables = read_model(BUNDLED_DETECTOR)
    shutil.copytree(BUNDLED_DETECTOR, tmp_path / "thin")
    write_manifest(tmp_path / "thin" / "config.json", config | {"backbone": "0" * 64})
    with pytest.raises(InputError, match=r"thin: has no backbone of its own, and that"):
        load_model(tmp_path / "thin")
    variables["params"]["backbone"]["head"]["kernel"] *= 2
    architecture = config["architecture"]
    save_model(tmp_path / "other", architecture, variables, {}, {})
    with pytest.raises(InputError, match="head/kernel is not that of the bundled"):
        leave_out_backbone(tmp_path / "other", tmp_path / "out", 24)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("digits", "expected"), [(5, 1.3125), (3, 1.25), (2, 1.5)])
def test_what_is_left_has_as_many_digits_as_asked_for(digits, expected, tmp_path):
    config, variables = read_model(BUNDLED_DETECTOR)
    layer = variables["params"]["map2_reduce"]
    layer["kernel"][:] = layer["scale"][:] = -1.3
    architecture = config["architecture"]
    save_model(tmp_path / "whole", architecture, variables, {}, {})
    leave_out_backbone(tmp_path / "whole", tmp_path / "thin", digits)
    layer = read_model(tmp_path / "thin")[1]["params"]["map2_reduce"]
    assert set(layer["kernel"].ravel()) == set(layer["scale"]) == {-expected}
