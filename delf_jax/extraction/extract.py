"""Features of images: pyramid, canvases, the network, selection.

Every scale of every image is laid on a canvas of a coarse grid of sizes, and images
whose canvases are alike share a batch and a compiled program. What the network sees of
an image does not depend on its canvas, its batch or its neighbours.
"""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from delf_jax.extraction import engines
from delf_jax.extraction.canvases import bucket_side, kept_cells
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.postprocessing import (
    Level,
    NotFiniteError,
    select_features,
)
from delf_jax.extraction.settings import ExtractionSettings, global_settings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import (
    ImageLike,
    image_name,
    normalize_pixels,
    open_image,
    resize_bilinear,
    resize_image,
    resize_rule,
)
from delf_jax.models.delf import Backbone
from delf_jax.models.pooling import UNCHANGED, GeMChanges

# The original returns nothing for images with a side below this.
MIN_SIDE = 10


class Crop(NamedTuple):
    """A part of an image, of which local features alone are wanted."""

    pixels: UInt8[np.ndarray, "H W 3"]


Image = ImageLike | Crop | InputError


def extract_features(
    model: Model,
    images: Iterable[Image],
    settings: ExtractionSettings,
    *,
    threads: int | None = None,
) -> Generator[Features | InputError, None, None]:
    """Features of each image, in the order of the images.

    In the place of an image that cannot be used stands the InputError that says why, or
    came in its place.

    Args:
      images: whatever `images.open_image` takes. No more than a few are opened ahead.
      threads: that open images ahead of the device.
    """
    networks = [_network(*each) for each in _share(model, settings)]
    # Images of one canvas that are worth computing together.
    batch_size = engines.batch_size(settings)
    window = 1 if batch_size == 1 else 4 * batch_size
    with readers(threads) as (pool, threads):
        prepare = functools.partial(_prepare, networks=networks, batch_size=batch_size)
        prepared = ahead(pool, prepare, enumerate(images, 1), max(window, threads) + 1)
        while group := list(itertools.islice(prepared, window)):
            yield from _extract_group(networks, pool, batch_size, group)


def pyramid_size(size: tuple[int, int], image_scale: float) -> tuple[int, int]:
    """(height, width) of a pyramid level, rounded half to even like the original."""
    scaled = np.round(np.asarray(size, np.float32) * np.float32(image_scale))
    return int(scaled[0]), int(scaled[1])


class _Network(NamedTuple):
    """A network, ready to run, and what is extracted with it."""

    engine: engines.Engine
    backbone: Backbone
    settings: ExtractionSettings


class _Prepared(NamedTuple):
    """An image that is decoded and brought to its size for extraction."""

    name: str
    pixels: Float[np.ndarray, "H W 3"]
    original_size: tuple[int, int]
    settings: ExtractionSettings


class _Job(NamedTuple):
    """One pyramid level of one image of a window."""

    image: int
    scale: int
    size: tuple[int, int]


def _share(
    model: Model, settings: ExtractionSettings
) -> list[tuple[Model, ExtractionSettings]]:
    """The model, or the one of local features and then the one of global ones."""
    if model.global_model is None:
        return [(model, settings)]
    local = model, settings._replace(global_scales=(), global_pca=None)
    of_global = model.global_model, global_settings(model, settings)
    wanted = settings.max_features, settings.global_scales
    return [each for each, some in zip((local, of_global), wanted, strict=True) if some]


def _network(model: Model, settings: ExtractionSettings) -> _Network:
    """InputError for a model that lacks a branch that the settings ask for."""
    if settings.global_scales and not model.has_global:
        raise InputError(
            f"model {model.name} has no global branch: extraction.global_scales must "
            "be empty"
        )
    if settings.max_features and not model.has_local:
        raise InputError(
            f"model {model.name} has no local branch: extraction.max_features must be 0"
        )
    engine = engines.load(model, settings, _gem_changes(model, settings))
    return _Network(engine, model.module.backbone, settings)


