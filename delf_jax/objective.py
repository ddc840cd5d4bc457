"""What a training minimises: the weighted sum of the losses of DELG and of a teacher.

Pure: arrays in, one scalar and its parts out. Every loss is a mean over the batch of
one value per example: the mean over devices is then the mean over the whole batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from delf_jax import ops
from delf_jax.losses import classification, correspondence, distillation, reconstruction

Scalar = Float[Array, ""]
Outputs = dict[str, Array]
Batch = dict[str, Array]


class LossSettings(NamedTuple):
    """Weights, of which 0 turns a loss off, and what shapes the losses."""

    arcface: float = 0.0
    attention: float = 0.0
    reconstruction: float = 0.0
    distillation: float = 0.0
    global_distillation: float = 0.0
    correspondence: float = 0.0
    matchability: float = 0.0
    margin: float = 0.1
    scale: float = 45.25
    temperature: float = 0.07
    positive_radius: float = 8.0
    ignore_radius: float = 24.0
    descriptors_train_backbone: bool = False

    def active(self) -> tuple[str, ...]:
        """The names of the losses whose weight is not 0."""
        return tuple(name for name in self._fields[:7] if getattr(self, name))


# What shapes or needs the outputs of a local branch.
LOCAL = (
    *("attention", "reconstruction", "correspondence", "matchability"),
    "descriptors_train_backbone",
)


class TeacherHead(nn.Module):
    """A linear map from the student's cells to the teacher's: only training has it."""

    dimension: int  # T, of the teacher's map.

    @nn.compact
    def __call__(self, block3: Float[Array, "B h w C"]) -> Float[Array, "B h w T"]:
        return nn.Dense(self.dimension, name="teacher_projection")(block3)


def evaluate(
    outputs: Outputs,
    taught: Float[Array, "B h w T"] | None,
    batch: Batch,
    loss: LossSettings,
    axis_name: str | None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """The objective, and every active loss and accuracy by name.

    Args:
      outputs: of the model on all B x V views, in the order of the batch.
      taught: of `TeacherHead`; None without a teacher.
      batch: label [B] (-1: none) and, for the losses that need them, coordinates
        [B, V, h, w, 2], teacher [B, V, h, w, T], teacher_valid [B, V, h, w],
        teacher_global [B, V, G].
      loss: weights and shapes.
      axis_name: of the devices that share the batch.
    """
    names = loss.active()
    metrics = {}
    if {"arcface", "attention"} & set(names):
        metrics |= _classify(outputs, batch["label"], loss)
    if loss.reconstruction:
        errors = reconstruction.reconstruction_loss(
            outputs["block3"], outputs["expanded"]
        )
        metrics["reconstruction"] = errors.mean()
    if loss.distillation:
        teacher, valid = (_flat(batch[n]) for n in ("teacher", "teacher_valid"))
        losses = jax.vmap(distillation.distillation_loss)(
            taught, teacher.astype(jnp.float32), valid
        )
        metrics["distillation"] = losses.mean()
    if loss.global_distillation:
        targets = _flat(batch["teacher_global"])
        # Compared as they are: similarities of the student then are the teacher's.
        distances = jax.vmap(distillation.cosine_distance)(
            outputs["global_descriptor"], targets
        )
        metrics["global_distillation"] = distances.mean()
    if loss.correspondence or loss.matchability:
        metrics |= _correspond(outputs, batch["coordinates"], loss, axis_name)
    total = sum(getattr(loss, name) * metrics[name] for name in names)
    return total, {"loss": total, **metrics}


def _flat(x: Array) -> Array:
    """[B, V, ...] as [B * V, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _classify(outputs: Outputs, labels: Array, loss: LossSettings) -> dict[str, Scalar]:
    """ArcFace on the global descriptor, softmax on the attended local features.

    A model without local branch has only the first.
    """
    views = outputs["cosines"].shape[0] // labels.shape[0]
    labels = jnp.repeat(labels, views)
    labelled = (labels >= 0).astype(jnp.float32)
    labels = jnp.maximum(labels, 0)
    cosines = outputs["cosines"]
    logits = classification.arcface_logits(cosines, labels, loss.margin, loss.scale)
    scored = {"arcface": (logits, cosines)}
    if "attention_logits" in outputs:
        scored["attention"] = (outputs["attention_logits"],) * 2
    metrics = {}
    for name, (logits, scores) in scored.items():
        right = scores.argmax(-1) == labels
        metrics[name] = classification.softmax_cross_entropy(logits, labels)
        metrics[f"{name}_accuracy"] = right.astype(jnp.float32)
    # An unlabelled view counts as 0: the divisor must not depend on the device.
    return {name: (values * labelled).mean() for name, values in metrics.items()}


def _correspond(
    outputs: Outputs,
    coordinates: Float[Array, "B V h w 2"],
    loss: LossSettings,
    axis_name: str | None,
) -> dict[str, Scalar]:
    """Cells of first views against those of all second views, on all devices."""
    batch, views, height, width, _ = coordinates.shape
    cells = height * width

    def split(x: Array) -> Array:
        return x.reshape(batch, views, cells, -1)

    descriptors = split(ops.l2_normalize(outputs["descriptors"]))
    others, example = descriptors[:, 1], jnp.arange(batch)
    if axis_name is not None:
        others = jax.lax.all_gather(others, axis_name, tiled=True)
        example += batch * jax.lax.axis_index(axis_name)
    places = split(coordinates)

    def one(first: Array, place: Array, counterpart: Array, number: Array) -> tuple:
        return correspondence.correspondence_loss(
            first,
            place,
            others,
            counterpart,
            number,
            temperature=loss.temperature,
            positive_radius=loss.positive_radius,
            ignore_radius=loss.ignore_radius,
        )

    losses, paired, right = jax.vmap(one)(
        descriptors[:, 0], places[:, 0], places[:, 1], example
    )
    attention = split(outputs["attention"][..., None])[:, 0, :, 0]
    matchable = jax.vmap(correspondence.matchability_loss)(attention, right, paired)
    found = (right & paired).sum(1) / jnp.maximum(paired.sum(1), 1)
    return {
        "correspondence": losses.mean(),
        "matchability": matchable.mean(),
        "match_accuracy": found.mean(),
    }
