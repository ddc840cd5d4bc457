"""Our network in the tensors of others: each tensor gets a place, or a reason."""

import fnmatch
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from delf_jax.conversion import assignment, detectors, families, layers, report
from delf_jax.conversion.families import FAMILIES, Family
from delf_jax.conversion.weight_files import WeightFile
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.settings import ExtractionSettings, make_settings
from delf_jax.files import InputError
from delf_jax.models.architecture import expected_shapes

BACKBONE = ("params/backbone/", "batch_stats/backbone/")
UNUSED = "unused"
ONLY_TRAINING = "only training needs it"
# Settings of extraction; the power of GeM is the network's own here.
_OF_EXTRACTION = {*ExtractionSettings._fields} - {"gem_power"}


class MappingFile(NamedTuple):
    """A user's names for tensors that are not recognised."""

    family: str | None = None
    named: Mapping[str, str] = {}
    """ours -> theirs"""
    drop: tuple[str, ...] = ()
    """names or patterns of theirs"""
    path: str | os.PathLike = "the mapping"
    """where it was read, for messages"""


class Assigned(NamedTuple):
    """Which of their tensors is which of ours, and what becomes of the others."""

    named: dict[str, str]
    """ours -> theirs"""
    dropped: dict[str, str]
    """theirs -> why"""
    left: list[str]
    """theirs that are unknown"""
    evidence: str
    """what they were matched by"""


class Network(NamedTuple):
    """A network found among tensors, ready to be written."""

    architecture: dict[str, Any]
    extraction: dict[str, Any]
    variables: dict[str, np.ndarray]
    """by our names, in our order of axes"""
    assigned: Assigned
    family: str
    assumed: tuple[str, ...] = ()
    """fields of the architecture that the source does not show"""


def find_network(
    source: WeightFile,
    mapping: MappingFile,
    settings: Mapping[str, Any],
    template: pathlib.Path,
) -> Network:
    """The network whose weights these are; refuses unless every tensor has a place."""
    canonical = _canonical_names(source)
    key = mapping.family or families.recognise(canonical.values(), source.kind)
    if key is None and source.kind not in ("frozen_graph", "saved_model"):
        known = "; ".join(family.title for family in FAMILIES.values())
        raise InputError(
            f"{source.path}: none of its {len(canonical)} tensors is named as in a "
            f'known family ({known}); set "family" in a --mapping file to one of '
            f"{', '.join(FAMILIES)}"
        )
    key = key or "slim"
    family = FAMILIES[key]
    shapes = {name: stated(source)[name].shape for name in canonical}
    assigned = assign(canonical, shapes, key, mapping)
    for theirs in stated(source).keys() - canonical.keys():
        reason = families.no_weight(theirs) or "not made of floating-point numbers"
        assigned.dropped[theirs] = reason
    report.print_unmatched(mapping, stated(source).keys())
    variables = {
        ours: layers.to_our_axes(ours, source.tensors[theirs], family.pytorch)
        for ours, theirs in assigned.named.items()
    }
    if key == "pycls":
        variables |= layers.reduction_of_pycls(variables)
    architecture, extraction, assumed = _architecture(
        variables, family, settings, source
    )
    if family.detects:
        variables = detectors.adapt(variables, architecture)
    module = build_module(architecture)
    expected = expected_shapes(module)
    for ours in mapping.named.keys() - expected.keys():
        if not ours.startswith("architecture/"):
            raise InputError(
                f"{mapping.path}: {ours}: this network has no such variable"
            )
    found = {ours: value.shape for ours, value in variables.items()}
    missing = layers.find_missing(found, expected)
    if missing or assigned.left:
        raise report.refusal(
            source.path, key, mapping, assigned, shapes, missing, template
        )
    variables, unused = layers.adapt(
        variables, expected, family, module.backbone.epsilon
    )
    _check_values(variables, assigned.named, source.path)
    for ours in unused:
        assigned.dropped[assigned.named.get(ours, ours)] = ONLY_TRAINING
    return Network(architecture, extraction, variables, assigned, key, assumed)


def assign(
    canonical: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    key: str,
    mapping: MappingFile,
) -> Assigned:
    """A place for every tensor of the source that has one.

    InputError if two match one place, or the mapping names what is not there.

    Args:
      canonical: name in the source -> name to read it by.
    """
    for place, theirs in mapping.named.items():
        if theirs not in shapes:
            raise InputError(
                f"{mapping.path}: {place}: the source has no tensor {theirs}"
            )
    named, dropped = dict(mapping.named), dict[str, str]()
    left: list[str] = []
    mapped = set(named.values())
    for theirs, name in canonical.items():
        ours = FAMILIES[key].name(name)
        if theirs in mapped:
            continue
        if theirs in mapping.drop or any(
            fnmatch.fnmatchcase(theirs, pattern) for pattern in mapping.drop
        ):
            dropped[theirs] = "the mapping drops it"
        elif reason := families.no_weight(name):
            dropped[theirs] = reason
        elif name == UNUSED:
            dropped[theirs] = "a constant that no layer computes with"
        elif key == "dolg" and not (ours or "").startswith(("architecture", *BACKBONE)):
            dropped[theirs] = "DOLG's fusion of maps, which our networks have not"
        elif ours is None:
            left.append(theirs)
        elif "classifier" in ours:
            dropped[theirs] = ONLY_TRAINING
        elif ours in mapping.named:
            dropped[theirs] = f"the mapping gives {ours} to another"
        elif ours in named:
            raise InputError(
                f"{named[ours]} and {theirs} are both named like {ours}: choose one in "
                'a --mapping file and name the other in its "drop"'
            )
        else:
            named[ours] = theirs
    assigned = Assigned(named, dropped, left, "names")
    return _assign_by_shape(assigned, canonical, shapes) if key == "slim" else assigned


