"""Losses of a detector's anchors, as [Liu2016], [Lin2017b] and [Ren2015] train them.

Of one image, as sums over its anchors divided by how many of them have a box.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

# Anchors without a box that count, for each one with a box [Liu2016].
NEGATIVES = 3


def focal_loss(
    logits: Float[Array, " A"],
    positive: Bool[Array, " A"],
    counted: Bool[Array, " A"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Array, ""]:
    """Cross entropy that fades where an anchor is right already [Lin2017b].

    Args:
      counted: which anchors are not ignored.
      alpha: weight of those with a box; that of the others is 1 - alpha.
      gamma: how fast it fades.
    """
    chance = jax.nn.sigmoid(logits)
    wrong = jnp.where(positive, 1 - chance, chance)
    weight = jnp.where(positive, alpha, 1 - alpha) * wrong**gamma
    losses = weight * _cross_entropy(logits, positive)
    return jnp.where(counted, losses, 0).sum() / _count(positive)


def mined_loss(
    logits: Float[Array, " A"],
    positive: Bool[Array, " A"],
    counted: Bool[Array, " A"],
) -> Float[Array, ""]:
    """Cross entropy of the anchors with a box and of the hardest others [Liu2016].

    Three for each with a box; of an image without any, three.
    """
    losses = _cross_entropy(logits, positive)
    negative = counted & ~positive
    hardness = jnp.where(negative, jax.lax.stop_gradient(losses), -1)
    most = NEGATIVES * _count(positive).astype(jnp.int32)
    mined = negative & (_rank(-hardness) < most)
    return jnp.where(positive | mined, losses, 0).sum() / _count(positive)


def balanced_loss(
    logits: Float[Array, " A"],
    positive: Bool[Array, " A"],
    counted: Bool[Array, " A"],
    key: Key[Array, ""],
    samples: int = 256,
    share: float = 0.5,
) -> Float[Array, ""]:
    """Mean cross entropy of anchors that are drawn at random [Ren2015].

    Args:
      samples: so many, or all if there are fewer.
      share: of them with a box, at most.
    """
    order = jax.random.uniform(key, logits.shape)

    def draw(of: Array, most: Array | int) -> Array:
        return of & (_rank(jnp.where(of, order, 2)) < most)

    own = draw(positive, int(samples * share))
    drawn = own | draw(counted & ~positive, samples - own.sum())
    losses = _cross_entropy(logits, positive)
    return jnp.where(drawn, losses, 0).sum() / _count(drawn)


def offset_loss(
    offsets: Float[Array, "A 4"],
    expected: Float[Array, "A 4"],
    positive: Bool[Array, " A"],
) -> Float[Array, ""]:
    """Smooth L1 of the offsets of anchors with a box; those of others are not read."""
    # what has no box may have any target, also one that is not finite
    expected = jnp.where(positive[:, None], expected, offsets)
    return optax.losses.huber_loss(offsets, expected).sum() / _count(positive)


def _rank(values: Float[Array, " A"]) -> Int[Array, " A"]:
    """Places in rising order; of equal ones the first is before the others."""
    return jnp.argsort(jnp.argsort(values, stable=True), stable=True)


def _cross_entropy(
    logits: Float[Array, " A"], positive: Bool[Array, " A"]
) -> Float[Array, " A"]:
    return optax.losses.sigmoid_binary_cross_entropy(
        logits, positive.astype(logits.dtype)
    )


def _count(positive: Bool[Array, " A"]) -> Float[Array, ""]:
    """How many anchors have a box, at least 1."""
    return jnp.maximum(positive.sum(), 1).astype(jnp.float32)
