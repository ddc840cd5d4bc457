"""The command `export`, and StableHLO."""

import json

import jax
import numpy as np
import pytest

from delf_jax import cli
from delf_jax.export import export, stablehlo
from delf_jax.export.options import ExportOptions, ExportSummary, signature
from delf_jax.extraction import model_folder, settings
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.pca import Whitening
from delf_jax.files import InputError
from tests.helpers.exported import (
    SETTINGS,
    assert_matches,
    noise,
    photo,
    small_model,
    trimmed,
)

__all__ = ["photo"]


def _load(folder):
    data = (folder / "model.jaxexport").read_bytes()
    return jax.export.deserialize(bytearray(data))


@pytest.mark.parametrize(
    "layout, strides",
    [("v1.5", False), pytest.param("keras", True, marks=pytest.mark.slow)],
)
def test_stablehlo_takes_images_of_any_size(tmp_path, layout, strides):
    model = small_model(layout, strides)
    export.export_model(model, "stablehlo", tmp_path / "out", ExportOptions())
    loaded = _load(tmp_path / "out")
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    for size in ((131, 179), (96, 64)):
        (live,) = extract_features(model, [noise(*size)], SETTINGS)
        assert_matches(trimmed(loaded.call(noise(*size))), live)
    with pytest.raises(ValueError):  # JAX only logs why: 'h >= 10' does not hold.
        loaded.call(noise(9, 100))


@pytest.mark.slow
def test_stablehlo_of_the_bundled_model_gives_its_features_of_a_photo(tmp_path, photo):
    out = tmp_path / "out"
    command = [
        "export",
        str(model_folder.BUNDLED),
        "--format=stablehlo",
        f"--out={out}",
    ]
    assert cli.main([*command, "--scales=0.7071,1.0"]) == 0
    model = model_folder.load_model()
    chosen = settings.settings_for(
        model, image_scales=(0.7071, 1.0), global_scales=(0, 1), min_image_size=None
    )
    (live,) = extract_features(model, [photo], chosen)
    assert_matches(trimmed(_load(out).call(photo)), live)


def test_the_description_says_what_goes_in_and_what_comes_out(tmp_path):
    model = small_model("v1.5")
    model.config["extraction"]["max_image_size"] = 500
    try:
        options = ExportOptions(what="local")
        export.export_model(model, "stablehlo", tmp_path / "out", options)
    finally:
        model.config["extraction"]["max_image_size"] = None
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    assert described["inputs"] == {"image": "uint8[h,w,3]"}
    assert described["outputs"]["descriptors"] == "float32[60,8]"
    assert "global_descriptor" not in described["outputs"]
    assert "exceeds 500" in described["before"]
    assert described["extraction"]["image_scales"] == list(SETTINGS.image_scales)
    assert described["model"]["fingerprint"] == model.fingerprint
    assert described["versions"]["jax"] == jax.__version__


def test_bounds_are_stated_as_the_resize_factor_makes_them():
    chosen = SETTINGS._replace(
        max_image_size=500, min_image_size=100, resize_factor=0.25
    )
    told = export._before(chosen)
    assert "exceeds 125, shrink" in told and "longer side is below 25, enlarge" in told
    told = export._before(chosen._replace(max_image_size=None))
    assert "exceeds" not in told and "below 25," in told


@pytest.mark.parametrize("name, width", [("pca", 8), ("global_pca", 16)])
def test_a_projection_of_other_descriptors_is_refused(tmp_path, name, width):
    model = small_model("v1.5")
    pca = Whitening(np.zeros(5, np.float32), np.eye(5, dtype=np.float32))
    extraction = {**model.config["extraction"], name: pca}
    model = model._replace(config={"extraction": extraction})
    words = rf"extraction\.{name} expects .* 5 dimensions; .* have {width}"
    with pytest.raises(InputError, match=words):
        export.export_model(model, "stablehlo", tmp_path / "out", ExportOptions())
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    model, options = small_model("v1.5"), ExportOptions(what="global")
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(InputError, match="taken exists"):
        export.export_model(model, "stablehlo", taken, options)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(export, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        export.export_model(model, "stablehlo", tmp_path / "new", options)
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.parametrize(
    "form, options, message",
    [
        ("stablehlo", {"pool": "sum"}, "--pool and --normalize are for"),
        ("savedmodel", {"normalize": True}, "--pool and --normalize are for"),
        ("savedmodel", {"scales": (1.0,)}, "takes the scales as an input"),
        ("stablehlo", {"size": (64, 64)}, "--size is for --format=onnx"),
        ("stablehlo", {"scales": (-1.0,)}, "image_scales"),
        ("savedmodel", {"iou": 0.5, "what": "global"}, "--iou is of local features"),
        ("stablehlo", {"iou": 1.5}, "nms_iou is 1.5: use a number in .0, 1."),
    ],
)
def test_options_that_do_not_match_are_refused(tmp_path, form, options, message):
    model = small_model("v1.5")
    with pytest.raises(InputError, match=message):
        export.export_model(model, form, tmp_path / "out", ExportOptions(**options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["stablehlo", "savedmodel", "onnx"])
@pytest.mark.parametrize("name", settings.POOLING_FIELDS)
def test_pooling_that_an_export_does_not_have_is_refused(tmp_path, form, name):
    model = small_model("v1.5")
    extraction = {**model.config["extraction"], name: 5}
    model = model._replace(config={"extraction": extraction})
    options = ExportOptions(size=(64, 64) if form == "onnx" else None)
    with pytest.raises(InputError, match=rf"have no extraction\.{name}: .*what=local"):
        export.export_model(model, form, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "iou"), [([], 1.0), (["--iou=0.5"], 0.5)])
def test_the_overlap_of_features_is_fixed_at_export(
    tmp_path, tiny_model, monkeypatch, options, iou
):
    """That an export with it suppresses is told by the tests of each format."""
    used = []

    def write(folder, model, settings):
        used.append(settings.nms_iou)
        return ExportSummary("file", {}, {}, (), {})

    monkeypatch.setattr(stablehlo, "write", write)
    command = ["export", str(tiny_model), "--format=stablehlo"]
    assert cli.main([*command, f"--out={tmp_path / 'out'}", *options]) == 0
    assert used == [iou]
    info = json.loads((tmp_path / "out" / "export.json").read_text())
    assert info["extraction"]["nms_iou"] == iou


def test_a_model_without_the_branch_is_refused(tmp_path):
    model = small_model("v1.5", name="delf")
    with pytest.raises(InputError, match="no global branch.*--what=local"):
        export.export_model(model, "stablehlo", tmp_path / "out", ExportOptions())
    model = small_model("v1.5")
    extraction = {**model.config["extraction"], "global_scales": ()}
    model = model._replace(config={"extraction": extraction})
    with pytest.raises(InputError, match="no global_scales"):
        export.export_model(model, "stablehlo", tmp_path / "out", ExportOptions())
    extraction |= {"global_scales": (0,), "max_features": 0}
    model = model._replace(config={"extraction": extraction})
    with pytest.raises(InputError, match="max_features 0"):
        export.export_model(model, "stablehlo", tmp_path / "out", ExportOptions())


WRONG = (
    "--scales=1,a",
    "--scales=1,nan",
    "--scales=inf",
    "--size=64",
    "--format=tflite",
)


@pytest.mark.parametrize("option", WRONG)
def test_mistyped_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "m", "--format=onnx", "--out=o", option])
    assert option.split("=")[0] in capsys.readouterr().err


def test_numbers_are_those_of_numpy():
    assert signature(np.zeros((2, 3), np.float32)) == "float32[2,3]"
