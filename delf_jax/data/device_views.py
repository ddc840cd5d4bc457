"""Two views of an image, drawn where the training runs: `augment.views` in JAX.

The photos lie decoded in the accelerator's memory, padded to one square, so that no
processor has to decode or warp anything while it trains. Draws follow augment.py; the
bits differ, and a view is sampled from the photo as it is stored, never shrunk before.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from delf_jax.data.augment import OUTSIDE, ViewSettings
from delf_jax.files import InputError

MOST_BYTES = 16 * 2**30
_LUMA = (0.299, 0.587, 0.114)


class PhotoStore(NamedTuple):
    """Decoded photos, each in the upper left corner of its square."""

    pixels: UInt8[Any, "N S S 3"]
    sizes: Int[Any, "N 2"]
    """(height, width) of each"""


class Counterpart(NamedTuple):
    """A photo of the same place, to draw the second view of."""

    photo: Int[Any, ""]
    affine: Float32[Any, "2 3"]
    """to its (y, x) from (y, x, 1) of the first photo, both in parts of their sides"""
    region: Float32[Any, "4"]
    """(y_min, x_min, y_max, x_max) of the first photo, in parts, where that holds"""


def make_store(
    photos: Sequence[Callable[[], UInt8[np.ndarray, "_h _w 3"]]],
) -> PhotoStore:
    """Photos in one array, as large as the largest needs.

    Args:
      photos: functions that read them; each is called twice.
    """
    with futures.ThreadPoolExecutor() as pool:
        shapes = pool.map(lambda read: read().shape[:2], photos)
        sizes = np.array(list(shapes), np.int32)
    side = int(sizes.max())
    needed = len(photos) * side**2 * 3
    if needed > MOST_BYTES:
        raise InputError(
            f"data.on_device: {len(photos):,} photos of up to {side} pixels need "
            f"{needed / 2**30:.0f} GiB of the accelerator, of which "
            f"{MOST_BYTES / 2**30:.0f} are allowed; lower data.max_side, or set "
            "data.on_device=False"
        )
    pixels = np.zeros((len(photos), side, side, 3), np.uint8)

    def fill(number: int) -> None:
        height, width = sizes[number]
        pixels[number, :height, :width] = photos[number]()

    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(photos))))
    return PhotoStore(pixels, sizes)


def draw_views(
    store: PhotoStore,
    photo: Int[Array, ""],
    key: jax.Array,
    settings: ViewSettings,
    counterpart: Counterpart | None = None,
) -> dict[str, Array]:
    """Two views of a photo of the store; see `augment.views`.

    image uint8 [2, S, S, 3]; coordinates f32 [2, h, w, 2], both in the photo's frame.

    Args:
      counterpart: whose view is the second, in place of one of the same photo. Only
        cells in its region have coordinates.
    """
    size = store.sizes[photo].astype(jnp.float32)
    longest = size.max()
    keys = jax.random.split(key, 6)
    low, high = (jnp.log(jnp.float32(side)) for side in settings.resolutions)
    high = jnp.maximum(low, jnp.minimum(high, jnp.log(1.25 * longest)))
    resolution = jnp.exp(jax.random.uniform(keys[0], minval=low, maxval=high))
    ratio = jnp.exp(settings.zoom * jax.random.normal(keys[1]))
    half = jnp.minimum(0.5 * settings.size / resolution * longest, size / 2)
    start, span = half, size - 2 * half
    seen: tuple[Any, ...] = store.pixels[photo], size, None
    each = None
    if counterpart is not None:
        seen, each = _both(store, photo, counterpart), 0
        start, end = (
            jnp.clip(corner * size, half, size - half)
            for corner in counterpart.region.reshape(2, 2)
        )
        span = end - start
    centre = start + span * jax.random.uniform(keys[2], (2,)) - 0.5

    cells = _cells(settings)
    axes = (each, None, None, 0, 0, None, None)
    uncoloured, points, inside = jax.vmap(_draw_view, axes)(
        seen,
        size,
        centre,
        resolution * jnp.sqrt(jnp.stack([ratio, 1 / ratio])),
        jax.random.split(keys[3], 2),
        cells,
        settings,
    )
    if counterpart is not None:
        parts = (points + 0.5) / size[None, None, None]
        low, high = counterpart.region.reshape(2, 1, 1, 1, 2)
        inside &= ((parts >= low) & (parts < high)).all(-1)
    shared = points * (resolution / longest)
    nowhere = OUTSIDE * jnp.arange(1, 3, dtype=jnp.float32).reshape(2, 1, 1, 1)
    image = jax.vmap(recolour, (0, 0, None))(
        uncoloured, jax.random.split(keys[4], 2), settings.colour
    )
    return {
        "image": _to_uint8(image),
        "coordinates": jnp.where(inside[..., None], shared, nowhere),
    }


def recolour(
    view: Float[Array, "S S 3"], key: jax.Array, strength: float
) -> Float[Array, "S S 3"]:
    """Another light, sensor and lens, of pixels in [0, 255]; see `augment.recolour`."""
    if strength == 0:
        return view
    keys = jax.random.split(key, 12)

    def one_in(share: float, number: int) -> Array:
        return jax.random.uniform(keys[number]) < share

    def normal(number: int, spread: float, shape: tuple[int, ...] = ()) -> Array:
        return spread * strength * jax.random.normal(keys[number], shape)

    sigma = jax.random.uniform(keys[0], minval=0.5, maxval=1.6)
    x = jnp.where(one_in(0.3, 1), _blur(view, sigma), view) / 255
    x = jnp.maximum(x, 1e-6) ** jnp.exp(normal(2, 0.3))
    gains = jnp.exp(normal(3, 0.12, (1, 1, 3)))
    x = jnp.where(one_in(0.5, 4), x * gains, x)
    saturation = jnp.where(one_in(0.1, 5), 0.0, jnp.exp(normal(6, 0.3)))
    grey = (x @ jnp.array(_LUMA, jnp.float32))[..., None]
    x = grey + saturation * (x - grey)
    x = (x - 0.5) * jnp.exp(normal(7, 0.25)) + 0.5 + normal(8, 0.1)
    spread = 0.05 * strength * jax.random.uniform(keys[9])
    noise = spread * jax.random.normal(keys[10], x.shape)
    x = jnp.where(one_in(0.3, 11), x + noise, x)
    return 255 * jnp.clip(x, 0, 1)


def _both(
    store: PhotoStore, photo: Int[Array, ""], counterpart: Counterpart
) -> tuple[Array, Array, Array]:
    """Pixels and sizes of the two photos, and where each has points of the first.

    That is an affine map, of (y, x, 1) in pixels.
    """
    photos = jnp.stack([photo, counterpart.photo])
    sizes = store.sizes[photos].astype(jnp.float32)
    linear = counterpart.affine[:, :2] / sizes[:1]
    shift = counterpart.affine[:, 2] + 0.5 * linear.sum(1)  # Centres are at integers.
    onto = sizes[1][:, None] * jnp.column_stack([linear, shift])
    onto = onto - jnp.array([[0, 0, 0.5]])
    return store.pixels[photos], sizes, jnp.stack([jnp.eye(2, 3), onto])


def _draw_view(
    seen: tuple[UInt8[Array, "P P 3"], Float[Array, "2"], Float[Array, "2 3"] | None],
    size: Float[Array, "2"],
    centre: Float[Array, "2"],
    resolution: Float[Array, ""],
    key: jax.Array,
    cells: Float[Array, "h w 2"],
    settings: ViewSettings,
) -> tuple[Float[Array, "S S 3"], Float[Array, "h w 2"], Bool[Array, "h w"]]:
    """(a view, its cells in the photo, which of them lie on what is seen).

    Args:
      seen: pixels and size of what is looked at, and where it has the photo's points;
        None: it is the photo.
      resolution: at which the whole photo would be so many pixels long.
    """
    pixels, own_size, onto = seen
    scale = resolution / size.max()
    shift_key, key = jax.random.split(key)
    shift = settings.shift * jax.random.normal(shift_key, (2,)) * settings.size / scale
    homography = _homography(key, settings, centre + shift, scale)
    axis = jnp.arange(settings.size, dtype=jnp.float32)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1)
    points = _apply(homography, cells)
    own, sampled = points, _apply(homography, grid)
    if onto is not None:
        own, sampled = (_move(onto, x) for x in (own, sampled))
    inside = ((own > -1) & (own < own_size[None, None])).all(-1)
    return _sample(pixels, own_size, sampled), points, inside


def _move(
    affine: Float[Array, "2 3"], points: Float[Array, "h w 2"]
) -> Float[Array, "h w 2"]:
    """(y, x) points mapped."""
    y, x = points[..., 0], points[..., 1]
    return jnp.stack([row[0] * y + row[1] * x + row[2] for row in affine], -1)


def _cells(settings: ViewSettings) -> Float[Array, "h w 2"]:
    """(y, x) of the map's cell centres, in pixels of a view."""
    count = -(-settings.size // settings.cell_stride)
    axis = settings.cell_stride * jnp.arange(count, dtype=jnp.float32)
    axis = axis + settings.cell_offset
    return jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1)


