"""Feature maps of a large ImageNet network, computed once and sampled where needed.

The teacher is a ResNet-101 v2 (pre-activation, [He2016]) cut after its third block:
1024 channels, stride 16. Its weights are read from a local .npz of arrays; what is
trained sees its maps of training images and nothing else of it.
"""

import pathlib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Bool, Float, UInt8

from delf_jax import files, manifests
from delf_jax.progress import track

# Cell (i, j) of the last map is centred at pixel 16 i + 2: conv1 pads 3 on both sides,
# the max-pool pads only at the end, everything else is symmetric.
STRIDE, OFFSET = 16, 2
UNITS = (3, 4, 23)
_ARRAYS = _CELLS, _BASIS = "maps.npy", "basis.npz"
_LEVEL = [manifests.COUNT]
_SCHEMA = {
    "format": manifests.one_of(1),
    "levels": {str: [_LEVEL]},
    "sha256": {str: str},
}
POWER = 3.0  # of the GeM that makes the teacher's global descriptor.


class TeacherMaps(NamedTuple):
    """Reduced teacher maps of a set of images, in several sizes each."""

    cells: np.ndarray  # float16 [cells, T], memory-mapped.
    levels: dict[str, list[list[int]]]  # id -> rows of (height, width, first cell).
    mean: np.ndarray  # [1024]
    components: np.ndarray  # [T, 1024], orthonormal rows.
    gains: np.ndarray  # [T]: reduced = (map - mean) @ components.T * gains.
    global_mean: np.ndarray  # [1024], of GeM descriptors.
    global_components: np.ndarray  # [T, 1024], orthonormal rows times a gain.


def load_teacher(path: str) -> Callable[[Float[np.ndarray, "H W 3"]], np.ndarray]:
    """A function from RGB in [-1, 1], sides multiples of 32, to maps [h, w, 1024]."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name].astype(np.float32) for name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise files.InputError(
            f"{path}: not readable as teacher weights ({error})"
        ) from None
    arrays = {
        name.removeprefix("resnet_v2_101_"): jnp.asarray(
            _kernel(x) if name.endswith("_weights") else x
        )
        for name, x in found.items()
    }
    forward = jax.jit(_forward)  # weights as constants would compile for ever.
    return lambda image: np.asarray(forward(arrays, image[None])[0])


def _kernel(weights: np.ndarray) -> np.ndarray:
    """HWIO, from HWIO (first layer and its like) or OHWI."""
    hwio = weights.shape[0] == weights.shape[1] and weights.shape[0] in (1, 3, 7)
    return weights if hwio else weights.transpose(1, 2, 3, 0)


def _forward(arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def conv(x, name, stride=1, pad=0):
        kernel, layout = arrays[f"{name}_weights"], ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x, kernel, [stride] * 2, [(pad, pad)] * 2, dimension_numbers=layout
        )
        for suffix in ("_Conv2D_bias", "_biases", "_bias"):
            if name + suffix in arrays:
                return y + arrays[name + suffix].reshape(1, 1, 1, -1)
        return y

    def activate(x, name):
        gain = arrays[f"{name}mul_0_param"].reshape(1, 1, 1, -1)
        return jax.nn.relu(x * gain + arrays[f"{name}add_param"].reshape(1, 1, 1, -1))

    x = nn.max_pool(conv(x, "conv1", 2, 3), (3, 3), (2, 2), ((0, 1), (0, 1)))
    for block, units in enumerate(UNITS, 1):
        for unit in range(1, units + 1):
            name = f"block{block}_unit_{unit}_bottleneck_v2_"
            stride = 2 if unit == units and block < 3 else 1
            y = activate(x, f"{name}preact_FusedBatchNorm_")
            kept = x[:, ::stride, ::stride]
            x = conv(y, f"{name}shortcut", stride) if unit == 1 else kept
            y = jax.nn.relu(conv(y, f"{name}conv1"))
            y = jax.nn.relu(conv(y, f"{name}conv2", stride, 1))
            x = x + conv(y, f"{name}conv3")
    return activate(x, "block4_unit_1_bottleneck_v2_preact_FusedBatchNorm_")


def build_maps(
    teacher_path: str,
    images: Sequence[tuple[str, Callable[[], UInt8[np.ndarray, "H W 3"]]]],
    directory: str,
    *,
    long_sides: Sequence[int],
    dimension: int,
    fit_on: int = 200,
) -> TeacherMaps:
    """Computes, reduces and stores the teacher's maps of `images`, or finds them there.

    Args:
      images: (id, function that reads the image).
      directory: where `maps.npy`, `maps.json` and `basis.npz` are written.
      long_sides: the sizes, in pixels; larger than an image's own side is left out,
        but the smallest is always there.
      dimension: T, of the principal subspace that is kept.
      fit_on: this many of the first images fit the subspace.
    """
    folder = pathlib.Path(directory)
    if (folder / "maps.json").exists():
        return open_maps(directory)
    forward = load_teacher(teacher_path)
    fitted = [forward(_resized(read(), long_sides[0])) for _, read in images[:fit_on]]
    basis = _fit_basis(fitted, dimension)
    levels: dict[str, list[list[int]]] = {}
    rows, first = [], 0
    with track("teacher maps", len(images)) as advance:
        for identifier, read in images:
            image, levels[identifier] = read(), []
            for side in long_sides:
                if side > max(image.shape[:2]) and levels[identifier]:
                    continue
                channels = forward(_resized(image, side)) - basis["mean"]
                reduced = channels @ basis["components"].T * basis["gains"]
                height, width = reduced.shape[:2]
                levels[identifier].append([height, width, first])
                rows.append(reduced.reshape(-1, dimension).astype(np.float16))
                first += height * width
            advance()
    with files.atomic_write(folder / _CELLS) as file:
        np.save(file, np.concatenate(rows))
    with files.atomic_write(folder / _BASIS) as file:
        np.savez(file, **basis)  # type: ignore[arg-type]  # no array is allow_pickle.
    sums = {name: files.sha256_of(folder / name) for name in _ARRAYS}
    content = {"format": 1, "levels": levels, "sha256": sums}
    manifests.write_manifest(folder / "maps.json", content)
    return open_maps(directory)


def open_maps(directory: str) -> TeacherMaps:
    """Maps that `build_maps` stored; InputError if a file of them is damaged.

    All are read for that: 2 s a GB. Those of version 0.1 have no checksums.
    """
    folder = pathlib.Path(directory)
    repair = f"remove {folder}, and the next training computes these maps again"
    content = manifests.read_manifest(folder / "maps.json", {}, repair)
    if content.get("format") != 1:
        content = {"format": 1, "levels": content, "sha256": {}}
    manifests.check(content, _SCHEMA, folder / "maps.json", repair)
    for name in _ARRAYS:
        with files.reading(folder / name):
            found = files.sha256_of(folder / name)
        if found != content["sha256"].get(name, found):
            raise files.InputError(
                f"{folder / name}: damaged, its checksum differs; {repair}"
            )
    try:
        with (folder / _BASIS).open("rb") as file, np.load(file) as basis:
            cells = np.load(folder / _CELLS, mmap_mode="r")
            return TeacherMaps(cells, content["levels"], **basis)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise files.InputError(
            f"{folder}: not teacher maps ({error!s:.100}); {repair}"
        ) from None


def sample(
    maps: TeacherMaps,
    identifier: str,
    points: Float[np.ndarray, "N 2"],
    resolution: float,
) -> tuple[Float[np.ndarray, "N T"], Bool[np.ndarray, " N"]]:
    """The teacher's reduced features at `points`, and which points its map covers.

    Args:
      points: (y, x), relative to the image's height and width, 0 to 1.
      resolution: long side, in pixels, at which the student sees the whole image; the
        level nearest to it (in ratio) answers, so that both see details equally large.
    """
    levels = maps.levels[identifier]
    sides = np.array([max(level[:2]) * STRIDE for level in levels], np.float64)
    height, width, first = levels[int(np.abs(np.log(sides / resolution)).argmin())]
    pixels = points * [height * STRIDE, width * STRIDE] - 0.5
    y, x = ((pixels - OFFSET) / STRIDE).T
    valid = (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top = np.minimum(y.astype(int), height - 2)
    left = np.minimum(x.astype(int), width - 2)
    dy, dx = (y - top)[:, None], (x - left)[:, None]
    corner = first + top * width + left
    taps = [maps.cells[corner + o].astype(np.float32) for o in (0, 1, width, width + 1)]
    upper = taps[0] * (1 - dx) + taps[1] * dx
    lower = taps[2] * (1 - dx) + taps[3] * dx
    return (upper * (1 - dy) + lower * dy).astype(np.float32), valid


def global_target(
    maps: TeacherMaps, features: Float[np.ndarray, "N T"]
) -> Float[np.ndarray, " T"]:
    """The teacher's GeM descriptor of sampled features, centred and half-whitened."""
    channels = (features / maps.gains) @ maps.components + maps.mean
    projected = maps.global_components @ (_pool(channels) - maps.global_mean)
    return (projected / np.linalg.norm(projected)).astype(np.float32)


