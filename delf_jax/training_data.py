"""The batches that a config asks for: images, views of them, a teacher's answers."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delf_jax import augment, data, teachers
from delf_jax.files import InputError


def open_sources(config: ConfigDict) -> list[data.Source]:
    """The images of `config.data`, prepared on the first call; prints what failed."""
    settings = config.data
    sources, failures = data.open_sources(
        settings.sources.to_dict(), settings.directory, max_side=settings.max_side
    )
    for failure in failures:
        print(f"left out: {failure}", flush=True)
    return sources


def open_batches(
    config: ConfigDict, sources: list[data.Source], devices: int
) -> Iterator[dict[str, np.ndarray]]:
    """This host's share of the batches, with the teacher's answers if there is one."""
    hosts = jax.process_count()
    if config.batch_size % (hosts * devices):
        raise InputError(
            f"batch_size {config.batch_size} does not divide among {hosts * devices} "
            "devices: change batch_size or devices"
        )
    maps = None
    if config.loss.distillation or config.loss.global_distillation:
        maps = _teacher_maps(config, sources)
    transform = functools.partial(
        _views,
        settings=settings_tuple(augment.ViewSettings, config.views, "views"),
        maps=maps,
    )
    return data.batches(
        sources,
        [config.data.sources[source.name].get("weight", 1.0) for source in sources],
        transform,
        batch_size=config.batch_size // hosts,
        seed=config.seed,
        part=(jax.process_index(), hosts),
        threads=config.data.threads,
    )


def _views(example: dict, rng: np.random.Generator, **settings: Any) -> dict:
    return {"id": example["id"], **augment.views(example, rng, **settings)}


def _teacher_maps(
    config: ConfigDict, sources: list[data.Source]
) -> teachers.TeacherMaps:
    """The teacher's maps of all images, computed when they are first needed."""
    images = [
        (source.identifier(i), functools.partial(_image_of, source, i))
        for source in sources
        for i in range(len(source))
    ]
    settings = config.teacher
    identity = json.dumps(
        [settings.to_dict(), [identifier for identifier, _ in images]]
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return teachers.build_maps(
        settings.weights,
        images,
        str(pathlib.Path(config.data.directory) / f"teacher-{digest}"),
        long_sides=settings.long_sides,
        dimension=settings.dimension,
    )


def _image_of(source: data.Source, index: int) -> np.ndarray:
    return source[index]["image"]


def settings_tuple(kind: type, settings: ConfigDict, name: str) -> Any:
    """The settings as a NamedTuple; a field it does not have is named."""
    unknown = sorted(set(settings) - set(kind._fields))
    if unknown:
        raise InputError(f"config.{name}.{unknown[0]}: no such field")
    return kind(**settings)
