"""Classification of descriptors: softmax with a margin, on one device or in pieces.

Margins: ArcFace [Deng2019] as in [DELG], CosFace [Wang2018], one for each class by its
number of images [Ha2020].
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Margin = float | Float[Array, " B"]
NOTHING = -1e30  # logit of a class that does not exist; -inf has no gradient to use.


def arcface_logits(
    cosines: Float[Array, "B C"], labels: Int[Array, " B"], margin: Margin, scale: float
) -> Float[Array, "B C"]:
    """Scaled cosines, the label's angle enlarged by `margin` radians.

    An angle above pi - margin stays as it is, as in the released code (there the cosine
    would rise again). Value and gradient are finite at cosines of +-1, where the
    released code gives NaN: cos(angle + margin) is expanded, and the sine's slope,
    which is infinite there, is cut off. A label that is no column changes nothing.
    """
    cosine: float | Array
    sine: float | Array
    if isinstance(margin, jax.Array):
        cosine, sine = jnp.cos(margin)[:, None], jnp.sin(margin)[:, None]
    else:
        cosine, sine = math.cos(margin), math.sin(margin)
    sines = jnp.sqrt(jnp.maximum((1 - cosines) * (1 + cosines), 1e-12))
    moved = cosines * cosine - sines * sine
    moved = jnp.where(cosines < -cosine, cosines, moved)
    own = jax.nn.one_hot(labels, cosines.shape[1], dtype=bool)
    return scale * jnp.where(own, moved, cosines)


def cosface_logits(
    cosines: Float[Array, "B C"], labels: Int[Array, " B"], margin: Margin, scale: float
) -> Float[Array, "B C"]:
    """Scaled cosines, the label's made smaller by `margin` [Wang2018]."""
    own = jax.nn.one_hot(labels, cosines.shape[1], dtype=cosines.dtype)
    if isinstance(margin, jax.Array):
        margin = margin[:, None]
    return scale * (cosines - margin * own)


def dynamic_margins(
    counts: Int[np.ndarray, " C"], lowest: float, highest: float
) -> Float[np.ndarray, " C"]:
    """The margin of each class: wider, the fewer images it has [Ha2020].

    In proportion to count ** -1/4, from `lowest` for the most frequent class to
    `highest` for the rarest; `lowest` for all if all are as frequent. A class without
    images counts as one with one.
    """
    rarity = np.maximum(counts, 1).astype(np.float64) ** -0.25
    spread = rarity - rarity.min()
    shares = spread / max(spread.max(), 1e-12)
    return (lowest + (highest - lowest) * shares).astype(np.float32)


def softmax_cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], smoothing: float = 0.0
) -> Float[Array, " B"]:
    """-log softmax of the label's logit.

    smoothing: share of the target that is spread evenly over all classes [Szegedy2016].
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    if smoothing:
        own = (1 - smoothing) * own + smoothing * logits.mean(axis=1)
    return jax.nn.logsumexp(logits, axis=1) - own


def sharded_cross_entropy(
    logits: Float[Array, "B c"],
    labels: Int[Array, " B"],
    classes: int,
    axis_name: str,
    smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """`softmax_cross_entropy` where every device has the logits of its own classes.

    The same on all devices, to rounding that of all logits in one piece. Devices hold
    neighbouring classes, the same number each: what is beyond `classes` is padding.

    Args:
      logits: of the examples of all devices.
      labels: of the examples of all devices, in the numbers of all classes.
      classes: of all devices together.
    """
    first, real = _piece(logits.shape[1], classes, axis_name)
    logits = jnp.where(real[None], logits, NOTHING)
    # Only keeps the exponentials small: its gradient cancels.
    peak = jax.lax.pmax(jax.lax.stop_gradient(logits.max(1)), axis_name)
    total = jax.lax.psum(jnp.exp(logits - peak[:, None]).sum(1), axis_name)
    target = jax.nn.one_hot(labels - first, logits.shape[1], dtype=logits.dtype)
    if smoothing:
        spread = real.astype(logits.dtype) * (smoothing / classes)
        target = (1 - smoothing) * target + spread[None]
    own = jnp.where(target > 0, target * logits, 0).sum(1)
    return jnp.log(total) + peak - jax.lax.psum(own, axis_name)


def sharded_hits(
    scores: Float[Array, "B c"], labels: Int[Array, " B"], classes: int, axis_name: str
) -> Float[Array, " B"]:
    """1 where no class has a higher score than the label, over all devices' classes."""
    first, real = _piece(scores.shape[1], classes, axis_name)
    own = jax.nn.one_hot(labels - first, scores.shape[1], dtype=bool)
    highest = jnp.where(real[None], scores, NOTHING).max(1)
    mine = jnp.where(own, scores, NOTHING).max(1)
    highest, mine = jax.lax.pmax(jax.lax.stop_gradient((highest, mine)), axis_name)
    return (mine >= highest).astype(scores.dtype)


def _piece(width: int, classes: int, axis_name: str) -> tuple[Int[Array, ""], Array]:
    """The first class of this device, and which of its columns are classes."""
    first = width * jax.lax.axis_index(axis_name)
    return first, first + jnp.arange(width) < classes
