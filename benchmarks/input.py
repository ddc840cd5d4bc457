"""Training images a second that one core reads, and the cores that a step needs so.

    python benchmarks/input.py [--consumes=2000] [--images=32]

Photos of 1024 x 768 pixels are drawn and stored as `prepare` does. Then one core reads
them as a training does: the two views of the bundled model, and the single crops of
[DELG] and of later work. The peer decodes and crops with Pillow, as torchvision does.
"""

import argparse
import io
import statistics

import numpy as np
from PIL import Image
from rounds import interleave, keep_to_one_core

from delf_jax import images
from delf_jax.data import augment, prepare
from delf_jax.data.augment import ViewSettings
from delf_jax.synthetic import landmarks

SIZE = (768, 1024)
PAIR = ViewSettings(size=192)
CROP = ViewSettings(kind="crop", size=321, colour=0.0)
MODERN = ViewSettings(kind="crop", size=512, area=(0.25, 1.0), flip=True)


def views(example: dict, rng: np.random.Generator) -> dict:
    image = images.decode_image(example["encoded"])
    return augment.views({**example, "image": image}, rng, PAIR)


def by_pillow(example: dict, rng: np.random.Generator) -> np.ndarray:
    """Decodes all of the photo, crops, and resizes bilinearly with antialiasing."""
    image = Image.open(io.BytesIO(example["encoded"])).convert("RGB")
    top, left, bottom, right = augment.draw_box(rng, SIZE, CROP)
    box, size = (left, top, right, bottom), (CROP.size, CROP.size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--consumes", type=float, default=2000.0)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_to_one_core()
    examples = []
    for seed in range(options.images):
        landmark = landmarks.draw_landmark(landmarks.HELD_OUT + seed)
        photo = landmarks.draw_view(landmark, 0, SIZE).image
        encoded = images.encode_jpeg(photo, prepare.JPEG_QUALITY)
        examples.append({"id": str(seed), "encoded": encoded, "label": 0})
    peer = "Pillow, crop of 321 pixels"
    readers = {
        peer: by_pillow,
        "crop of 321 pixels [DELG]": lambda e, rng: augment.crop(e, rng, CROP),
        "crop of 512, flips and colours": lambda e, rng: augment.crop(e, rng, MODERN),
        "pair of views of 192 pixels": views,
    }

    def read_all(read) -> None:
        rng = np.random.default_rng(0)
        for example in examples:
            read(example, rng)

    runs = {name: lambda read=read: read_all(read) for name, read in readers.items()}
    times = interleave(runs, options.rounds)
    reference = statistics.median(times[peer])
    print(
        f"one core, {options.images} photos; cores for {options.consumes:g} images/s:"
    )
    for name, seconds in times.items():
        median = statistics.median(seconds)
        rate = options.images / median
        print(
            f"  {name:32s} {rate:7.1f} images/s   {reference / median:5.2f}x   "
            f"{options.consumes / rate:6.1f} cores"
        )


if __name__ == "__main__":
    main()
