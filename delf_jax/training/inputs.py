"""The batches of a config: images, views of them, maps of a teacher."""

import functools
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delf_jax import images
from delf_jax.data import augment, device_views, loader, teacher, tuples
from delf_jax.extraction.model_folder import build_module
from delf_jax.files import InputError, atomic_write, digest
from delf_jax.formats import tables
from delf_jax.formats.confirmed_pairs import read_pairs
from delf_jax.formats.delf.boxes import write_boxes
from delf_jax.models.architecture import DETECTORS
from delf_jax.models.receptive_field import field_of_block3
from delf_jax.names import finder
from delf_jax.progress import format_count, track
from delf_jax.synthetic import landmarks
from delf_jax.training.objective import COMPARING, TEACHING, WEIGHTS
from delf_jax.training.step import Constants

DRAWN_SIZE = (288, 384)  # height, width of a drawn view.
# Losses that need two views or where they lie in the image.
_OF_PAIRS = (*TEACHING, "correspondence", "matchability")
_NAMED = 100  # images that are named when they are left out; more are counted.


def open_sources(config: ConfigDict) -> list[loader.ImageSource]:
    """The images of `config.data`, prepared on the first call; prints what failed."""
    settings = config.data
    if not settings.directory:
        raise InputError("data.directory is empty: name the folder of prepared images")
    named = settings.sources.to_dict()
    with_boxes = bool(config.loss.detection)
    for name, source in named.items():
        if "landmarks" in source:
            source["path"] = draw_landmarks(source, settings.directory, with_boxes)
            if with_boxes:
                source["boxes"] = boxes_folder(source["path"])
        elif with_boxes and not source.get("boxes"):
            raise InputError(
                f"data.sources.{name}.boxes is empty, and loss.detection needs them: "
                "name a CSV, a COCO file or a folder of .boxes or .xml files"
            )
    sources, failures = loader.open_sources(
        named,
        settings.directory,
        max_side=settings.max_side,
        threads=settings.threads,
        exclude=tables.read_names(settings.exclude) if settings.exclude else (),
    )
    for failure in failures[:_NAMED]:
        print(f"left out: {failure}", flush=True)
    if more := len(failures[_NAMED:]):
        print(f"left out: {format_count(more, 'more image')}", flush=True)
    return sources


def draw_landmarks(
    drawn: Mapping[str, Any], directory: str, with_boxes: bool = False
) -> str:
    """The folder of views of drawn landmarks, one subfolder each, drawn once.

    Args:
      drawn: `first`, the seed of the first, how many `landmarks`, `views` of each.
      with_boxes: also a .boxes file for each view, in `boxes_folder`.
    """
    first, count, views = (drawn[n] for n in ("first", "landmarks", "views"))
    if first + count > landmarks.HELD_OUT:
        raise InputError(
            f"drawn landmarks from {landmarks.HELD_OUT} on are for tests: lower `first`"
        )
    folder = pathlib.Path(directory) / f"drawn-{first}-{count}x{views}"
    with track("drawn landmarks", count, "landmark") as advance:
        for seed in range(first, first + count):
            paths = [folder / str(seed) / f"{view}.jpg" for view in range(views)]
            boxes = pathlib.Path(boxes_folder(folder), str(seed))
            files = [boxes / f"{view}.boxes" for view in range(views * with_boxes)]
            if not all(path.exists() for path in (*paths, *files)):
                landmark = landmarks.draw_landmark(seed)
                for number, path in enumerate(paths):
                    view = landmarks.draw_view(landmark, number, DRAWN_SIZE)
                    with atomic_write(path) as file:
                        file.write(images.encode_jpeg(view.image, quality=92))
                    if with_boxes:
                        box = landmarks.box_of(landmark, view)
                        score, index = np.ones(len(box)), np.ones(len(box), np.int32)
                        write_boxes(files[number], box, score, index)
            advance()
    return str(folder)


def boxes_folder(folder: str | pathlib.Path) -> str:
    """Where the boxes of drawn views are."""
    return f"{folder}-boxes"


