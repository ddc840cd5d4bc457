"""A few photos of noise and their index, for tests of what is made of them."""

import shutil

import numpy as np
from PIL import Image

from delf_jax import files, manifests
from delf_jax.index import photo_index
from delf_jax.search import query

NAMES = ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/c/3.png")


def draw_photo(path, seed):
    """Coarse noise: of one size, so that a single program is compiled."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((128, 96), Image.Resampling.BICUBIC).save(path)


def index_photos(folder, model, settings):
    """Fills a folder with photos/ and their index."""
    for seed, name in enumerate(NAMES):
        draw_photo(folder / "photos" / name, seed)
    photo_index.make_index(
        [folder / "photos"], folder / "index", model, settings, progress=False
    )
    return folder


def copy_photos(folder, tmp_path):
    """A copy of photos and index, to be changed."""
    for name in ("photos", "index"):
        shutil.copytree(folder / name, tmp_path / name, copy_function=shutil.copy2)
    path = tmp_path / "index" / "index.json"
    places = files.read_json(path)
    root = places["root"].replace(str(folder), str(tmp_path))
    manifests.write_manifest(path, places | {"root": root})
    return tmp_path


def ask(folder, model, settings, *names, **kwargs):
    index = photo_index.open_index(folder / "index")
    queries = [folder / name for name in names]
    return list(query.search(index, queries, model, settings, **kwargs))
