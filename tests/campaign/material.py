"""What commands are given: photos, models, tables, weights and archives, all small.

Photos, model and a training are those that version 0.1 left in tests/fixtures.
"""

import contextlib
import gzip
import io
import json
import lzma
import pathlib
import pickle
import shutil
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "v0.1"
ROOT = pathlib.Path(__file__).parents[2]
PLACES = 3  # of the drawn benchmark and landmarks

# The smallest network, four steps and two checkpoints.
TRAINING = (
    "--config.model.width=2",
    "--config.model.attention_width=4",
    "--config.model.reduced_dimension=8",
    "--config.model.global_dimension=8",
    "--config.optimizer.name=sgd",
    "--config.batch_size=2",
    "--config.steps=4",
    "--config.devices=1",
    "--config.images_every=0",
    "--config.log_every=1",
    "--config.checkpoint_every=2",
    "--config.keep_checkpoints=2",
    "--config.data.threads=1",
    "--config.data.sources.images.path={given}/images",
    "--config.data.directory=prepared",
    "--config.extraction.image_scales=(0.5,1.0)",
    "--config.extraction.global_scales=(1,)",
)


def make(folder: pathlib.Path) -> None:
    """Fills a folder."""
    shutil.copytree(FIXTURES / "images", folder / "images")
    shutil.copytree(FIXTURES / "training" / "model", folder / "model")
    shutil.copytree(FIXTURES / "training", folder / "trained")
    shutil.copy(FIXTURES / "boxes.csv", folder)
    shutil.copytree(folder / "images", folder / "copy")
    _make_photos(folder)
    _make_lists(folder)
    _make_benchmark(folder / "drawn")
    _make_landmarks(folder)
    _make_weights(folder / "weights")
    _make_detector(folder / "detector")
    _make_archives(folder / "server")
    sweep = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from configs import tiny\n\nget_config = tiny.get_config\n\n\n"
        "def sweep(add):\n    add(seed=1)\n    add(seed=2)\n"
    )
    (folder / "sweep.py").write_text(sweep)


def _noise(seed: int, height: int = 64, width: int = 64):
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _make_photos(folder: pathlib.Path) -> None:
    """more/: photos to add; photos/: one for each format."""
    from PIL import Image

    for number in range(2):
        path = folder / "more" / "d" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_noise(number)).save(path)
    shutil.copytree(folder / "more" / "d", folder / "training")
    photos = folder / "photos"
    photos.mkdir()
    image = Image.fromarray(_noise(7))
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tif", "ppm"):
        image.save(photos / f"photo.{suffix}")
    image.save(photos / "packed.tif", compression="tiff_lzw")
    image.save(photos / "progressive.jpg", progressive=True)
    image.convert("CMYK").save(photos / "cmyk.jpg")


def _make_lists(folder: pathlib.Path) -> None:
    """Tables and configs that name images of images/."""
    ids = ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg", "c/0.jpg", "c/1.jpg"]
    lists = {id: [other for other in ids if other != id] for id in ids[:3]}
    (folder / "candidates.json").write_text(json.dumps(lists))
    rows = [f"{id},{' '.join(others)}\n" for id, others in lists.items()]
    (folder / "candidates.csv").write_text("id,images\n" + "".join(rows))
    rows = [f"{folder}/images/{id},{id[0]}\n" for id in ids]
    (folder / "labels.csv").write_text("image,label\n" + "".join(rows))
    pairs = "a/0.jpg,a/1.jpg\nb/0.jpg,b/1.jpg\nc/0.jpg,c/1.jpg\n"
    (folder / "list.txt").write_text("".join(f"{folder}/images/{id}\n" for id in ids))
    (folder / "pairs.txt").write_text("a/0.jpg a/1.jpg\nb/0.jpg c/1.jpg\n")
    (folder / "pairs.csv").write_text("query,positive\n" + pairs)
    (folder / "delf.pbtxt").write_text(
        "use_local_features: true\nuse_global_features: true\nimage_scales: 0.5\n"
        "image_scales: 1.0\nmax_image_size: 160\nis_tf2_exported: true\n"
        "delf_local_config {\n  use_pca: false\n  max_feature_num: 100\n"
        "  score_threshold: 0.0\n}\ndelf_global_config {\n  use_pca: false\n"
        "  image_scales_ind: 1\n}\n"
    )
    (folder / "aggregation.pbtxt").write_text(
        "codebook_size: 8\nfeature_dimensionality: 8\naggregation_type: ASMK_STAR\n"
        "use_l2_normalization: false\ncodebook_path: 'codebook'\nnum_assignments: 1\n"
    )


