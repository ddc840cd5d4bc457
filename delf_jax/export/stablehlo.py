"""A model as a StableHLO program of jax.export."""

import functools
import pathlib

import jax
import jax.numpy as jnp

from delf_jax.export.options import PLATFORMS, ExportSummary, signature
from delf_jax.export.traced import extract_image
from delf_jax.extraction.extract import MIN_SIDE
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings


def write(
    folder: pathlib.Path, model: Model, settings: ExtractionSettings
) -> ExportSummary:
    """Writes a serialised `jax.export.Exported` of the whole extraction."""
    sides = jax.export.symbolic_shape(
        "h, w", constraints=[f"h >= {MIN_SIDE}", f"w >= {MIN_SIDE}"]
    )
    image = jax.ShapeDtypeStruct((*sides, 3), jnp.uint8)
    extract = functools.partial(extract_image, model=model, settings=settings)
    exported = jax.export.export(jax.jit(extract), platforms=PLATFORMS)(image)
    (folder / "model.jaxexport").write_bytes(exported.serialize())
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    notes = (
        f"any height and width from {MIN_SIDE} pixels; each new size is compiled once",
        "jax.export.deserialize(open('model.jaxexport', 'rb').read()).call(image) "
        "runs it; .mlir_module() of the same is its StableHLO",
        "newer versions of JAX read it, older ones may not",
    )
    return ExportSummary(
        "model.jaxexport",
        {"image": signature(image)},
        {name: signature(value) for name, value in outputs.items()},
        notes,
        {"jax": jax.__version__},
    )
