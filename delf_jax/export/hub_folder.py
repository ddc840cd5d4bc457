"""A model as a folder that `huggingface_hub` uploads as it is, and `load_model` opens.

README.md is the card, with what the hub reads of it in front. Folders of this machine
that the training's config names lose all but their last part.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from delf_jax.export.options import ExportSummary
from delf_jax.extraction.card import format_card, model_name
from delf_jax.extraction.model_folder import (
    BUNDLED,
    CONFIG,
    WEIGHTS,
    Model,
    copy_weights,
    fingerprint_of,
    read_model,
)
from delf_jax.files import InputError, atomic_write
from delf_jax.manifests import write_manifest
from delf_jax.models.architecture import DETECTORS

CARD = "README.md"
# Fields of a training's config, and of its sources, that are paths.
_PATHS = (
    *("path", "images", "boxes", "directory", "exclude", "init_from", "dataset"),
    *("photos", "model"),
)


def write(folder: pathlib.Path, model: Model) -> ExportSummary:
    """Copies weights and projections, and writes config and card."""
    source = pathlib.Path(model.folder) if model.folder else BUNDLED
    config, _ = read_model(source)
    if fingerprint_of(config) != model.fingerprint or model.global_model is not None:
        raise InputError(f"model {model.name}: hub-folder takes a model of one folder")
    config = copy_weights(source, folder)
    names = [WEIGHTS, *config.get("files", {})]
    for name in names[1:]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    config["provenance"] = _without_folders(config.get("provenance", {}))
    write_manifest(folder / CONFIG, config)
    with atomic_write(folder / CARD, "w") as file:
        file.write(_front(config) + format_card(model_name(source), config))
    notes = (
        f"add `license:` to the first lines of {CARD} before you publish",
        "huggingface_hub.upload_folder(repo_id='NAME/MODEL', folder_path='FOLDER') "
        "uploads it",
        "delf_jax.load_model(huggingface_hub.snapshot_download('NAME/MODEL')) opens it",
    )
    return ExportSummary(WEIGHTS, {}, {}, notes, {}, tuple([*names[1:], CONFIG, CARD]))


def _front(config: Mapping[str, Any]) -> str:
    """What the hub reads of a card, in YAML, of which JSON is a part."""
    name = config["architecture"]["name"]
    detects = name in DETECTORS
    content = {
        "library_name": "delf_jax",
        "pipeline_tag": "object-detection" if detects else "image-feature-extraction",
        "tags": ["jax", "image-retrieval", "landmarks", name],
    }
    lines = [f"{field}: {json.dumps(value)}" for field, value in content.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _without_folders(value: Any, field: str = "") -> Any:
    """The same JSON, of whose paths the last part is left."""
    if isinstance(value, dict):
        return {name: _without_folders(x, name) for name, x in value.items()}
    if isinstance(value, str) and field in _PATHS:
        return pathlib.PurePath(value).name
    return value
