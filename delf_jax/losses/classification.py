"""Classification of descriptors: softmax, and ArcFace [Deng2019] as in [DELG]."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def arcface_logits(
    cosines: Float[Array, "B C"],
    labels: Int[Array, " B"],
    margin: float,
    scale: float,
) -> Float[Array, "B C"]:
    """Scaled cosines, the label's angle enlarged by `margin` radians.

    An angle above pi - margin stays as it is, as in the released code (there the cosine
    would rise again). Value and gradient are finite at cosines of +-1, where the
    released code gives NaN: cos(angle + margin) is expanded, and the sine's slope,
    which is infinite there, is cut off.
    """
    sine = jnp.sqrt(jnp.maximum((1 - cosines) * (1 + cosines), 1e-12))
    moved = cosines * math.cos(margin) - sine * math.sin(margin)
    moved = jnp.where(cosines < -math.cos(margin), cosines, moved)
    own = jax.nn.one_hot(labels, cosines.shape[1], dtype=bool)
    return scale * jnp.where(own, moved, cosines)


def softmax_cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, " B"]
) -> Float[Array, " B"]:
    """-log softmax of the label's logit."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - own
