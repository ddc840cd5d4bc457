"""Released and foreign weights become a folder that every command takes as --model."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from delf_jax import __version__
from delf_jax.conversion import report
from delf_jax.conversion.families import FAMILIES
from delf_jax.conversion.network import MappingFile, Network, find_network, folders_of
from delf_jax.conversion.weight_files import WeightFile, read_weights
from delf_jax.extraction import model_folder
from delf_jax.files import InputError, atomic_write, new_folder, read_json, sha256_of
from delf_jax.formats.datasets.sfm120k import read_whitening
from delf_jax.formats.delf import datum

# Where downloads have their PCA, and how many of its components D2R keeps, whose
# codebooks are made for them.
PROJECTION = ("mean.datum", "pca_proj_mat.datum")
PROJECTED = 128
# In a model folder, a state, the states and the workdir of a training of this project.
_OURS = ("model.safetensors", "state", "[0-9]*/state", "checkpoints/[0-9]*/state")


def convert(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    mapping: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    whitening: str | os.PathLike | None = None,
) -> Network:
    """Writes the model folder `out` from the weights at `path`, and prints a report.

    `out` is new, and complete or absent. InputError if a tensor is left over or one of
    the network is missing: both sides are then printed, and a mapping to be completed
    is written to `out`.mapping.json.

    Args:
      mapping: a JSON file {our name: theirs} for what is not recognised; its list
        "drop" names or matches what to leave out.
      settings: fields of architecture or extraction.
      whitening: a file of SfM-120k's, for the global descriptors.
    """
    path, out = pathlib.Path(path), pathlib.Path(out)
    with new_folder(out) as folder:
        template = out.with_name(f"{out.name}.mapping.json")
        source, network = _convert(
            path, folder, mapping, settings or {}, template, whitening
        )
    report.print_report(path, out, source, network)
    return network


def _convert(
    path: pathlib.Path,
    folder: pathlib.Path,
    mapping: str | os.PathLike | None,
    settings: Mapping[str, Any],
    template: pathlib.Path,
    whitening: str | os.PathLike | None,
) -> tuple[WeightFile, Network]:
    """What was read and what was found, which is written into the folder."""
    name = folders_of(path)[0]
    if (path / "model" / "saved_model.pb").is_file():  # as DELF's download has it
        path = path / "model"
    if any(next(path.glob(pattern), None) for pattern in _OURS):
        raise InputError(f"{path}: no conversion needed: use a model folder as --model")
    source = read_weights(path)
    network = find_network(source, read_mapping(mapping), settings, template)
    projection = _projection_beside(path, network)
    files = [*_files_of(source.path), *projection]
    if whitening is not None:
        network.extraction["global_pca"] = _whitened(whitening, network, folder)
        files.append(pathlib.Path(whitening))
    provenance = {
        "converted_from": name,
        "kind": source.kind,
        "family": FAMILIES[network.family].title,
        "told_apart_by": network.assigned.evidence,
        "files": [{"name": file.name, "sha256": sha256_of(file)} for file in files],
        "converter": f"delf_jax {__version__}",
    }
    if projection:
        network.extraction["pca"] = _copied(projection, folder)
    model_folder.save_model(
        folder,
        network.architecture,
        unflatten_dict(network.variables, sep="/"),
        network.extraction,
        provenance,
        dtype="float32",
    )
    return source, network


def read_mapping(path: str | os.PathLike | None) -> MappingFile:
    """The content of a mapping file, without what is left empty in it."""
    if path is None:
        return MappingFile()
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f'{path}: expected an object such as {{"our/name": "theirs"}}')
    family, drop = content.pop("family", None), content.pop("drop", [])
    if family is not None and family not in FAMILIES:
        raise InputError(f"{path}: family {family!r}: use one of {', '.join(FAMILIES)}")
    if not isinstance(drop, list) or not all(isinstance(name, str) for name in drop):
        raise InputError(f"{path}: drop must be a list of names or patterns")
    for ours, theirs in content.items():
        if not isinstance(theirs, str):
            raise InputError(f"{path}: {ours}: expected the name of a tensor")
    named = {ours: theirs for ours, theirs in content.items() if theirs}
    return MappingFile(family, named, tuple(drop), path)


def _projection_beside(path: pathlib.Path, network: Network) -> list[pathlib.Path]:
    """The PCA that was downloaded with a model, if it matches its local descriptors."""
    architecture = network.architecture
    if architecture["name"] == "global":
        return []
    width = architecture.get("reduced_dimension") or 16 * architecture["width"]
    for folder in (path / "pca", path.parent / "pca"):
        files = [folder / name for name in PROJECTION]
        if not all(file.is_file() for file in files):
            continue
        if datum.read_datum(files[1]).shape[1:] == (width,):
            return files
        print(f"left out: {files[1]} does not match {width} dimensions")
    return []


def _copied(files: list[pathlib.Path], folder: pathlib.Path) -> dict[str, Any]:
    """The setting `pca` of a model folder that holds copies of the two files."""
    for file in files:
        with atomic_write(folder / "pca" / file.name) as copy:
            copy.write(file.read_bytes())
    mean, projection = (f"pca/{file.name}" for file in files)
    dimension = min(PROJECTED, len(datum.read_datum(files[1])))
    return {"mean": mean, "projection": projection, "dimension": dimension}


def _whitened(
    path: str | os.PathLike, network: Network, folder: pathlib.Path
) -> dict[str, str]:
    """The setting `global_pca` of a model folder that holds SfM-120k's whitening."""
    architecture, (mean, projection) = network.architecture, read_whitening(path)
    if architecture["name"] != "global" or architecture["global_dimension"]:
        raise InputError(f"{path}: whitening of backbones, and this is no such network")
    module = model_folder.build_module(architecture)
    width = module.backbone.channels("block4")
    if len(mean) != width:
        raise InputError(
            f"{path}: whitens descriptors of {len(mean)} dimensions, and those of this "
            f"network have {width}"
        )
    names = {"mean": "global_mean.datum", "projection": "global_projection.datum"}
    for name, array in zip(names.values(), (mean, projection), strict=True):
        datum.write_datum(folder / name, array.astype(np.float32))
    return names


def _files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of a source: itself, those in it, or those with its prefix."""
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [path / "saved_model.pb", *sorted(path.glob("variables/*"))]
        return [file for file in inside if file.is_file()]
    return sorted(path.parent.glob(f"{path.name}.*"))
