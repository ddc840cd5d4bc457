"""What a training on a borrowed machine takes along: photos, teacher, wheels.

    python main.py convert efficientnet-lite2-*.pth --out=runs/lite2
    python benchmarks/device_pack.py [--teacher=runs/lite2] [--start=MODEL]

Writes .device/, which git ignores and benchmarks/device_train.sh reads: the photos that
a config trains on, small; the teacher in float16; the packages that such a machine
lacks, for Python 3.12 on x86-64. No held-out photo is in it. `--start` adds a model
that the training then starts from.
"""

import argparse
import csv
import io
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent import futures
from functools import partial

import cv2
from ml_collections import ConfigDict
from PIL import Image

from delf_jax.data.image_lists import LabelledImage, list_records, read_record
from delf_jax.extraction.model_folder import read_model, save_model
from delf_jax.files import InputError
from delf_jax.progress import track
from delf_jax.training.config import read_training_config
from delf_jax.training.inputs import draw_landmarks

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACK = ROOT / ".device"
# 64 MiB travel to such a machine, of which the tree takes 11.
MOST_BYTES = 52 * 2**20
SIDE = 256  # pixels of a longer side: smaller and better beats larger and worse.
# WebP is a third smaller than JPEG of the same error. The best that fits is taken.
QUALITIES = (85, 80, 75, 70, 65, 60, 50, 40)
SAMPLE = 40  # every how many photos one is measured.

# What `train` imports beside the packages of a machine that has JAX, Flax and PyTorch.
WHEELS = (
    "array_record clu dm-tree docstring_parser google-crc32c googleapis-common-protos "
    "grain immutabledict importlib_resources ml_collections portpicker shtab "
    "simple-parsing simplejpeg tensorboardX tensorflow-datasets tensorflow-metadata "
    "termcolor toml"
).split()
SOURCES = ("promise",)  # published without a wheel; pure Python.
TAGS = ("2_28_x86_64", "2_27_x86_64", "2_24_x86_64", "2_17_x86_64", "2014_x86_64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "delg_tiny.py"))
    parser.add_argument("--teacher", default="runs/lite2", help="a model folder")
    parser.add_argument("--start", default="", help="a model folder to start from")
    parser.add_argument("--no_wheels", action="store_true", help="pack no packages")
    options, overrides = parser.parse_known_args()
    config = read_training_config(options.config, overrides)
    shutil.rmtree(PACK, ignore_errors=True)
    if not options.no_wheels:
        download_wheels(PACK / "wheels")
    for name, source in (("teacher", options.teacher), ("start", options.start)):
        if source:
            known, variables = read_model(source)
            parts = (known[n] for n in ("architecture", "extraction", "provenance"))
            architecture, *described = parts
            save_model(PACK / name, architecture, variables, *described)
    pack_photos(sources_of(config), PACK / "photos", MOST_BYTES - size_of(PACK))
    for path in (*sorted(PACK.iterdir()), PACK):
        print(f"{size_of(path) / 2**20:6.1f} MiB  {path.relative_to(ROOT)}")
    if size_of(PACK) > MOST_BYTES:
        raise InputError(f"{PACK}: more than {MOST_BYTES / 2**20:.0f} MiB")


def download_wheels(folder: pathlib.Path) -> None:
    """Fills a folder with the wheels of the versions that `make` installs."""
    pip = [sys.executable, "-m", "pip"]
    given = ["--quiet", "--no-deps", "-c", str(ROOT / "constraints-py312.txt")]
    target = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    target += [f"--platform=manylinux{'_' * ('_' in t[:2])}{t}" for t in TAGS]
    download = [*pip, "download", *given, *target, "-d", str(folder), *WHEELS]
    subprocess.run(download, check=True)
    build = [*pip, "wheel", *given, "-w", str(folder), *SOURCES]
    subprocess.run(build, check=True)


def sources_of(config: ConfigDict) -> dict[str, list[LabelledImage]]:
    """The photos of each source that are trained on; landmarks are drawn first."""
    found = {}
    for name, source in config.data.sources.to_dict().items():
        if "landmarks" in source:
            source["path"] = draw_landmarks(source, config.data.directory)
        known = source.keys() & {"path", "images", "label_column", "split"}
        records = list_records(**{field: source[field] for field in known})
        held_out = set(source.get("holdout", ()))
        if unknown := held_out - {record.label for record in records}:
            raise InputError(f"data.sources.{name}.holdout: no class {min(unknown)!r}")
        found[name] = [r for r in records if r.label not in held_out]
    return found


def pack_photos(
    sources: dict[str, list[LabelledImage]], folder: pathlib.Path, room: int
) -> None:
    """Writes the photos of each source and its labels.csv, in `room` bytes."""
    every = [record for records in sources.values() for record in records]
    with futures.ThreadPoolExecutor() as pool:
        sample = every[::SAMPLE]
        for quality in QUALITIES:
            sizes = map(len, pool.map(partial(encode, quality=quality), sample))
            if 1.05 * sum(sizes) * len(every) / len(sample) <= room:
                break
        print(f"{len(every)} photos, WebP of quality {quality}", flush=True)
        encoded = pool.map(partial(encode, quality=quality), every)
        with track("photos", len(every)) as advance:
            for name, records in sources.items():
                write_source(folder / name, records, encoded.__next__, advance)


def write_source(
    folder: pathlib.Path,
    records: list[LabelledImage],
    encoded: Callable[[], bytes],
    advance: Callable[[], None],
) -> None:
    """Writes a source's photos, numbered, and labels.csv.

    Args:
      encoded: gives the next photo's file.
    """
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "label"))
        for number, record in enumerate(records):
            image = f"{number:05d}.webp"
            (folder / image).write_bytes(encoded())
            table.writerow((image, record.label))
            advance()


def encode(record: LabelledImage, quality: int) -> bytes:
    """The photo as WebP, shrunk to SIDE."""
    image = read_record(record)
    height, width = image.shape[:2]
    if (scale := SIDE / max(height, width)) < 1:
        size_xy = max(round(scale * width), 1), max(round(scale * height), 1)
        image = cv2.resize(image, size_xy, interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=quality)
    return file.getvalue()


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


if __name__ == "__main__":
    main()