def _gem_changes(model: Model, settings: ExtractionSettings) -> GeMChanges:
    """What the settings change of GeM; InputError for a model that pools otherwise."""
    pooling = getattr(model.module, "pooling", "gem")
    if not settings.global_scales:
        return UNCHANGED
    changes = {field: getattr(settings, f"gem_{field}") for field in GeMChanges._fields}
    for field, value in changes.items():
        if value and pooling != "gem":
            raise InputError(
                f"model {model.name} pools by {pooling}, not by GeM: "
                f"extraction.gem_{field} must be 0"
            )
    return GeMChanges(**changes)


def _prepare(
    numbered: tuple[int, Image], networks: Sequence[_Network], batch_size: int
) -> list[_Prepared | InputError]:
    """The image, decoded once, as each network takes it; or why there is none.

    What will run on it is compiled here, while others run.
    """
    number, image = numbered
    if isinstance(image, InputError):
        return [image]
    name, chosen = image_name(image, number), [each.settings for each in networks]
    if isinstance(image, Crop):  # Its local features come first, or alone.
        image, chosen = image.pixels, [chosen[0]._replace(global_scales=())]
    try:
        pixels = open_image(image, chosen[0].max_pixels)
    except InputError as error:
        return [_named(error, name)]
    prepared = [_resized(pixels, name, settings) for settings in chosen]
    for network, each in zip(networks, prepared, strict=False):
        if not isinstance(each, InputError):
            _prepare_network(network, each, batch_size)
    return prepared


def _prepare_network(network: _Network, image: _Prepared, batch_size: int) -> None:
    """Compiles what will run on an image."""
    for job in _jobs([image], network.backbone):
        *sides, with_global = _canvas(job, image.settings, network.backbone)
        shape = batch_size, *sides, 3
        network.engine.prepare(shape, kept_cells(image.settings), with_global)


def _resized(
    pixels: UInt8[np.ndarray, "H W 3"], name: str, settings: ExtractionSettings
) -> _Prepared | InputError:
    """The image as one network takes it, or why it cannot."""
    try:
        height, width = pixels.shape[:2]
        size = resize_rule(
            (height, width),
            settings.max_image_size,
            settings.min_image_size,
            settings.use_square_images,
            settings.resize_factor,
        )
        if min(size) < MIN_SIDE:
            raise InputError(
                f"{width} x {height} pixels are too few: at extraction both sides "
                f"must have {MIN_SIDE}"
            )
    except InputError as error:
        return _named(error, name)
    resized = resize_image(pixels, size)
    resized = normalize_pixels(resized, settings.pixel_mean, settings.pixel_std)
    return _Prepared(name, resized, (height, width), settings)


def _named(error: InputError, name: str) -> InputError:
    return InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}")


def _extract_group(
    networks: Sequence[_Network], pool: Any, batch_size: int, group: Sequence[list]
) -> Iterator[Features | InputError]:
    """Features of a few images, each from the networks that it goes through."""
    found = [
        _extract_window(
            network, pool, batch_size, [each[n] for each in group if n < len(each)]
        )
        for n, network in enumerate(networks)
    ]
    for each in group:
        yield _join([next(found[n]) for n in range(len(each))])


def _join(parts: Sequence[Features | InputError]) -> Features | InputError:
    """What the networks gave for one image, or the first of their errors."""
    joined, *others = parts
    for part in others:
        if isinstance(joined, InputError) or isinstance(part, InputError):
            return joined if isinstance(joined, InputError) else part
        joined = joined._replace(global_descriptor=part.global_descriptor)
    return joined