def open_batches(
    config: ConfigDict, sources: list[loader.ImageSource], devices: int
) -> loader.Batches:
    """This host's share of the batches."""
    hosts, accumulate = jax.process_count(), config.accumulate
    if accumulate < 1 or config.batch_size % (hosts * devices * accumulate):
        parts = f" x {accumulate} parts" if accumulate != 1 else ""
        raise InputError(
            f"batch_size {config.batch_size} does not divide among {hosts * devices} "
            f"devices{parts}: change batch_size, devices or accumulate"
        )
    settings = view_settings(config)
    here: dict[str, Any] = {
        "batch_size": config.batch_size // hosts,
        "seed": config.seed,
        "part": (jax.process_index(), hosts),
        "threads": config.data.threads,
    }
    if settings.kind == "tuple":
        listings = {
            name: source.path
            for name, source in config.data.sources.items()
            if str(source.get("path", "")).endswith(".pkl")
        }
        pool, counted = tuples.open_pool(sources, listings), config.tuples
        counts = tuples.TupleSettings(counted.queries, counted.pool, counted.negatives)
        return tuples.TupleBatches(pool, counts, size=settings.size, **here)
    transform: loader.Transform = functools.partial(_crop, settings=settings)
    examples: Sequence[loader.ImageSource | list[dict]] = sources
    weights = [
        config.data.sources[source.name].get("weight", 1.0) for source in sources
    ]
    if config.data.on_device:
        transform, examples = _seed, _places(sources)
        if config.data.pairs:
            examples = _with_pairs(examples, config.data.pairs)
            weights.append(config.data.pairs_weight)
    elif settings.kind != "crop":
        transform = functools.partial(_views, settings=settings)
    return loader.batches(
        examples,
        weights,
        transform,
        **here,
    )


def open_constants(config: ConfigDict, sources: list[loader.ImageSource]) -> Constants:
    """What every step reads: photos to draw views of, and the teacher."""
    photos, variables, targets = None, None, None
    if config.data.on_device:
        photos = device_views.make_store(
            [functools.partial(_image_of, source, i) for source, i in _every(sources)]
        )
    if teaches(config):
        settings = config.teacher
        taught_by, variables = open_teacher(config)
        places = _every(sources)
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(places))[: settings.fit_on].tolist()
        ids = [source.identifier(i) for source, i in (places[n] for n in chosen)]
        what = [taught_by.fingerprint, taught_by.stages, settings.dimension, ids]
        targets = teacher.fit_targets(
            taught_by,
            variables,
            [functools.partial(_image_of, *places[i]) for i in chosen],
            pathlib.Path(config.data.directory) / f"teacher-{digest(what, 12)}.npz",
            dimension=settings.dimension,
        )
    return Constants(photos, variables, targets)


def teaches(config: ConfigDict) -> bool:
    """Whether a loss needs a teacher."""
    return any(config.loss[name] for name in TEACHING)


def open_teacher(config: ConfigDict) -> tuple[teacher.Teacher, Any]:
    """The teacher that a loss needs, and its variables."""
    if not config.teacher.model:
        needs = next(name for name in TEACHING if config.loss[name])
        raise InputError(
            f"teacher.model is empty, and loss.{needs} needs it: name the folder of a "
            "model, or set the weight to 0"
        )
    return teacher.load_teacher(config.teacher.model, config.teacher.stages)


