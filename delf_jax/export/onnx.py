"""Models as ONNX, by jax2onnx."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import pathlib
import stat
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from delf_jax.export.options import ExportOptions, ExportSummary, signature
from delf_jax.export.traced import extract_image
from delf_jax.extraction.extract import MIN_SIDE
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError

FILE = "model.onnx"


def write(
    folder: pathlib.Path,
    model: Model,
    settings: ExtractionSettings,
    options: ExportOptions,
) -> ExportSummary:
    """Writes model.onnx: images of any size up to `options.size`, in an array of it."""
    if importlib.util.find_spec("jax2onnx") is None:
        raise InputError(
            "ONNX is written by jax2onnx, which needs older versions of some packages "
            "and so an environment of its own: there, pip install jax2onnx onnxruntime "
            "'jax<0.11' flax jaxtyping ml-collections pillow safetensors simplejpeg, "
            "and pip install --no-deps delf_jax"
        )
    sides = options.size
    if sides is None and settings.max_image_size:
        sides = settings.max_image_size, settings.max_image_size
    if not sides:
        raise InputError(
            f"the settings of model {model.name} have no max_image_size: set --size=HxW"
        )
    if min(sides) < MIN_SIDE:
        raise InputError(f"--size={sides[0]}x{sides[1]}: sides must have {MIN_SIDE}")
    inputs = {
        "image": jax.ShapeDtypeStruct((*sides, 3), jnp.uint8),
        "size": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    extract = functools.partial(extract_image, model=model, settings=settings)
    # Traced here: the converter replaces some functions of jax.numpy while it traces,
    # and gets the types of constants wrong then.
    jaxpr, outputs = jax.make_jaxpr(extract, return_shape=True)(*inputs.values())
    with _quiet():
        import jax2onnx

        jax2onnx.to_onnx(
            jaxpr_as_fun(jaxpr),
            list(inputs.values()),
            model_name="delf_jax",
            return_mode="file",
            output_path=folder / FILE,
            input_names=list(inputs),
            output_names=sorted(outputs),
        )
    # Weights too large for one message; written as temporary files, for one user.
    data = folder / f"{FILE}.data"
    if data.exists():
        data.chmod(stat.S_IMODE((folder / FILE).stat().st_mode))
    return ExportSummary(
        FILE,
        {name: signature(value) for name, value in inputs.items()},
        {name: signature(value) for name, value in outputs.items()},
        (
            "size is (height, width) of the image, which fills the first rows and "
            "columns of its array; what the others hold does not matter",
            f"the work is that of {sides[0]} x {sides[1]} pixels for any image: a "
            "smaller --size makes a faster model",
        ),
        {"jax": jax.__version__, "jax2onnx": importlib.metadata.version("jax2onnx")},
        (data.name,) if data.exists() else (),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's warnings about shapes, which it then gets right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