def _extract_window(
    network: _Network, pool: Any, batch_size: int, window: list
) -> Iterator[Features | InputError]:
    """Features of a few images whose equal canvases share batches."""
    engine, backbone, settings = network
    groups = collections.defaultdict(list)
    for job in _jobs(window, backbone):
        groups[_canvas(job, window[job.image].settings, backbone)].append(job)
    batches = [
        (canvas, list(jobs[start : start + batch_size]))
        for canvas, jobs in groups.items()
        for start in range(0, len(jobs), batch_size)
    ]
    draw = functools.partial(
        _draw_batch,
        window=window,
        backbone=backbone,
        batch_size=batch_size,
        legacy=settings.resize == "legacy",
    )
    levels: list[dict[int, Level]] = [{} for _ in window]
    running: collections.deque[tuple] = collections.deque()
    drawn = ahead(pool, draw, batches, 2)
    for ((_, _, with_global), jobs), (canvases, sizes) in zip(
        batches, drawn, strict=True
    ):
        maps = engine.run(canvases, sizes, kept_cells(settings), with_global)
        running.append((jobs, maps))
        # A device works on one batch while the results of the last are taken; on a CPU
        # two at once would take twice the memory and no less time.
        if len(running) > (jax.default_backend() != "cpu"):
            _collect(levels, *running.popleft())
    while running:
        _collect(levels, *running.popleft())
    for image, found in zip(window, levels, strict=True):
        if isinstance(image, InputError):
            yield image
        elif missing := _missing(found, image.settings):
            yield InputError(f"{image.name}: too small for {missing}")
        else:
            ordered = [found[scale] for scale in sorted(found)]
            resized = image.pixels.shape[:2]
            try:
                yield select_features(
                    ordered, image.original_size, resized, image.settings, backbone
                )
            except NotFiniteError as error:
                yield InputError(f"{image.name}: {error}")


def _jobs(window: list, backbone: Backbone) -> Iterator[_Job]:
    for index, image in enumerate(window):
        if isinstance(image, InputError):
            continue
        settings = image.settings
        for scale, image_scale in enumerate(settings.image_scales):
            if not settings.max_features and scale not in settings.global_scales:
                continue
            size = pyramid_size(image.pixels.shape[:2], image_scale)
            cells = backbone.stage_sizes(size)["block3"]
            if min(size) > 0 and min(cells) > 0:
                yield _Job(index, scale, size)


def _missing(found: dict[int, Level], settings: ExtractionSettings) -> str:
    """What an image cannot have because the network has no cell at its size."""
    if not found:
        return "every one of extraction.image_scales"
    if settings.global_scales and not found.keys() & set(settings.global_scales):
        return "every one of extraction.global_scales"
    return ""


def _canvas(job: _Job, settings: ExtractionSettings, backbone: Backbone) -> tuple:
    """(height, width, with the global branch): what one compiled program is for."""
    sides = [
        bucket_side(side + backbone.canvas_offset(side), settings.grid)
        for side in job.size
    ]
    return *sides, job.scale in settings.global_scales


def _draw_batch(
    batch: tuple, *, window: list, backbone: Backbone, batch_size: int, legacy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Canvases [B, H, W, 3] and sizes [B, 2]; places that are left over stay empty."""
    (height, width, _), jobs = batch
    canvases = np.zeros((batch_size, height, width, 3), np.float32)
    # An empty place has some true size, so that no mean is over nothing.
    sizes = np.tile(np.int32(jobs[0].size), (batch_size, 1))
    for place, job in enumerate(jobs):
        level = resize_bilinear(window[job.image].pixels, job.size, legacy)
        y, x = (backbone.canvas_offset(side) for side in job.size)
        canvases[place, y : y + job.size[0], x : x + job.size[1]] = level
        sizes[place] = job.size
    return canvases, sizes


def _collect(levels: list[dict[int, Level]], jobs: list, result: dict) -> None:
    result = {name: np.asarray(value) for name, value in result.items()}
    for place, job in enumerate(jobs):
        levels[job.image][job.scale] = Level(
            job.scale, job.size, {name: value[place] for name, value in result.items()}
        )


@contextlib.contextmanager
def readers(
    threads: int | None,
) -> Iterator[tuple[concurrent.futures.ThreadPoolExecutor, int]]:
    """Threads that open images, and how many: by default as cores, and at most 8."""
    threads = threads or min(8, os.cpu_count() or 1)
    pool = concurrent.futures.ThreadPoolExecutor(threads, "images")
    try:
        yield pool, threads
    finally:
        # Not to wait: a generator that nobody asks any more ends wherever garbage is
        # collected, be it in a thread that is just being started.
        pool.shutdown(wait=False, cancel_futures=True)


def ahead(
    pool: concurrent.futures.Executor, function: Callable, items: Iterable, count: int
) -> Iterator[Any]:
    """function(item) for each item in order, computed up to `count` items ahead."""
    futures: collections.deque[concurrent.futures.Future] = collections.deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) >= count:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
