"""A query nearer to what shows the same than to what does not, as [GeM] trains."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def contrastive_loss(
    query: Float[Array, " D"],
    positive: Float[Array, " D"],
    negatives: Float[Array, "N D"],
    margin: float,
    epsilon: float = 1e-6,
) -> Float[Array, ""]:
    """Half the squares of the positive's distance and of what negatives lack to margin.

    Summed over the tuple. `epsilon`, added to each difference as in the released code,
    keeps the gradient finite where a negative equals the query.
    """
    others = jnp.concatenate([positive[None], negatives])
    squares = jnp.sum((query[None] - others + epsilon) ** 2, axis=1)
    # The positive needs no root, whose slope at zero is infinite.
    lacks = jnp.maximum(margin - jnp.sqrt(jnp.maximum(squares[1:], 1e-24)), 0)
    return 0.5 * (squares[0] + jnp.sum(lacks**2))


def triplet_loss(
    query: Float[Array, " D"],
    positive: Float[Array, " D"],
    negatives: Float[Array, "N D"],
    margin: float,
) -> Float[Array, ""]:
    """By how much squared distances of negatives lack `margin` to the positive's.

    Summed over the negatives of the tuple.
    """
    near = jnp.sum((query - positive) ** 2)
    far = jnp.sum((query[None] - negatives) ** 2, axis=1)
    return jnp.sum(jnp.maximum(near - far + margin, 0))