def _homography(
    key: jax.Array,
    settings: ViewSettings,
    centre: Float[Array, "2"],
    scale: Float[Array, ""],
) -> Float[Array, "3 3"]:
    """From (x, y, 1) of the view to (x, y, w) of the photo."""
    keys = jax.random.split(key, 3)
    angle = settings.rotation * jax.random.normal(keys[0])
    shear, stretch = settings.shear * jax.random.normal(keys[1], (2,))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    rotation = jnp.array([[cosine, -sine], [sine, cosine]])
    zero, one = jnp.float32(0), jnp.float32(1)
    sheared = jnp.array([[jnp.exp(stretch), shear], [zero, jnp.exp(-stretch)]])
    linear = _product(rotation, sheared) / scale
    bound = settings.perspective
    tilt = jax.random.uniform(keys[2], (2,), minval=-bound, maxval=bound)
    tilt = tilt / settings.size
    middle = jnp.float32((settings.size - 1) / 2)
    to_middle = jnp.array(
        [[one, zero, -middle], [zero, one, -middle], [zero, zero, one]]
    )
    projective = jnp.array([[one, zero, zero], [zero, one, zero], [*tilt, one]])
    rows = [[*linear[0], centre[1]], [*linear[1], centre[0]], [zero, zero, one]]
    return _product(_product(jnp.array(rows), projective), to_middle)


