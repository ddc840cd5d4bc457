"""What a training is worth so far, on images that it does not learn from.

By the averaged weights, as they will be exported. Accuracy: of the first
`validation.examples` of a shuffle of the "validation" part of the sources whose split
is "train", without classes that are not trained on, squeezed to squares of `views.size`
as the released code does. mAP: on `validation.dataset` or `validation.drawn`, or, with
`validation.search`, of each image of these parts among all of them; by global
descriptors as `extraction` says; without any, by the sum of local descriptors, weighted
by attention. Of a detector: AP on these parts of the sources and the drawn landmarks.
"""

import collections
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from delf_jax import images
from delf_jax.data import augment, loader
from delf_jax.data.image_lists import list_records
from delf_jax.detection.detect import find_boxes
from delf_jax.evaluation import datasets, detection, evaluation, queries
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings, make_settings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.models import architecture
from delf_jax.ops import l2_normalize
from delf_jax.retrieval.ranking import top_k
from delf_jax.training.inputs import draw_landmarks, open_sources
from delf_jax.training.step import Static, predict, without_axis

BATCH = 32


class HeldOut(NamedTuple):
    """What is measured on."""

    sources: Sequence[loader.ImageSource]
    places: Int[np.ndarray, "N 2"]
    """(source, image) of each image that is classified"""
    dataset: datasets.Dataset | None
    settings: ExtractionSettings
    size: int
    names: tuple[str, ...]
    """of the metrics"""
    chooses: str
    """the metric that chooses the best checkpoint; empty: nothing is measured"""


def open_held_out(config: ConfigDict, sources: Sequence[loader.ImageSource]) -> HeldOut:
    """What `config.validation` measures on; empty if that is off."""
    settings = make_settings(config.extraction.to_dict())
    if settings.global_scales:
        settings = settings._replace(max_features=0)
    nothing = np.zeros((0, 2), np.int64)
    if not config.validation.every:
        return HeldOut((), nothing, None, settings, 0, (), "")
    parts = _parts(config, sources)
    if config.loss.detection and config.validation.drawn.landmarks:
        parts += _drawn_part(config)
    every = [(i, j) for i, part in enumerate(parts) for j in range(len(part))]
    order = np.random.default_rng(config.seed).permutation(len(every))
    order = order[: config.validation.examples or None]
    places = np.array(every, np.int64).reshape(-1, 2)[order]
    dataset = None if config.loss.detection else _dataset(config)
    classifiers = ("arcface", "attention") if len(places) else ()
    names = [f"{n}_accuracy" for n in classifiers if config.loss[n]]
    if dataset is not None:
        names = [*_map_names(dataset).values(), *names]
    if config.loss.detection and len(places):
        names = ["AP", "AP50", "AP75"]
    if not names:
        raise InputError(
            "validation.every: there is nothing to measure; name a validation.dataset "
            'or validation.drawn.landmarks, or give a source of classes split "train"'
        )
    chooses = "mAP_medium" if "mAP_medium" in names else names[0]
    size = config.views.size
    return HeldOut(parts, places, dataset, settings, size, tuple(names), chooses)


def _parts(
    config: ConfigDict, sources: Sequence[loader.ImageSource]
) -> list[loader.ImageSource]:
    """The held-out part of the sources that have one, with the classes of training."""
    classes = {source.name: source.classes for source in sources}
    with config.copy_and_resolve_references().unlocked() as held_out:
        for name, source in config.data.sources.items():
            if source.get("split", "") == "train":
                held_out.data.sources[name].split = "validation"
            else:
                del held_out.data.sources[name]
    if not held_out.data.sources:
        return []
    parts = open_sources(held_out)
    for part in parts:
        part.classes = classes[part.name]
    return parts


def _dataset(config: ConfigDict) -> datasets.Dataset | None:
    settings = config.validation
    if settings.search:
        return _split(config)
    if settings.drawn.landmarks:
        return _drawn(config)
    if not settings.dataset:
        return None
    dataset = datasets.read_dataset(settings.dataset, settings.photos or None)
    if missing := datasets.missing_photos(dataset):
        raise InputError(
            f"validation.dataset: {datasets.format_missing(missing)}; name their "
            "folder with validation.photos"
        )
    return dataset


