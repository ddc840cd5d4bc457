"""The original's text configs in our words."""

import os
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.formats.delf import pbtxt
from delf_jax.formats.protos import aggregation_config_pb2, delf_config_pb2

# The original reads them nowhere in its extractor, or only to load TensorFlow models.
_NO_EFFECT = ("layer_name", "iou_threshold", "is_tf2_exported")


def read_delf_config(path: str | os.PathLike) -> tuple[ConfigDict, list[str]]:
    """A DelfConfig as a config of extraction, and a line for each field without effect.

    Paths are kept as they are: in the original, too, they start from the working
    directory. InputError if a field does not exist, or one that is needed is missing.
    """
    try:
        message = pbtxt.read_pbtxt(path, delf_config_pb2.DelfConfig)
    except InputError as error:
        try:
            pbtxt.read_pbtxt(path, aggregation_config_pb2.AggregationConfig)
        except InputError:
            raise error from None
        raise InputError(
            f"{path}: is an AggregationConfig; extraction takes a DelfConfig"
        ) from None
    local, with_local = message.delf_local_config, message.use_local_features
    whole, with_global = message.delf_global_config, message.use_global_features
    if not (with_local or with_global):
        raise InputError(
            f"{path}: neither use_local_features nor use_global_features is true"
        )
    scales = tuple(map(_shortest, message.image_scales))
    scales = scales or ExtractionSettings().image_scales
    global_scales = tuple(whole.image_scales_ind) or tuple(range(len(scales)))
    extraction = {
        "image_scales": scales,
        "global_scales": global_scales if with_global else (),
        "max_image_size": max(message.max_image_size, 0),
        "min_image_size": max(message.min_image_size, 0),
        "use_square_images": message.use_square_images,
        "use_resized_coordinates": local.use_resized_coordinates,
        "max_features": local.max_feature_num if with_local else 0,
        "attention_threshold": _shortest(local.score_threshold) if with_local else 0.0,
        "locations": "delf",
        "pca": _pca(path, "delf_local_config", local, with_local),
        "global_pca": _pca(path, "delf_global_config", whole, with_global),
    }
    config = ConfigDict({"model": message.model_path, "extraction": extraction})
    return config, [f"{path}: {line}" for line in _without_effect(message)]


def read_aggregation_config(path: str | os.PathLike) -> ConfigDict:
    """An AggregationConfig; a batch_size of 0 is all features at once."""
    message = pbtxt.read_pbtxt(path, aggregation_config_pb2.AggregationConfig)
    kinds = aggregation_config_pb2.AggregationConfig.AggregationType
    if message.aggregation_type == kinds.INVALID:
        raise InputError(f"{path}: aggregation_type: use VLAD, ASMK or ASMK_STAR")
    return ConfigDict(
        {
            "aggregation": kinds.Name(message.aggregation_type).lower(),
            "codebook": message.codebook_path,
            "codebook_size": message.codebook_size,
            "dimension": message.feature_dimensionality,
            "assignments": message.num_assignments,
            "regional": message.use_regional_aggregation,
            "normalize": message.use_l2_normalization,
            "alpha": _shortest(message.alpha),
            "tau": _shortest(message.tau),
            "batch_size": max(message.feature_batch_size, 0),
        }
    ).lock()


def _pca(path: str | os.PathLike, name: str, config: Any, used: bool) -> dict[str, Any]:
    """The fields of a projection; without one, mean is empty."""
    if not (used and config.use_pca):
        return {"mean": ""}
    pca = config.pca_parameters
    names = {"mean": "mean_path", "projection": "projection_matrix_path"}
    names["dimension"] = "pca_dim"
    if pca.use_whitening:
        names["variances"] = "pca_variances_path"
    for field in names.values():
        if not getattr(pca, field):
            raise InputError(
                f"{path}: {name}.pca_parameters.{field} is missing; set it, or "
                "use_pca: false (true is its default)"
            )
    fields = {ours: getattr(pca, theirs) for ours, theirs in names.items()}
    return fields | ({"use_whitening": True} if pca.use_whitening else {})


def _without_effect(message: Any) -> list[str]:
    """A line for each field that is set to something, and changes nothing."""
    lines = []
    for part in (message, message.delf_local_config):
        for field in part.DESCRIPTOR.fields:
            value = getattr(part, field.name)
            if field.name in _NO_EFFECT and value != field.default_value:
                value = _shortest(value) if isinstance(value, float) else value
                lines.append(f"{field.name}: {value} has no effect")
    return lines


def _shortest(value: float) -> float:
    """0.1, not 0.10000000149011612: of what is one float32, the shortest decimal."""
    return float(str(np.float32(value)))