def _assign_by_shape(
    assigned: Assigned, canonical: Mapping[str, str], shapes: assignment.Shapes
) -> Assigned:
    """Places, by scopes, shapes and order, of the tensors whose names are unknown."""
    named, dropped, _, evidence = assigned
    theirs = {canonical[name]: name for name in assigned.left}
    unknown = {name: shapes[theirs[name]] for name in theirs}
    rest, _ = assignment.layers_of(unknown)
    if not any(ours.startswith(BACKBONE) for ours in named):
        rest = assignment.layers_in_order(unknown)
        for expected in families.slim_orders():
            if found := assignment.match_backbone(rest, expected):
                named |= {ours: theirs[name] for ours, name in found.items()}
                rest, evidence = rest[len(expected) :], "order and shapes"
                break
    ends = [f"params/backbone/block{i}_unit1/conv3/kernel" for i in (3, 4)]
    outputs = [shapes[named[end]][-1] if end in named else 0 for end in ends]
    heads, classifiers = assignment.match_heads(rest, *outputs)
    for ours, name in heads.items():
        if ours not in named:
            named[ours] = theirs[name]
            if "shapes" not in evidence:
                evidence = "names, scopes and shapes"
    for layer in classifiers:
        for name in (layer.kernel, *layer.vectors.values()):
            dropped[theirs[name]] = ONLY_TRAINING
    placed = {*named.values(), *dropped}
    left = [name for name in assigned.left if name not in placed]
    return Assigned(named, dropped, left, evidence)


def stated(source: WeightFile) -> Mapping[str, Any]:
    """What is known of each tensor, its dtype and shape, before it is read."""
    return getattr(source.tensors, "entries", source.tensors)


def folders_of(path: pathlib.Path) -> list[str]:
    """Names of the source and of the folders it is in, never a whole path."""
    path = pathlib.Path(os.path.abspath(path))
    return [path.name, path.parent.name, path.parent.parent.name]


def _canonical_names(source: WeightFile) -> dict[str, str]:
    """{name in the source: name to read it by}, of its tensors of numbers."""
    names = {
        name: name
        for name, tensor in stated(source).items()
        if np.dtype(tensor.dtype).kind == "f" or tensor.dtype.name == "bfloat16"
    }
    if source.kind != "frozen_graph":
        return names
    detector = FAMILIES.get(families.recognise(names, source.kind) or "")
    if detector is not None and detector.detects:  # Its constants have their names.
        return {name: name if detector.name(name) else UNUSED for name in names}
    in_graph = assignment.names_in_graph(source.details["nodes"])
    return {name: in_graph.get(name, UNUSED) for name in names}


def _architecture(
    variables: dict[str, np.ndarray],
    family: Family,
    settings: Mapping[str, Any],
    source: WeightFile,
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """(architecture, extraction, what is assumed), with settings replaced."""
    power = variables.pop("architecture/gem_power", None)
    nodes = source.details.get("nodes", ())
    shapes = {name: x.shape for name, x in variables.items()}
    try:
        if family.detects:
            return _detector(shapes, family, settings)
        architecture = families.infer_architecture(
            shapes, family.layout, family.block3_strides
        )
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from None
    if architecture.get("global_dimension") == 0:
        architecture["pooling"] = family.pooling
    if power is not None and architecture["name"] != "delf":
        if np.size(power) != 1:
            raise InputError(f"{source.path}: its power of GeM is not one number")
        architecture["gem_power"] = float(np.asarray(power).reshape(-1)[0])
    drawn = families.architecture_of(nodes)
    architecture |= {k: v for k, v in drawn.items() if k in architecture}
    replaced = {k: v for k, v in settings.items() if k in _OF_EXTRACTION}
    architecture |= {k: v for k, v in settings.items() if k not in replaced}
    extraction = families.default_extraction(
        architecture, family, folders_of(pathlib.Path(source.path))
    )
    extraction |= families.resize_of(nodes) | replaced
    _check_branches(architecture["name"], make_settings(extraction))
    assumed = {"block3_strides"} & architecture.keys() - drawn.keys() - settings.keys()
    return architecture, extraction, tuple(assumed)


def _detector(
    shapes: Mapping[str, Any], family: Family, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The same of a detector, which sees images of one size."""
    depth = families.depth_of(shapes) if family.layout == "slim" else None
    architecture = detectors.infer_architecture(shapes, depth)
    sizes = {"image_size", "proposals"} & architecture.keys()
    replaced = {k: v for k, v in settings.items() if k in _OF_EXTRACTION}
    architecture |= {k: v for k, v in settings.items() if k not in replaced}
    assumed = tuple(sorted(sizes - settings.keys()))
    return architecture, {**family.extraction, **replaced}, assumed


def _check_branches(name: str, extraction: ExtractionSettings) -> None:
    """InputError if the settings want features that the network has not."""
    if name == "global" and extraction.max_features:
        raise InputError(
            f"extraction.max_features: {extraction.max_features} is not allowed, since "
            "a network without attention has no local features"
        )
    if name == "delf" and extraction.global_scales:
        raise InputError(
            f"extraction.global_scales: {list(extraction.global_scales)} is not "
            "allowed, since a network without whitening has no global descriptor"
        )


def _check_values(
    variables: Mapping[str, np.ndarray], named: Mapping[str, str], path: Any
) -> None:
    for ours, value in variables.items():
        if not np.isfinite(value).all():
            raise InputError(f"{path}: {named.get(ours, ours)} is not finite")
        if ours.endswith("/var") and (value < 0).any():
            raise InputError(
                f"{path}: {named.get(ours, ours)} has negative values and cannot be "
                f"the variance {ours}; correct it with a --mapping file"
            )
