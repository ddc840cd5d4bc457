"""How alike two photos are, from their sets of local descriptors alone, learned.

In the manner of ELViS: descriptors are projected and compared, optimal transport
assigns those of one photo to those of the other, or to a dustbin as in SuperGlue, and a
small network votes on the best of each. No positions: what geometry confirms is for
verification to say. About 17,000 parameters for descriptors of 128 dimensions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from delf_jax.ops import l2_normalize

# Of Sinkhorn's algorithm; trained with, so that more are another network.
ITERATIONS = 10
_HIDDEN = 16
# At a lower temperature exp(-2 / temperature) leaves what float32 holds.
_COLDEST = 0.03

Descriptors = Float[Array, "N D"]
Valid = Bool[Array, "N"]
Scales = tuple[Float[Array, " rows"], Float[Array, " columns"]]


class SetSimilarity(NamedTuple):
    """The parameters."""

    projection: Float[Array, "D D"]
    temperature: Float[Array, ""]
    """its logarithm"""
    dustbin: Float[Array, ""]
    """cosine at which a descriptor may as well have no counterpart"""
    hidden: Float[Array, "2 H"]
    hidden_bias: Float[Array, "H"]
    votes: Float[Array, "H"]
    votes_bias: Float[Array, ""]
    evidence: Float[Array, ""]
    """weight of the logarithm of the votes, against cosines of global descriptors"""


def initial(key: Array, dimension: int) -> SetSimilarity:
    """Parameters to train from: cosines as they are, more votes for what is alike."""
    hidden_key, votes_key = jax.random.split(key)
    return SetSimilarity(
        projection=jnp.eye(dimension),
        temperature=jnp.log(jnp.float32(0.1)),
        dustbin=jnp.float32(0.6),
        hidden=jnp.abs(jax.random.normal(hidden_key, (2, _HIDDEN))),
        hidden_bias=jnp.zeros(_HIDDEN),
        votes=jnp.abs(jax.random.normal(votes_key, (_HIDDEN,))) / _HIDDEN,
        votes_bias=jnp.float32(-2.0),
        evidence=jnp.float32(0.1),
    )


def compare_sets(
    params: SetSimilarity,
    query: Descriptors,
    query_valid: Valid,
    images: Float[Array, "B M D"],
    images_valid: Bool[Array, "B M"],
) -> Float[Array, " B"]:
    """What the descriptors of each image add to its similarity with the query.

    On the scale of cosines; 0 if one side has none. The same whichever photo is the
    query, and in whatever order the descriptors are.
    """
    query = l2_normalize(query @ params.projection)

    def compare(image: Descriptors, valid: Valid) -> Float[Array, ""]:
        image = l2_normalize(image @ params.projection)
        return _evidence(params, query @ image.T, query_valid, valid)

    return jax.vmap(compare)(images, images_valid)


def assign(
    cosines: Float[Array, "N M"],
    rows: Valid,
    columns: Bool[Array, " M"],
    dustbin: Float[Array, ""],
    temperature: Float[Array, ""],
) -> Float[Array, "N M"]:
    """Shares of each row that belong to each column: about 1 in a row or a column.

    The rest of it lies in a dustbin, which holds one share more than the other side has
    descriptors. Rows and columns are scaled at once, halfway, so that neither come
    first.
    """
    rows, columns = (jnp.append(x, jnp.ones(1, bool)) for x in (rows, columns))
    of_rows = jnp.ones(len(rows)).at[-1].set(jnp.sum(columns, dtype=jnp.float32))
    of_columns = jnp.ones(len(columns)).at[-1].set(jnp.sum(rows, dtype=jnp.float32))
    padded = jnp.pad(cosines, ((0, 1), (0, 1)))
    padded = padded.at[-1, :].set(dustbin).at[:, -1].set(dustbin)
    there = rows[:, None] & columns[None, :]
    kernel = jnp.where(there, jnp.exp((padded - 1) / temperature), 0)

    def step(scales: Scales, _: None) -> tuple[Scales, None]:
        u, v = scales
        # What is not there has no part in the sums, and a scale that changes nothing.
        row_sums = jnp.where(rows, kernel @ v, 1)
        column_sums = jnp.where(columns, kernel.T @ u, 1)
        u = jnp.sqrt(u) * jnp.sqrt(of_rows / row_sums)
        v = jnp.sqrt(v) * jnp.sqrt(of_columns / column_sums)
        return (u, v), None

    start = jnp.ones(len(rows)), jnp.ones(len(columns))
    (u, v), _ = jax.lax.scan(step, start, None, length=ITERATIONS)
    return (u[:, None] * kernel * v[None, :])[:-1, :-1]


def _evidence(
    params: SetSimilarity,
    cosines: Float[Array, "N M"],
    rows: Valid,
    columns: Bool[Array, " M"],
) -> Float[Array, ""]:
    """Weighted logarithm of how many descriptors the network votes for."""
    temperature = jnp.maximum(jnp.exp(params.temperature), _COLDEST)
    shares = assign(cosines, rows, columns, params.dustbin, temperature)
    there = rows[:, None] & columns[None, :]
    cosines = jnp.where(there, cosines, -1)
    votes = [
        jnp.sum(jnp.where(side, _vote(params, shares.max(axis), cosines.max(axis)), 0))
        for axis, side in ((1, there.any(1)), (0, there.any(0)))
    ]
    return params.evidence * jnp.log1p((votes[0] + votes[1]) / 2)


def _vote(
    params: SetSimilarity, share: Float[Array, " K"], cosine: Float[Array, " K"]
) -> Float[Array, " K"]:
    """Between 0 and 1 for each descriptor, from its best share and its best cosine."""
    best = jnp.stack([share, cosine], axis=1)
    hidden = jax.nn.relu(best @ params.hidden + params.hidden_bias[None, :])
    return jax.nn.sigmoid(hidden @ params.votes + params.votes_bias)
