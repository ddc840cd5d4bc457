"""Features in one call: images of any kind, the bundled model, settings by name."""

import contextlib
import functools
import os
import typing
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Literal, TypeGuard, overload

from PIL import Image

from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model, load_model
from delf_jax.extraction.settings import ExtractionSettings, settings_for
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import ImageLike, image_name

Errors = Literal["raise", "return"]
ModelLike = Model | str | os.PathLike | None


@overload
def extract(
    images: ImageLike,
    model: ModelLike = None,
    *,
    errors: Literal["raise"] = "raise",
    **settings: Any,
) -> Features: ...


@overload
def extract(
    images: Iterable[ImageLike],
    model: ModelLike = None,
    *,
    errors: Literal["raise"] = "raise",
    **settings: Any,
) -> list[Features]: ...


@overload
def extract(
    images: ImageLike | Iterable[ImageLike],
    model: ModelLike = None,
    *,
    errors: Errors,
    **settings: Any,
) -> Any: ...


def extract(
    images: ImageLike | Iterable[ImageLike],
    model: ModelLike = None,
    *,
    errors: Errors = "raise",
    **settings: Any,
) -> Any:
    """Features of one image; of several (a list, any iterable) a list of them.

    An image is a path, a PIL.Image, an array (numpy or jax, uint8 or float in [0, 1],
    [H, W, 3] or [H, W]), the bytes of an image file or a file open for reading; an
    array [B, H, W, 3] is several.

    Args:
      model: a model, its folder, or None for the bundled one.
      errors: of an image that cannot be used: "raise" the InputError, or "return" it in
        the place of the features; its `.image` is the name of the image.
      settings: fields of `delf_jax.extraction.settings.ExtractionSettings` to replace,
        such as max_features=500.
    """
    check_errors(errors)
    model = open_model(model)
    chosen = settings_for(model, **settings)
    with contextlib.closing(extract_each(as_list(images), model, chosen)) as found:
        results = list(found if errors == "return" else map(raise_error, found))
    return results[0] if is_image(images) else results


def extract_each(
    images: Iterable[ImageLike | InputError], model: Model, settings: ExtractionSettings
) -> Generator[Features | InputError, None, None]:
    """As `extract_features`, each with the name of its image."""
    names: list[str] = []

    def named() -> Iterator[ImageLike | InputError]:
        for number, image in enumerate(images, 1):
            names.append(image_name(image, number))
            yield image

    for place, found in enumerate(extract_features(model, named(), settings)):
        if isinstance(found, InputError):
            yield InputError(str(found), names[place])
        else:
            yield found._replace(image=names[place])


def features_of(
    images: Iterable[ImageLike | Features], model: Model, settings: ExtractionSettings
) -> Iterator[Features | InputError]:
    """As `extract_each`; of what are features already, these."""
    images = list(images)
    todo = (image for image in images if not isinstance(image, Features))
    found = extract_each(todo, model, settings)
    for image in images:
        yield image if isinstance(image, Features) else next(found)


def is_image(images: Any) -> TypeGuard[ImageLike | Features]:
    """Whether this is one image, or the features of one, and not several."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Features)
    array = hasattr(images, "__array__") and getattr(images, "ndim", 4) < 4
    one = isinstance(images, kinds) or hasattr(images, "read") or array
    return one or not isinstance(images, Iterable)


def as_list(images: Any) -> Iterable[Any]:
    """The images themselves; of one image a list."""
    return [images] if is_image(images) else images


def read_once(image: Any) -> Any:
    """The image; of an open file its bytes, which can be looked at again."""
    with contextlib.suppress(OSError, ValueError):  # Extraction says what is wrong.
        data = image.read() if hasattr(image, "read") else None
        return data if isinstance(data, bytes) else image
    return image


def open_model(
    model: ModelLike, global_model: str | os.PathLike | None = None
) -> Model:
    """The model itself, that of a folder, or the bundled one, which is kept.

    Args:
      global_model: of a folder, or of the bundled one, as `load_model` takes it.
    """
    if isinstance(model, Model):
        return model
    if model is None and global_model is None:
        return _bundled()
    return load_model(model, global_model)


def raise_error(found: Features | InputError) -> Features:
    """The features; an error is raised."""
    if isinstance(found, InputError):
        raise found
    return found


def check_errors(errors: str) -> None:
    """InputError for a word that is not known."""
    if errors not in typing.get_args(Errors):
        raise InputError(f'errors={errors!r}: expected "raise" or "return"')


_bundled = functools.cache(load_model)
