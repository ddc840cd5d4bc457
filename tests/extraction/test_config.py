import json
import pathlib

import numpy as np
import pytest
from google.protobuf import json_format, text_format

from delf_jax import cli
from delf_jax.conversion.convert import PROJECTED
from delf_jax.extraction.config import (
    every_field,
    model_path,
    open_model,
    read_extraction_config,
    replaced_settings,
)
from delf_jax.extraction.model_folder import load_model
from delf_jax.extraction.pca import load_pca
from delf_jax.extraction.settings import (
    GLOBAL_FIELDS,
    ExtractionSettings,
    make_settings,
    settings_for,
)
from delf_jax.files import InputError
from delf_jax.formats.delf.datum import write_datum
from delf_jax.formats.protos.delf_config_pb2 import DelfConfig
from tests.helpers.foreign_weights import delf_of_tensorflow_1

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SHIPPED = {
    "r50delg_gld": "delg/r50delg_gld_config",
    "r101delg_gld": "delg/r101delg_gld_config",
    "r50delg_gldv2clean": "delg/r50delg_gldv2clean_config",
    "r101delg_gldv2clean": "delg/r101delg_gldv2clean_config",
    "rn101_af_gldv2clean": (
        "datasets/google_landmarks_dataset/rn101_af_gldv2clean_config"
    ),
    "delf_gld": "detect_to_retrieve/delf_gld_config",
    "delf_example": "examples/delf_config_example",
}


@pytest.fixture
def projection(tmp_path, rng) -> dict:
    """Fields of a projection from 6 dimensions, in files."""
    arrays = {
        "mean": rng.normal(size=6),
        "projection": rng.normal(size=(6, 6)),
        "variances": rng.uniform(1, 2, (6, 1)),
    }
    for name, array in arrays.items():
        write_datum(tmp_path / f"{name}.datum", array)
    return {name: str(tmp_path / f"{name}.datum") for name in arrays}


def _pca(**fields):
    config = every_field()
    config.extraction.pca.update(fields)
    return config.extraction.pca


@pytest.mark.golden
@pytest.mark.parametrize("name", SHIPPED)
def test_presets_say_what_the_released_configs_say(golden, tmp_path, name):
    stored = json.loads((golden / "formats" / "formats.json").read_text())
    released = stored["shipped_configs"][f"{SHIPPED[name]}.pbtxt"]
    text = text_format.MessageToString(json_format.ParseDict(released, DelfConfig()))
    (tmp_path / "released.pbtxt").write_text(text)
    theirs, _ = read_extraction_config(tmp_path / "released.pbtxt")
    ours, lines = read_extraction_config(CONFIGS / f"{name}.py")
    ours_pca, theirs_pca = (c.extraction.pca.to_dict() for c in (ours, theirs))
    if name == "delf_gld":  # What convert puts into the model folder.
        assert ours_pca["mean"] is None and theirs_pca["dimension"] == PROJECTED
    else:
        assert _with_names_only(ours_pca) == _with_names_only(theirs_pca)
    fields = [{**c.extraction.to_dict(), "pca": None} for c in (ours, theirs)]
    assert fields[0] == fields[1]
    folder = pathlib.PurePath(ours.model)
    assert folder.parent.name == "models" and folder.name in theirs.model
    assert lines == []


def _with_names_only(pca: dict) -> dict:
    """The same without the folders of its files."""
    return {
        name: pathlib.Path(value).name if isinstance(value, str) else value
        for name, value in pca.items()
    }