def _pool(channels: np.ndarray) -> np.ndarray:
    """The normalised GeM descriptor of cells [N, 1024]."""
    pooled = np.mean(np.maximum(channels, 1e-6) ** POWER, 0) ** (1 / POWER)
    return pooled / np.linalg.norm(pooled)


def _resized(image: UInt8[np.ndarray, "H W 3"], long_side: int) -> np.ndarray:
    """The image in [-1, 1] with both sides multiples of 32: few sizes to compile."""
    scale = long_side / max(image.shape[:2])
    height, width = (max(64, 32 * round(n * scale / 32)) for n in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 127.5 - 1


def _fit_basis(maps: Iterable[np.ndarray], dimension: int) -> dict[str, np.ndarray]:
    """Principal subspaces of cells and of the GeM descriptors of windows.

    Both are half-whitened: what is common to all images weighs less, as descriptors
    that are compared should have it, and noise is not blown up.
    """
    rng = np.random.default_rng(0)
    cells = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    mean, vectors, variances = _principal(cells, dimension)
    gains = variances**-0.25
    gains /= np.sqrt(np.mean(gains**2 * variances))  # unit mean square of a channel.
    descriptors = []
    for channels in maps:
        for _ in range(8):
            height, width = channels.shape[:2]
            h, w = rng.integers(min(4, height), height + 1), rng.integers(4, width + 1)
            y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            window = channels[y : y + h, x : x + w]
            descriptors.append(_pool(window.reshape(-1, channels.shape[-1])))
    global_mean, directions, spread = _principal(np.array(descriptors), dimension)
    basis = {
        "mean": mean,
        "components": vectors.T,
        "gains": gains,
        "global_mean": global_mean,
        "global_components": (directions * spread**-0.25).T,
    }
    return {name: value.astype(np.float32) for name, value in basis.items()}


def _principal(samples: np.ndarray, dimension: int) -> tuple[np.ndarray, ...]:
    """Mean [D], leading eigenvectors [D, dimension] and variances of samples [N, D]."""
    mean = samples.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(samples - mean, rowvar=False))
    return mean, vectors[:, ::-1][:, :dimension], variances[::-1][:dimension]