def _make_benchmark(folder: pathlib.Path) -> None:
    """A ground truth in its three forms, jpg/ beside it."""
    import numpy as np
    import scipy.io
    from PIL import Image

    (folder / "jpg").mkdir(parents=True)
    views = {f"{place}{view}": (place, view) for place in "abc" for view in range(4)}
    for name, (place, view) in views.items():
        pixels = _noise(ord(place)).astype(int) + np.random.default_rng(view).integers(
            -20, 20, (64, 64, 3)
        )
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / "jpg" / f"{name}.jpg")
    index = [name for name, (_, view) in views.items() if view]
    gnd = [
        {"bbx": [1, 2, 60, 62], "easy": [i], "hard": [i + 1], "junk": [i + 2]}
        for i in (0, 3, 6)
    ]
    truth = {"imlist": index, "qimlist": ["a0", "b0", "c0"], "gnd": gnd}
    (folder / "gnd_drawn.json").write_text(json.dumps(truth))
    (folder / "gnd_drawn.pkl").write_bytes(pickle.dumps(truth))
    lists = ("easy", "hard", "junk")
    rows = [(each["bbx"], *(np.array(each[n]) + 1 for n in lists)) for each in gnd]
    cells = {
        "gnd": np.array(rows, [(name, object) for name in ("bbx", *lists)]),
        **{name: np.array(truth[name], object) for name in ("imlist", "qimlist")},
    }
    scipy.io.savemat(folder / "gnd_drawn.mat", cells)


def _make_landmarks(folder: pathlib.Path) -> None:
    """gldv2/ as released, tfrecords/ and sfm/ of the same photos."""
    from delf_jax.formats.tensorflow import tfrecord
    from tests.helpers import gldv2_miniature

    gldv2_miniature.write(folder / "gldv2")
    photos = sorted((folder / "images").rglob("*.jpg"))
    examples = [
        tfrecord.Example(f"{n:016x}", photo.read_bytes(), n // 2, 64, 64)
        for n, photo in enumerate(photos)
    ]
    tfrecord.write_examples(folder / "tfrecords", "train", examples, 2)
    ids = [f"{n:032x}" for n in range(6)]
    for id, photo in zip(ids, photos, strict=True):
        path = folder / "sfm" / "ims" / id[-2:] / id[-4:-2] / id[-6:-4] / id
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, path)
    part = {"cids": ids, "cluster": [0, 0, 1, 1, 2, 2], "qidxs": [0], "pidxs": [1]}
    table = folder / "sfm" / "db" / "retrieval-SfM-120k.pkl"
    table.parent.mkdir()
    table.write_bytes(pickle.dumps({"train": part, "val": part}))


def _make_detector(folder: pathlib.Path) -> None:
    """One with random weights, whose boxes all have low scores."""
    from tests.helpers import detectors

    detectors.save_random(folder)


def _make_weights(folder: pathlib.Path) -> None:
    """One network in the formats of weights."""
    import numpy as np
    import safetensors.numpy

    from tests.conversion import test_convert
    from tests.formats.pickles import test_pytorch
    from tests.helpers import foreign_weights, naive_resnet, tensorflow_files

    folder.mkdir()
    rng = np.random.default_rng(0)
    foreign_weights.delf_of_tensorflow_1(rng, folder / "checkpoint")
    slim = foreign_weights.slim_weights(rng) | foreign_weights.unknown_heads(rng)
    test_convert.saved_model_of(slim, folder / "saved_model")
    named = naive_resnet.random_weights(
        naive_resnet.TORCHVISION, foreign_weights.UNITS, foreign_weights.WIDTH, rng
    )
    safetensors.numpy.save_file(named, folder / "resnet.safetensors")
    with _pretended(test_pytorch.FAKES):
        tensors = {
            n: test_pytorch.Tensor(np.ascontiguousarray(x)) for n, x in named.items()
        }
        test_pytorch.write_zip(folder / "resnet.pth", tensors)
        test_pytorch.write_legacy(folder / "legacy.pth", tensors)
    keras = naive_resnet.random_weights(
        naive_resnet.APPLICATIONS, foreign_weights.UNITS, foreign_weights.WIDTH, rng
    )
    test_convert.write_h5(folder / "resnet.h5", keras)
    graph = tensorflow_files.frozen_graph(rng.normal(size=(2, 3)).astype(np.float32))
    (folder / "graph.pb").write_bytes(graph)


@contextlib.contextmanager
def _pretended(modules: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """A context in which what torch saves can be written without it."""
    for name, content in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    yield
    for name in modules:
        del sys.modules[name]


def _make_archives(folder: pathlib.Path) -> None:
    """What a server offers: archives of a photo and a table."""
    folder.mkdir()
    photo = _png()
    for name, mode in (
        ("photos.tar", "w"),
        ("photos.tar.gz", "w:gz"),
        ("photos.tar.xz", "w:xz"),
    ):
        with tarfile.open(folder / name, mode) as archive:
            for number in range(3):
                member = tarfile.TarInfo(f"photos/{number}.png")
                member.size = len(photo)
                archive.addfile(member, io.BytesIO(photo))
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("photos/0.png", photo)
    (folder / "table.csv").write_text(
        "id\n" + "".join(f"{n:016x}\n" for n in range(5000))
    )
    (folder / "table.csv.gz").write_bytes(gzip.compress(b"id\n1\n"))
    (folder / "table.csv.xz").write_bytes(lzma.compress(b"id\n1\n"))


def _png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_noise(3, 128, 128)).save(file, "png")
    return file.getvalue()
