"""A student's map and descriptor made to agree with a teacher's."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from delf_jax import ops


def distillation_loss(
    student: Float[Array, "H W T"],
    teacher: Float[Array, "H W T"],
    valid: Bool[Array, "H W"],
) -> Float[Array, ""]:
    """Mean over the valid cells of (1 - cosine) + smooth L1 of the mean channel.

    The cosine fixes the direction, which is what matching compares; the smooth L1 keeps
    the length, without which a linear head can drift. 0 where no cell is valid. Teacher
    channels are standardised by the caller.
    """
    cosine = (ops.l2_normalize(student) * ops.l2_normalize(teacher)).sum(-1)
    residual = optax.losses.huber_loss(student, teacher).mean(-1)
    cells = valid.astype(student.dtype)
    return ((1 - cosine + residual) * cells).sum() / jnp.maximum(cells.sum(), 1)


def cosine_distance(
    student: Float[Array, " D"], teacher: Float[Array, " D"]
) -> Float[Array, ""]:
    """1 - cosine of two descriptors, 1 if either is zero."""
    return 1 - (ops.l2_normalize(student) * ops.l2_normalize(teacher)).sum()
