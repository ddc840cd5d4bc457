"""Boxes of detectors: anchors, how boxes are coded by them, matching and suppression.

Boxes are (y_min, x_min, y_max, x_max), of one image; callers vmap.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

Boxes = Float[Array, "_N 4"]

# Of what `match` gives an anchor that has no box.
BACKGROUND, IGNORED = -1, -2
# Offsets of centres and logarithms of sides are multiplied by these, as in the
# released detectors, which brings both to about one.
CENTRE_SCALE, SIDE_SCALE = 10.0, 5.0
# No side grows or shrinks more than a thousandfold: an exponential stays finite.
_MOST_LOG = 7.0


def box_areas(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Areas; of a box whose ends are swapped 0."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def intersection_over_union(
    boxes: Float[Array, "N 4"], others: Float[Array, "M 4"]
) -> Float[Array, "N M"]:
    """The share of the union of each two boxes that both cover; 0 of empty ones."""
    low = jnp.maximum(boxes[:, None, :2], others[None, :, :2])
    high = jnp.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = box_areas(jnp.concatenate([low, high], axis=-1))
    union = box_areas(boxes)[:, None] + box_areas(others)[None] - both
    return jnp.where(union > 0, both / jnp.where(union > 0, union, 1), 0)


def encode_boxes(
    boxes: Float[Array, "N 4"], anchors: Float[Array, "N 4"]
) -> Float[Array, "N 4"]:
    """Offsets (y, x, height, width) of boxes from their anchors [Ren2015].

    A box without an extent is coded as a very small one.
    """
    centres, sides = _centres_and_sides(boxes)
    own_centres, own_sides = _centres_and_sides(anchors)
    moved = CENTRE_SCALE * (centres - own_centres) / own_sides
    grown = jnp.log(jnp.maximum(sides, 1e-8) / own_sides)
    return jnp.concatenate([moved, SIDE_SCALE * grown], axis=-1)


def decode_boxes(
    offsets: Float[Array, "N 4"], anchors: Float[Array, "N 4"]
) -> Float[Array, "N 4"]:
    """The boxes of which `encode_boxes` made these offsets."""
    own_centres, own_sides = _centres_and_sides(anchors)
    centres = own_centres + own_sides * offsets[..., :2] / CENTRE_SCALE
    grown = jnp.clip(offsets[..., 2:] / SIDE_SCALE, -_MOST_LOG, _MOST_LOG)
    half = own_sides * jnp.exp(grown) / 2
    return jnp.concatenate([centres - half, centres + half], axis=-1)


def grid_anchors(
    cells: tuple[int, int], shapes: Sequence[tuple[float, float]]
) -> Float32[np.ndarray, "N 4"]:
    """Anchors of these (height, width) about each cell's centre, row by row.

    In parts of the image, as are the shapes.
    """
    rows, columns = cells
    y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    centres = np.stack([grid_y, grid_x], axis=-1)[:, :, None]
    half = np.array(shapes)[None, None] / 2
    boxes = np.concatenate([centres - half, centres + half], axis=-1)
    return boxes.reshape(-1, 4).astype(np.float32)


def ssd_shapes(
    maps: int, lowest: float = 0.2, highest: float = 0.95
) -> list[list[tuple[float, float]]]:
    """By map, the (height, width) of its anchors, as in the released SSDs [Liu2016].

    Three on the finest map, six on each of the others: five ratios of the sides, and a
    square between this map's scale and the next one's.
    """
    scales = [*np.linspace(lowest, highest, maps).tolist(), 1.0]
    shapes = []
    for number, (scale, following) in enumerate(
        zip(scales[:-1], scales[1:], strict=True)
    ):
        sized = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)]
        sized.append((float(np.sqrt(scale * following)), 1.0))
        if number == 0:
            sized = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        shapes.append([(size / r**0.5, size * r**0.5) for size, r in sized])
    return shapes


def match_anchors(
    overlaps: Float[Array, "N A"],
    valid: Bool[Array, " N"],
    positive: float = 0.5,
    negative: float = 0.5,
    forced: bool = True,
) -> Int[Array, " A"]:
    """The box of each anchor: its row, BACKGROUND or IGNORED.

    An anchor has the box that it overlaps most, if that is `positive` or more; below
    `negative` it is background, in between ignored. Each box has at least the anchor
    that overlaps it most; of two that share one, the first.

    Args:
      overlaps: of boxes, some of which are padding, and anchors.
      valid: which boxes are no padding.
      forced: False: a box that no anchor overlaps enough has none.
    """
    overlaps = jnp.where(valid[:, None], overlaps, -1)
    best = overlaps.max(axis=0)
    chosen = jnp.where(best >= positive, overlaps.argmax(axis=0), IGNORED)
    chosen = jnp.where(best < negative, BACKGROUND, chosen)
    if not forced:
        return chosen
    columns = jnp.arange(overlaps.shape[1])
    owned = (overlaps.argmax(axis=1)[:, None] == columns[None]) & valid[:, None]
    return jnp.where(owned.any(axis=0), owned.argmax(axis=0), chosen)


def suppress(
    boxes: Float[Array, "N 4"], scores: Float[Array, " N"], most: int, iou: float
) -> tuple[Int[Array, " most"], Bool[Array, " most"]]:
    """Rows of at most so many boxes, best first, and which places hold one.

    Greedy: the best of what is left, and then without what overlaps it more than `iou`.
    What has a score of -inf is never chosen; of equal scores the first is.
    """

    def choose(place: Array, state: tuple) -> tuple:
        left, rows, valid = state
        row = left.argmax()
        valid = valid.at[place].set(left[row] > -jnp.inf)
        rows = rows.at[place].set(row)
        overlaps = intersection_over_union(boxes[row][None], boxes)[0]
        left = jnp.where(overlaps > iou, -jnp.inf, left).at[row].set(-jnp.inf)
        return left, rows, valid

    nothing = jnp.zeros(most, scores.argmax().dtype), jnp.zeros(most, bool)
    _, rows, valid = jax.lax.fori_loop(0, most, choose, (scores, *nothing))
    return rows, valid


def _centres_and_sides(
    boxes: Float[Array, "*N 4"],
) -> tuple[Float[Array, "*N 2"], Float[Array, "*N 2"]]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
