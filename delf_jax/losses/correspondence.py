"""Local descriptors that find their counterpart in another view, and know if so."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from delf_jax import ops


def correspondence_loss(
    descriptors: Float[Array, "N D"],
    coordinates: Float[Array, "N 2"],
    other_descriptors: Float[Array, "B M D"],
    other_coordinates: Float[Array, "M 2"],
    example: int | Array,
    *,
    temperature: float,
    positive_radius: float,
    ignore_radius: float,
) -> tuple[Float[Array, ""], Bool[Array, " N"], Bool[Array, " N"]]:
    """InfoNCE of one view's cells against all cells of all second views of a batch.

    Args:
      descriptors: of the first view, any length (normalised here).
      coordinates: cell centres in a frame that the two views of an example share.
      other_descriptors: of the second views; the counterpart view is
        `other_descriptors[example]`.
      other_coordinates: cell centres of the counterpart view, in the same frame.
      temperature: of the softmax over cosines.
      positive_radius: a cell's nearest counterpart within it is its positive.
      ignore_radius: other cells of the counterpart this near are no negatives: they
        see nearly the same thing.

    Returns:
      The mean loss over cells with a positive (0 if there is none), whether each cell
      has a positive, and whether its nearest descriptor of all is that positive.
    """
    batch, cells = other_descriptors.shape[:2]
    candidates = ops.l2_normalize(other_descriptors).reshape(batch * cells, -1)
    cosines = ops.l2_normalize(descriptors) @ candidates.T

    offsets = coordinates[:, None] - other_coordinates[None]
    distances = jnp.sqrt((offsets**2).sum(-1))  # no gradient flows into coordinates.
    positive = distances.argmin(1)
    paired = distances.min(1) <= positive_radius
    near = distances < ignore_radius
    near &= jnp.arange(cells)[None] != positive[:, None]

    first = jnp.asarray(example) * cells
    ignored = jnp.zeros(cosines.shape, bool)
    ignored = jax.lax.dynamic_update_slice_in_dim(ignored, near, first, axis=1)
    cosines = jnp.where(ignored, -1e9, cosines)
    target = first + positive
    log_likelihood = jax.nn.log_softmax(cosines / temperature)
    losses = -jnp.take_along_axis(log_likelihood, target[:, None], 1)[:, 0]
    weight = paired.astype(losses.dtype)
    loss = (losses * weight).sum() / jnp.maximum(weight.sum(), 1)
    return loss, paired, cosines.argmax(1) == target


def matchability_loss(
    attention: Float[Array, " N"], correct: Bool[Array, " N"], valid: Bool[Array, " N"]
) -> Float[Array, ""]:
    """Cross-entropy of "this cell's nearest neighbour is right" under the attention.

    With attention = softplus(x), 1 - exp(-attention) = sigmoid(x) is the probability:
    the score that extraction ranks by is trained as it is. Mean over the valid cells.
    """
    probability = -jnp.expm1(-attention)
    log_right = jnp.log(jnp.maximum(probability, 1e-6))  # log 0 has no gradient to use.
    losses = jnp.where(correct, -log_right, attention)
    cells = valid.astype(losses.dtype)
    return (losses * cells).sum() / jnp.maximum(cells.sum(), 1)
