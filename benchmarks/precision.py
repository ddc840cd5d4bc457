"""What bfloat16 leaves of the rankings of real photographs.

    python benchmarks/precision.py [--photos=DIR] [--model=FOLDER] [--index=DIR]

The first validation of photos.py, by features of float32 and of bfloat16, by the global
descriptor alone and reranked; with the paired gain of bfloat16. On a processor without
instructions for bfloat16, where an extraction would take float32 in its place, JAX
computes it all the same, slowly.
"""

import argparse
import pathlib
import tempfile

import photos

from delf_jax import runtime
from delf_jax.extraction import engines, model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.search.matching import verification_settings

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=photos.SHARED / "photos", type=pathlib.Path)
    parser.add_argument("--model", help="folder of a model; default: the bundled one")
    parser.add_argument("--index", type=pathlib.Path, help="folder to keep features in")
    options = parser.parse_args()
    runtime.enable_compilation_cache()
    engines._bfloat16_pays = lambda: True
    with tempfile.TemporaryDirectory() as scratch:
        run(options, options.index or pathlib.Path(scratch))


def run(options: argparse.Namespace, kept: pathlib.Path) -> None:
    """Both precisions; features of each in a folder of `kept`."""
    dataset = photos.read_first(options.photos)
    model = model_folder.load_model(options.model)
    how = verification_settings(model=model)
    ranked = {}
    for precision in PRECISIONS:
        settings = settings_for(model)._replace(precision=precision)
        inputs = photos.open_inputs(dataset, kept / precision, model, settings)
        verified = photos.verify(precision, dataset, inputs, how)
        ranked[f"{precision}, alone"] = photos.rank(verified, None)
        ranked[f"{precision}, reranked"] = photos.rank(verified, how)
    for kind in ("alone", "reranked"):
        names = [f"{precision}, {kind}" for precision in PRECISIONS]
        photos.print_scores(dataset, {name: ranked[name] for name in names})


if __name__ == "__main__":
    main()