def _split(config: ConfigDict) -> datasets.Dataset:
    """The photos of the "validation" parts, each searched for among the others.

    As they lie on disk, not as they are prepared: a search sees them whole.
    """
    settings = config.validation
    if settings.dataset or settings.drawn.landmarks:
        raise InputError(
            "validation.search: set it to False beside validation.dataset and "
            "validation.drawn.landmarks, which measure mAP as well"
        )
    photos, classes = [], []
    for name, source in config.data.sources.items():
        if source.get("split", "") != "train":
            continue
        known = {"path", "images", "label_column"}.intersection(source)
        fields = {field: source[field] for field in known}
        nameless = {"", *map(str, source.get("unlabelled", ()))}
        for record in list_records(**fields, split="validation"):
            label = str(record.label)
            if record.offset >= 0:
                raise InputError(
                    f"validation.search: the images of data.sources.{name} lie in "
                    "TFRecords; set it to False"
                )
            if label not in map(str, source.get("holdout", ())):
                id = f"{name}/{record.id}"
                photos.append(datasets.Photo(id, id, record.path))
                classes.append("_" if label in nameless else f"{name}/{label}")
    found = datasets.leave_one_out("validation", photos, classes)
    if not any(map(len, found.protocols["all"].positives)):
        raise InputError(
            "validation.search: no class has two photos that are left out of the "
            'training; give a source of classes split "train"'
        )
    return found


def _drawn(config: ConfigDict) -> datasets.Dataset:
    """Each view of drawn landmarks, none of them trained on, among all the others."""
    drawn = _check_drawn(config)
    return datasets.read_dataset(draw_landmarks(drawn.to_dict(), config.data.directory))


def _drawn_part(config: ConfigDict) -> list[loader.ImageSource]:
    """The drawn landmarks with their boxes."""
    drawn = _check_drawn(config)
    with config.copy_and_resolve_references().unlocked() as held_out:
        held_out.data.sources = ConfigDict({"validation": drawn})
    return open_sources(held_out)


def _check_drawn(config: ConfigDict) -> ConfigDict:
    """`validation.drawn`; InputError if it is trained on, or a dataset named, too."""
    drawn = config.validation.drawn
    if config.validation.dataset:
        raise InputError(
            "validation.dataset and validation.drawn.landmarks: name one of them"
        )
    for name, source in config.data.sources.items():
        if "landmarks" in source and (
            source.first < drawn.first + drawn.landmarks
            and drawn.first < source.first + source.landmarks
        ):
            raise InputError(
                f"validation.drawn: data.sources.{name} trains on some of these "
                "landmarks; change validation.drawn.first"
            )
    return drawn


def _map_names(dataset: datasets.Dataset) -> dict[str, str]:
    """The metric of each protocol that can be scored."""
    return {
        protocol: "mAP" if protocol == "all" else f"mAP_{protocol}"
        for protocol, (positives, _) in dataset.protocols.items()
        if any(map(len, positives))
    }


def measure(held_out: HeldOut, static: Static, averages: Any) -> dict[str, float]:
    """The metrics by name, the same on all hosts."""
    values = np.zeros(len(held_out.names), np.float32)
    if jax.process_index() == 0:
        variables = jax.tree.map(np.asarray, averages)
        found: dict[str, float] = {}
        if held_out.dataset is not None:
            model = _to_extract(static.module, variables)
            found |= retrieval(held_out.dataset, held_out.settings, model)
        if static.loss.detection:
            found |= precision(held_out, static, variables)
        elif len(held_out.places):
            found |= accuracy(held_out, static, variables)
        values = np.array([found[name] for name in held_out.names], np.float32)
    if jax.process_count() > 1:
        values = multihost_utils.broadcast_one_to_all(values)
    return {n: float(x) for n, x in zip(held_out.names, values, strict=True)}


def accuracy(held_out: HeldOut, static: Static, variables: Any) -> dict[str, float]:
    """Shares of images whose class has the largest cosine or logit, by classifier."""
    module = _plain(static.module)
    right, counted = collections.Counter[str](), 0
    for batch, labels in _batches(held_out):
        known = labels >= 0
        counted += int(known.sum())
        found = _classify(module, static.pixels, variables, batch)
        for name, classes in found.items():
            hits = (np.asarray(classes)[: len(labels)] == labels) & known
            right[name] += int(hits.sum())
    return {name: hits / max(counted, 1) for name, hits in right.items()}


def precision(held_out: HeldOut, static: Static, variables: Any) -> dict[str, float]:
    """Average precision of boxes, in parts of the images, which changes no overlap."""
    module, found = _plain(static.module), []
    places = iter(held_out.places.tolist())
    for batch, labels in _batches(held_out):
        outputs = find_boxes(module, static.pixels, variables, batch)
        boxes, scores, _ = map(np.asarray, outputs)
        for row, (source, image) in zip(range(len(labels)), places, strict=False):
            kept, truth = scores[row] > 0, held_out.sources[source][image]["boxes"]
            found.append(detection.Found(boxes[row][kept], scores[row][kept], truth))
    return detection.average_precision(found)


