"""ONNX, run by onnxruntime."""

import importlib.util
import json

import numpy as np
import pytest

from delf_jax.export import export
from delf_jax.export.options import ExportOptions
from delf_jax.extraction import model_folder, settings
from delf_jax.extraction.extract import extract_features
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
HAS_ONNX = all(map(importlib.util.find_spec, ("jax2onnx", "onnxruntime")))
needs_onnx = pytest.mark.skipif(
    not HAS_ONNX, reason="jax2onnx and onnxruntime are not in this environment"
)


def _save(folder, model, **options):
    """A function (image, size of its array) -> features as onnxruntime finds them."""
    import onnxruntime

    export.export_model(model, "onnx", folder, ExportOptions(**options))
    session = onnxruntime.SessionOptions()
    session.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", session, providers=["CPUExecutionProvider"]
    )
    described = json.loads((folder / "export.json").read_text())
    files = {described["file"], *described["beside"], "export.json"}
    assert {path.name for path in folder.iterdir()} == files
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    names = [output.name for output in session.get_outputs()]
    assert set(names) == set(described["outputs"])

    def run(image):
        array = noise(*options["size"], seed=9)
        height, width = image.shape[:2]
        array[:height, :width] = image
        inputs = {"image": array, "size": np.int32([height, width])}
        return trimmed(dict(zip(names, session.run(None, inputs), strict=True)))

    return run


@needs_onnx
@pytest.mark.parametrize("layout, strides", [("v1.5", True), ("keras", False)])
def test_onnx_takes_images_up_to_its_size(tmp_path, layout, strides):
    model = small_model(layout, strides)
    run = _save(tmp_path / "onnx", model, size=(131, 192))
    for size in ((131, 179), (96, 64)):
        (live,) = extract_features(model, [noise(*size)], SETTINGS)
        assert_matches(run(noise(*size)), live)


@needs_onnx
def test_onnx_of_the_bundled_model_gives_its_features_of_a_photo(tmp_path, photo):
    model = model_folder.load_model()
    scales = (0.7071, 1.0)
    run = _save(tmp_path / "onnx", model, scales=scales, size=(131, 179))
    chosen = settings.settings_for(
        model, image_scales=scales, global_scales=(0, 1), min_image_size=None
    )
    (live,) = extract_features(model, [photo], chosen)
    assert_matches(run(photo), live)
    # Its weights are too large for the file itself.
    assert (tmp_path / "onnx" / "model.onnx.data").exists()


@needs_onnx
@pytest.mark.parametrize("size, message", [(None, "name --size"), ((9, 80), "9x80")])
def test_a_size_that_cannot_be_is_refused(tmp_path, size, message):
    options = ExportOptions(size=size)
    with pytest.raises(InputError, match=message):
        export.export_model(small_model("v1.5"), "onnx", tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


def test_without_the_converter_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="of its own: .*ml-collections.*and pip install"
    ):
        options = ExportOptions(size=(64, 64))
        export.export_model(small_model("v1.5"), "onnx", tmp_path / "out", options)
    assert not list(tmp_path.iterdir())