def test_the_commands_of_the_presets_of_delf_work_one_after_the_other(
    rng, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    download = pathlib.Path("delf_gld_20190411")
    delf_of_tensorflow_1(rng, download / "model")
    write_datum(download / "pca" / "mean.datum", rng.normal(size=64))
    write_datum(download / "pca" / "pca_proj_mat.datum", rng.normal(size=(64, 64)))
    assert cli.main(["convert", str(download / "model"), "--out=models/delf_gld"]) == 0
    for name, dimension in (("delf_gld", 64), ("delf_example", 40)):
        config, _ = read_extraction_config(CONFIGS / f"{name}.py")
        model = load_model(model_path(config))
        settings = settings_for(model, **replaced_settings(config))
        assert settings.pca.projection.shape == (dimension, 64)
        assert settings.attention_threshold == 100.0


@pytest.mark.golden
def test_all_released_configs_have_a_preset(golden):
    stored = json.loads((golden / "formats" / "formats.json").read_text())
    names = {name.removesuffix(".pbtxt") for name in stored["shipped_configs"]}
    assert {name for name in names if "aggregation" not in name} == set(
        SHIPPED.values()
    )


@pytest.mark.golden
def test_a_config_of_the_original_with_pca_files_gives_its_settings(golden, tmp_path):
    stored = np.load(golden / "extraction.npz")
    names = {
        "mean": "pca_mean",
        "projection": "pca_matrix",
        "variances": "pca_variances",
    }
    for file, name in names.items():
        write_datum(tmp_path / f"{file}.datum", stored[name])
    scales = " ".join(f"image_scales: {s}" for s in stored["image_scales"].tolist())
    (tmp_path / "c.pbtxt").write_text(
        f"{scales} max_image_size: 150 use_global_features: true\n"
        "delf_global_config { use_pca: false image_scales_ind: [3, 4, 5] }\n"
        "delf_local_config {\n  max_feature_num: 100 use_resized_coordinates: true\n"
        f"  score_threshold: {stored['stride16/threshold']}\n"
        f"  pca_parameters {{ mean_path: '{tmp_path}/mean.datum' pca_dim: 40\n"
        f"    projection_matrix_path: '{tmp_path}/projection.datum'\n"
        f"    pca_variances_path: '{tmp_path}/variances.datum' use_whitening: true"
        "} }"
    )
    config, lines = read_extraction_config(tmp_path / "c.pbtxt")
    settings = make_settings(replaced_settings(config))
    # What tests/test_extraction_original.py extracts its case c with.
    whitening = stored["pca_mean"], stored["pca_matrix"][:40]
    whitening = *whitening, stored["pca_variances"].reshape(-1)[:40]
    for ours, theirs in zip(settings.pca, whitening, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    expected = ExtractionSettings(
        image_scales=settings.image_scales,
        global_scales=(3, 4, 5),
        attention_threshold=settings.attention_threshold,
        max_image_size=150,
        max_features=100,
        use_resized_coordinates=True,
        locations="delf",
    )
    assert settings._replace(pca=None) == expected and lines == []
    scales = np.float32(settings.image_scales)
    np.testing.assert_array_equal(scales, stored["image_scales"].astype(np.float32))
    threshold = np.float32(settings.attention_threshold)
    assert threshold == np.float32(stored["stride16/threshold"])


def test_without_a_file_nothing_is_replaced():
    config, lines = read_extraction_config(None)
    assert replaced_settings(config) == {} and model_path(config) is None
    assert lines == []


def test_every_setting_can_be_replaced():
    assert set(every_field().extraction) == set(ExtractionSettings._fields)


def test_overrides_replace_what_the_file_says():
    overrides = ["--config.extraction.max_features=7", "--config.model=other"]
    overrides += [
        "--config.extraction.image_scales=0.5,1",
        "--config.extraction.pca.mean=",
    ]
    config, _ = read_extraction_config(CONFIGS / "delf_gld.py", overrides)
    settings = make_settings(replaced_settings(config))
    assert config.model == "other" and settings.max_features == 7
    assert settings.image_scales == (0.5, 1) and settings.pca is None
    assert settings.attention_threshold == 100.0 and settings.locations == "delf"


@pytest.mark.parametrize("name", ["pca", "global_pca"])
@pytest.mark.parametrize(
    "field", ["dimension=16", "projection=x", "variances=x", "use_whitening=true"]
)
def test_fields_of_a_projection_without_a_mean_are_refused(name, field):
    config, _ = read_extraction_config(None, [f"--config.extraction.{name}.{field}"])
    with pytest.raises(InputError, match=rf"extraction\.{name}\.mean: missing"):
        replaced_settings(config)


def test_a_bound_of_zero_is_none():
    overrides = [f"--config.extraction.{side}_image_size=0" for side in ("max", "min")]
    config, _ = read_extraction_config(None, overrides)
    expected = {"max_image_size": None, "min_image_size": None}
    assert replaced_settings(config) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"extraction": {"max_feature": 3}}', r"no field extraction\.max_feature;"),
        ('{"extraction": {"pca": {"men": ""}}}', r"no field extraction\.pca\.men;"),
        ('{"modl": "x"}', "no field modl; there are extraction, model"),
        ('{"extraction": {"max_features": "many"}}', r"extraction\.max_features: "),
        ('{"extraction": 3}', "extraction: must be fields"),
        ('{"model": {"name": "delg"}}', "model: must be one value"),
    ],
)
def test_what_a_file_misspells_is_named(tmp_path, text, words):
    path = tmp_path / "wrong.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({text})\n"
    )
    with pytest.raises(InputError, match=rf"wrong\.py: .*{words}"):
        read_extraction_config(path)