def _batches(held_out: HeldOut) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images [BATCH, S, S, 3], labels): the last images may be empty."""
    for first in range(0, len(held_out.places), BATCH):
        places = held_out.places[first : first + BATCH]
        examples = [held_out.sources[i][int(j)] for i, j in places]
        batch = np.zeros((BATCH, held_out.size, held_out.size, 3), np.uint8)
        for row, example in enumerate(examples):
            image = images.decode_image(example["encoded"])
            batch[row] = augment.resize_area(image, held_out.size)
        yield batch, np.array([example["label"] for example in examples])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classify(
    module: nn.Module, pixels: tuple, variables: Any, batch: Array
) -> dict[str, Array]:
    """The class of each image, by the accuracy that it counts for."""
    outputs = predict(module, pixels, variables, batch)
    logits = {"arcface": "cosines", "attention": "attention_logits"}
    return {
        f"{name}_accuracy": outputs[key].argmax(-1)
        for name, key in logits.items()
        if key in outputs
    }


def retrieval(
    dataset: datasets.Dataset, settings: ExtractionSettings, model: Model
) -> dict[str, float]:
    """mAP of each protocol."""
    names = _map_names(dataset)
    dataset, index_descriptors, query_descriptors = _extract(dataset, model, settings)
    ranking = top_k(query_descriptors @ index_descriptors.T)
    rankings = {"all": dict.fromkeys(dataset.protocols, ranking)}
    found = evaluation.score(dataset, rankings)
    values = {names[row.protocol]: row.mean.value for row in found.rows}
    return dict.fromkeys(names.values(), 0.0) | values


def _plain(module: nn.Module) -> nn.Module:
    """The module as it is exported: on one device, in float32."""
    module = without_axis(module)
    return module.clone(backbone=module.backbone.clone(compute_dtype=None))


def _to_extract(module: nn.Module, variables: Any) -> Model:
    """The model to extract with, without what only training needs."""
    module = _plain(module).clone(num_classes=0)
    named = flatten_dict(variables, sep="/")
    needed = {name: named[name] for name in architecture.expected_shapes(module)}
    folded = architecture.fold_batch_norm(module, unflatten_dict(needed, sep="/"))
    return Model(*folded, config={}, fingerprint="", name="in training")


def _extract(
    dataset: datasets.Dataset, model: Model, settings: ExtractionSettings
) -> tuple[datasets.Dataset, Float[np.ndarray, "M D"], Float[np.ndarray, "Q D"]]:
    """The dataset without unusable photos, descriptors of its index, of its queries."""
    paths = [photo.path for photo in dataset.index if photo.path is not None]
    found = list(extract_features(model, paths, settings))
    by_id = {p.id: x for p, x in zip(dataset.index, found, strict=True)}
    if dataset.boxes is None and all(photo.id in by_id for photo in dataset.queries):
        found += [by_id[photo.id] for photo in dataset.queries]
    else:
        boxes = itertools.repeat(None) if dataset.boxes is None else dataset.boxes
        crops = (
            queries.crop_query(images.read_image(photo.path), box, settings)
            for photo, box in zip(dataset.queries, boxes, strict=False)
            if photo.path is not None
        )
        unresized = settings._replace(
            max_image_size=None, min_image_size=None, use_square_images=False
        )
        found += extract_features(model, crops, unresized)
    photos = [*dataset.index, *dataset.queries]
    failed = {
        photo.name: str(features)
        for photo, features in zip(photos, found, strict=True)
        if isinstance(features, InputError)
    }
    for reason in failed.values():
        print(f"validation: left out: {reason}", flush=True)
    usable = (
        _descriptor(features)
        for photo, features in zip(photos, found, strict=True)
        if photo.name not in failed and not isinstance(features, InputError)
    )
    descriptors = np.stack(list(usable))
    kept = datasets.drop_missing(dataset, failed) if failed else dataset
    return kept, descriptors[: len(kept.index)], descriptors[len(kept.index) :]


def _descriptor(features: Features) -> Float[np.ndarray, " D"]:
    """One descriptor for an image."""
    if features.global_descriptor is not None:
        return np.asarray(features.global_descriptor)
    local = features.local
    assert local is not None  # of a model without a global descriptor
    return np.asarray(l2_normalize(local.attention @ local.descriptors))