def view_settings(config: ConfigDict) -> augment.ViewSettings:
    """The settings of `config.views`, with the cells of the model's block3."""
    settings = settings_tuple(augment.ViewSettings, config.views, "views")
    if settings.kind not in ("pair", "crop", "tuple", "boxes"):
        raise InputError(
            f"config.views.kind is {settings.kind!r}: use 'pair', 'crop' or 'tuple', "
            "or 'boxes' for a detector"
        )
    _check_tuples(config)
    _check_boxes(config)
    paired = [name for name in _OF_PAIRS if config.loss[name]]
    if settings.kind == "crop" and paired:
        raise InputError(
            f"config.loss.{paired[0]} compares two views of an image: set it to 0, or "
            "views.kind to 'pair'"
        )
    if settings.kind != "pair":
        if config.data.on_device:
            raise InputError("data.on_device: only views of the kind 'pair' are drawn")
        return settings
    size = settings.size
    backbone = build_module({**config.model.to_dict(), "num_classes": 0}).backbone
    cells, _ = backbone.stage_sizes((size, size))["block3"]
    field = field_of_block3(backbone, size)
    if cells != -(-size // field.stride):
        raise InputError(
            f"config.views.size {size} leaves part of a cell over: "
            f"use a multiple of {field.stride}"
        )
    return settings._replace(cell_stride=field.stride, cell_offset=float(field.offset))


def _check_tuples(config: ConfigDict) -> None:
    """InputError unless tuples are compared, and nothing but tuples is."""
    kind = config.views.kind
    for name in WEIGHTS:
        compares = name in COMPARING
        if config.loss[name] and compares != (kind == "tuple"):
            expected = "'tuple'" if compares else "'crop' or 'pair'"
            raise InputError(
                f"config.loss.{name} needs views.kind {expected}, not {kind!r}: set it "
                "to 0 or change views.kind"
            )
    if kind == "tuple" and config.model.normalization == "batch":
        raise InputError(
            'model.normalization must be "frozen" for tuples: images do not fill their '
            "canvases"
        )
    layout = config.model.get("layout", "")
    if kind == "tuple" and (layout == "keras" or config.views.size % 32):
        raise InputError(
            "views.size must be a multiple of 32 for tuples, and model.layout not "
            "'keras', which moves images of odd sides"
        )


def _check_boxes(config: ConfigDict) -> None:
    """InputError unless boxes are learned, and nothing but boxes is."""
    detects = config.model.name in DETECTORS
    if {config.views.kind == "boxes", bool(config.loss.detection)} != {detects}:
        raise InputError(
            "config.loss.detection, views.kind 'boxes' and model.name "
            f"{' or '.join(map(repr, DETECTORS))} go together: set all of them or none"
        )
    if not detects:
        return
    for name in WEIGHTS:
        if config.loss[name] and name != "detection":
            raise InputError(f"config.loss.{name} must be 0 beside loss.detection")
    size = config.model.get("image_size", config.views.size)
    if size != config.views.size:
        raise InputError(
            f"config.views.size is {config.views.size}: it must be model.image_size, "
            f"{size}"
        )


def _crop(example: dict, rng: np.random.Generator, **settings: Any) -> dict:
    return {"id": example["id"], **augment.crop(example, rng, **settings)}


def _views(example: dict, rng: np.random.Generator, **settings: Any) -> dict:
    example = {**example, "image": images.decode_image(example["encoded"])}
    draw = augment.boxed if settings["settings"].kind == "boxes" else augment.views
    return {"id": example["id"], **draw(example, rng, **settings)}


def _seed(example: dict, rng: np.random.Generator) -> dict:
    """Which photo it is, and the seed of its views."""
    return {**example, "seed": np.uint32(rng.integers(2**32))}


def _every(sources: list[loader.ImageSource]) -> list[tuple[loader.ImageSource, int]]:
    """The images of all sources in one row."""
    return [(source, i) for source in sources for i in range(len(source))]


def _places(sources: list[loader.ImageSource]) -> list[list[dict]]:
    """The images of each source without their pixels, by their place in that row.

    Read once: an accelerator takes thousands a second.
    """
    places: list[list[dict]] = []
    first = 0
    for source in sources:
        examples = map(source.__getitem__, range(len(source)))
        places.append(
            [
                {"id": x["id"], "photo": np.int32(n), "label": np.int32(x["label"])}
                for n, x in enumerate(examples, first)
            ]
        )
        first += len(source)
    return places


def _with_pairs(places: list[list[dict]], path: str) -> list[list[dict]]:
    """The images of each source, and the pairs of a file as one more.

    An image alone is its own counterpart. Pairs of images that no source has, such as
    those kept out, are left out, and counted in a line.
    """
    photos = [example for source in places for example in source]
    find = finder([example["id"] for example in photos])
    pairs = []
    listed = read_pairs(path)
    for pair in listed:
        found = [find(name) for name in (pair.image, pair.counterpart)]
        if all(len(each) == 1 for each in found):
            (one,), (other,) = found
            affine = [[pair.yy, pair.yx, pair.y0], [pair.xy, pair.xx, pair.x0]]
            region = [pair.y_min, pair.x_min, pair.y_max, pair.x_max]
            pairs.append(_counterpart(photos[one], photos[other], affine, region))
    if not pairs:
        raise InputError(f"data.pairs: {path}: no source has both photos of a pair")
    if unknown := len(listed) - len(pairs):
        left = format_count(unknown, "pair")
        print(f"left out: {left} of {path}, of photos that no source has", flush=True)
    whole = np.eye(2, 3), [0, 0, 1, 1]
    alone = [[_counterpart(each, each, *whole) for each in source] for source in places]
    return [*alone, pairs]


def _counterpart(example: dict, other: dict, affine: Any, region: Any) -> dict:
    """The example with the photo of its second view; see `Counterpart`."""
    return {
        **example,
        "counterpart": other["photo"],
        "affine": np.asarray(affine, np.float32),
        "region": np.asarray(region, np.float32),
    }


def _image_of(source: loader.ImageSource, index: int) -> np.ndarray:
    return images.decode_image(source[index]["encoded"])


def settings_tuple(kind: type, settings: ConfigDict, name: str) -> Any:
    """The settings as a NamedTuple; InputError for a field that it does not have."""
    unknown = sorted(set(settings) - set(typing.get_type_hints(kind)))
    if unknown:
        raise InputError(f"config.{name}.{unknown[0]}: no such field")
    return kind(**settings)