def _product(a: Float[Array, "n n"], b: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """a @ b in full precision: an accelerator would round coordinates to bfloat16."""
    return jnp.matmul(a, b, precision="highest")


def _apply(
    homography: Float[Array, "3 3"], points: Float[Array, "h w 2"]
) -> Float[Array, "h w 2"]:
    """(y, x) points mapped."""
    y, x = points[..., 0], points[..., 1]
    row = [h[0] * x + h[1] * y + h[2] for h in homography]
    return jnp.stack([row[1] / row[2], row[0] / row[2]], -1)


def _sample(
    pixels: UInt8[Array, "P P 3"],
    size: Float[Array, "2"],
    points: Float[Array, "S S 2"],
) -> Float[Array, "S S 3"]:
    """The photo at points, bilinear; beyond its border it is reflected."""
    last = size[None, None] - 1
    period = 2 * jnp.maximum(last, 1)
    folded = jnp.abs(points) % period
    folded = jnp.where(folded > last, jnp.maximum(period - folded, 0), folded)
    folded = jnp.clip(folded, 0, last)
    low = jnp.floor(folded)
    share = folded - low
    first = low.astype(jnp.int32)
    second = jnp.minimum(first + 1, last.astype(jnp.int32))

    def at(y: Array, x: Array) -> Array:
        return pixels[y, x].astype(jnp.float32)

    wy, wx = share[..., :1], share[..., 1:]
    (y0, x0), (y1, x1) = (jnp.moveaxis(taps, -1, 0) for taps in (first, second))
    upper = at(y0, x0) * (1 - wx) + at(y0, x1) * wx
    lower = at(y1, x0) * (1 - wx) + at(y1, x1) * wx
    return upper * (1 - wy) + lower * wy


def _blur(
    view: Float[Array, "S S 3"], sigma: Float[Array, ""]
) -> Float[Array, "S S 3"]:
    """A Gaussian of five taps; the border is reflected."""
    taps = jnp.exp(-0.5 * (jnp.arange(-2, 3, dtype=jnp.float32) / sigma) ** 2)
    taps = taps / taps.sum()
    for axis in (0, 1):
        widths = [(0, 0)] * 3
        widths[axis] = (2, 2)
        padded, length = jnp.pad(view, widths, mode="reflect"), view.shape[axis]
        view = sum(
            weight * jax.lax.slice_in_dim(padded, tap, tap + length, axis=axis)
            for tap, weight in enumerate(taps)
        )
    return view


def _to_uint8(view: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    return (view + 0.5).astype(jnp.uint8)