def test_what_an_override_misspells_is_named():
    with pytest.raises(InputError, match='max_feature .*Did you mean "max_features"'):
        read_extraction_config(None, ["--config.extraction.max_feature=3"])


def test_the_config_of_a_training_is_none_of_extraction():
    with pytest.raises(InputError, match=r"tiny\.py: a config of extraction has no"):
        read_extraction_config(CONFIGS / "tiny.py")


def test_a_model_that_is_not_converted_is_named(tmp_path, tiny_model):
    config, _ = read_extraction_config(None, [f"--config.model={tmp_path}"])
    with pytest.raises(InputError, match=f"run `convert {tmp_path} --out"):
        model_path(config)
    config, _ = read_extraction_config(CONFIGS / "r50delg_gld.py")
    with pytest.raises(InputError, match="run `convert DOWNLOADED --out=models/r50"):
        model_path(config)
    config, _ = read_extraction_config(None, [f"--config.model={tiny_model}"])
    assert model_path(config) == str(tiny_model)


def test_a_projection_keeps_its_first_components(projection):
    pca = load_pca(_pca(**projection, dimension=2))
    assert pca.mean.shape == (6,) and pca.projection.shape == (2, 6)
    assert pca.variances is None
    pca = load_pca(_pca(**projection, dimension=2, use_whitening=True))
    assert pca.variances.shape == (2,)
    assert load_pca(_pca(**projection)).projection.shape == (6, 6)


def test_a_projection_that_does_not_fit_is_named(projection, tmp_path):
    with pytest.raises(
        InputError, match=r"projection\.datum: expected 7 components, got 6"
    ):
        load_pca(_pca(**projection, dimension=7))
    with pytest.raises(InputError, match="set mean, projection"):
        load_pca(_pca(mean=projection["mean"]))
    write_datum(tmp_path / "mean.datum", np.zeros(5))
    with pytest.raises(InputError, match=r"\[6, 6\] does not match the 5"):
        load_pca(_pca(**projection))
    write_datum(tmp_path / "mean.datum", np.full(6, np.nan))
    with pytest.raises(InputError, match=r"mean\.datum: expected finite float32"):
        load_pca(_pca(**projection))


def test_variances_must_be_positive(projection, tmp_path):
    write_datum(tmp_path / "variances.datum", np.float32([1, 1, 0]))
    load_pca(_pca(**projection, use_whitening=True, dimension=2))
    for dimension in (3, 4):
        with pytest.raises(InputError, match=f"needs {dimension} positive variances"):
            load_pca(_pca(**projection, use_whitening=True, dimension=dimension))


def test_a_file_says_nothing_of_the_global_descriptors_of_another_model():
    path = CONFIGS / "delf_gld.py"
    config, _ = read_extraction_config(path, global_model=True)
    replaced = replaced_settings(config)
    assert not {*GLOBAL_FIELDS} & {*replaced}
    assert replaced["attention_threshold"] == 100.0
    overrides = ["--config.extraction.global_scales=1,"]
    config, _ = read_extraction_config(path, overrides, global_model=True)
    assert replaced_settings(config)["global_scales"] == (1,)


def test_a_text_config_suits_a_network_that_the_original_does_not_have(tmp_path):
    (tmp_path / "a.pbtxt").write_text(
        "use_local_features: true delf_local_config { use_pca: false }"
    )
    config, _ = read_extraction_config(tmp_path / "a.pbtxt")
    assert replaced_settings(config)["locations"] == "delf"
    _, settings = open_model(config)  # The bundled one.
    assert settings.locations == "exact"
