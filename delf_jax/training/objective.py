"""What a training minimises: the weighted sum of the losses that a config turns on.

Pure: arrays in, one scalar and its parts out. Every loss is a mean over the batch of
one value per example: the mean over devices is then the mean over the whole batch.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from delf_jax import ops
from delf_jax.detection.targets import make_targets
from delf_jax.losses import classification, detection, tuplets
from delf_jax.losses.correspondence import correspondence_loss, matchability_loss
from delf_jax.losses.distillation import (
    cosine_distance,
    map_distance,
    similarity_distance,
)
from delf_jax.losses.reconstruction import reconstruction_loss
from delf_jax.models.detectors.anchors import box_areas

Scalar = Float[Array, ""]
Outputs = dict[str, Array]
Batch = dict[str, Array]


class LossSettings(NamedTuple):
    """Weights, of which 0 turns a loss off, and what shapes the losses."""

    arcface: float = 0.0
    attention: float = 0.0
    reconstruction: float = 0.0
    classification: float = 0.0
    contrastive: float = 0.0
    triplet: float = 0.0
    map_distillation: float = 0.0
    global_distillation: float = 0.0
    similarity_distillation: float = 0.0
    correspondence: float = 0.0
    matchability: float = 0.0
    detection: float = 0.0
    margin_kind: str = "arcface"
    margin: float | Float[np.ndarray, " C"] = 0.1
    """of all classes or of each"""
    rare_margin: float = 0.0
    scale: float = 45.25
    centers: int = 1
    smoothing: float = 0.0
    classifier: str = "dense"
    classes: int = 0
    """of all devices together, where their classifier is sharded"""
    classifier_dtype: str = "float32"
    contrastive_margin: float = 0.7
    triplet_margin: float = 0.1
    temperature: float = 0.07
    positive_radius: float = 8.0
    ignore_radius: float = 24.0
    query_step: int = 1
    """every how many cells of a first view one is matched"""
    descriptors_train_backbone: bool = False
    anchors: str = "focal"

    def active(self) -> tuple[str, ...]:
        """The names of the losses whose weight is not 0."""
        return tuple(name for name in WEIGHTS if getattr(self, name))


WEIGHTS = LossSettings._fields[:12]
CHOICES = {
    "margin_kind": ("arcface", "cosface"),
    "classifier": ("dense", "sharded"),
    "classifier_dtype": ("float32", "bfloat16"),
    "anchors": ("focal", "mined", "balanced"),
}
# What needs classes, and what needs tuples of images.
CLASSIFYING = ("arcface", "attention", "classification")
COMPARING = ("contrastive", "triplet")
# What needs a teacher.
TEACHING = ("map_distillation", "global_distillation", "similarity_distillation")
# What shapes or needs the outputs of a local branch.
LOCAL = (
    "attention",
    "reconstruction",
    "correspondence",
    "matchability",
    "descriptors_train_backbone",
)


class Taught(NamedTuple):
    """What a teacher says about the B x V views of a batch."""

    maps: dict[str, Float[Array, "BV h w C"]]
    """by stage, as the student's are to be"""
    descriptors: Float[Array, "BV G"]


def evaluate(
    outputs: Outputs,
    taught: Taught | None,
    batch: Batch,
    loss: LossSettings,
    axis_name: str | None,
    key: jax.Array | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """The objective, and every active loss and accuracy by name.

    Args:
      outputs: of the model on all B x V views, in the order of the batch.
      taught: None without a teacher.
      batch: label [B] (-1: none) and, for the losses that need them, coordinates
        [B, V, h, w, 2], or boxes [B, N, 4] and valid [B, N].
      axis_name: of the devices that share the batch.
      key: of what is drawn at random: anchors, where they are "balanced".
    """
    names = loss.active()
    metrics: dict[str, Scalar] = {}
    if set(CLASSIFYING) & set(names):
        metrics |= _classify(outputs, batch["label"], loss, axis_name)
    if set(COMPARING) & set(names):
        metrics |= _compare(outputs["global_descriptor"], len(batch["label"]), loss)
    if loss.reconstruction:
        errors = reconstruction_loss(outputs["block3"], outputs["expanded"])
        metrics["reconstruction"] = errors.mean()
    if taught is not None:
        metrics |= _distil(outputs, taught, loss, axis_name)
    if loss.correspondence or loss.matchability:
        metrics |= _correspond(outputs, batch["coordinates"], loss, axis_name)
    if loss.detection:
        metrics |= _detect(outputs, batch, loss, key)
    total = sum(getattr(loss, name) * metrics[name] for name in names)
    return total, {"loss": total, **metrics}


def _distil(
    outputs: Outputs, taught: Taught, loss: LossSettings, axis_name: str | None
) -> dict[str, Scalar]:
    """How far maps and descriptors are from the teacher's."""
    metrics = {}
    if loss.map_distillation:
        stages: Any = outputs["stages"]
        distances = {}
        for name, target in taught.maps.items():
            distance = jax.vmap(map_distance)(stages[name], target).mean()
            distances[f"map_distillation_{name}"] = distance
        metrics["map_distillation"] = jnp.stack(list(distances.values())).mean()
        metrics |= distances
    pair: Any = outputs.get("global_descriptor"), taught.descriptors
    if loss.global_distillation:
        # Compared as they are: similarities of the student then are the teacher's.
        metrics["global_distillation"] = jax.vmap(cosine_distance)(*pair).mean()
    if loss.similarity_distillation:
        everyone = pair
        if axis_name is not None:
            everyone = jax.lax.all_gather(pair, axis_name, tiled=True)
        of_example = jax.vmap(similarity_distance, (0, 0, None, None))
        metrics["similarity_distillation"] = of_example(*pair, *everyone).mean()
    return metrics


def _classify(
    outputs: Outputs, labels: Array, loss: LossSettings, axis_name: str | None
) -> dict[str, Scalar]:
    """Softmax with margin on the global descriptor, without on pooled local features.

    A model without one of the branches lacks its loss.
    """
    views = outputs["block3"].shape[0] // labels.shape[0]
    labels = jnp.repeat(labels, views)
    labelled = (labels >= 0).astype(jnp.float32)
    labels = jnp.maximum(labels, 0)
    metrics = {}
    if "cosines" in outputs:
        if loss.classifier == "sharded" and axis_name is not None:
            found = _with_margin_in_pieces(outputs["cosines"], labels, loss, axis_name)
        else:
            found = _with_margin(outputs["cosines"], labels, loss)
        metrics["arcface"], metrics["arcface_accuracy"] = found
    plain = {"attention": "attention_logits"}
    if loss.classification:
        plain["classification"] = "logits"
    for name, output in plain.items():
        if output in outputs:
            logits = outputs[output]
            right = logits.argmax(-1) == labels
            metrics[name] = classification.softmax_cross_entropy(
                logits, labels, loss.smoothing
            )
            metrics[f"{name}_accuracy"] = right.astype(jnp.float32)
    # An unlabelled view counts as 0: the divisor must not depend on the device.
    return {name: (values * labelled).mean() for name, values in metrics.items()}


def _with_margin(
    cosines: Float[Array, "B C"], labels: Array, loss: LossSettings
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """(loss, whether the label's cosine is the largest) of each example."""
    logits = _margin_logits(cosines, labels, labels, loss)
    right = cosines.argmax(-1) == labels
    losses = classification.softmax_cross_entropy(logits, labels, loss.smoothing)
    return losses, right.astype(jnp.float32)


def _with_margin_in_pieces(
    cosines: Float[Array, "B c"], labels: Array, loss: LossSettings, axis_name: str
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """The same, where each device has the cosines of all examples with its classes."""
    count, device = labels.shape[0], jax.lax.axis_index(axis_name)
    labels = jax.lax.all_gather(labels, axis_name, tiled=True)
    columns = labels - cosines.shape[1] * device
    logits = _margin_logits(cosines, columns, labels, loss)
    losses = classification.sharded_cross_entropy(
        logits, labels, loss.classes, axis_name, loss.smoothing
    )
    right = classification.sharded_hits(cosines, labels, loss.classes, axis_name)

    def own(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, count * device, count)

    return own(losses), own(right)


def _margin_logits(
    cosines: Float[Array, "B C"], columns: Array, labels: Array, loss: LossSettings
) -> Float[Array, "B C"]:
    """Logits with the margin on the column of each label, as wide as its class has."""
    arcface = loss.margin_kind == "arcface"
    of_kind = (
        classification.arcface_logits if arcface else classification.cosface_logits
    )
    margin: Any = loss.margin
    if isinstance(margin, np.ndarray):
        margin = jnp.asarray(margin)[labels]
    return of_kind(cosines, columns, margin, loss.scale)


def _compare(
    descriptors: Float[Array, "BT D"], batch: int, loss: LossSettings
) -> dict[str, Scalar]:
    """Losses of tuples: a query, its positive, its negatives, in this order."""
    tuples = ops.l2_normalize(descriptors).reshape(batch, -1, descriptors.shape[1])
    kinds = {
        "contrastive": (tuplets.contrastive_loss, loss.contrastive_margin),
        "triplet": (tuplets.triplet_loss, loss.triplet_margin),
    }
    metrics = {}
    for name, (function, margin) in kinds.items():
        if getattr(loss, name):
            of_tuple = functools.partial(function, margin=margin)
            losses = jax.vmap(of_tuple)(tuples[:, 0], tuples[:, 1], tuples[:, 2:])
            metrics[name] = losses.mean()
    return metrics


def _correspond(
    outputs: Outputs,
    coordinates: Float[Array, "B V h w 2"],
    loss: LossSettings,
    axis_name: str | None,
) -> dict[str, Scalar]:
    """Cells of first views against those of all second views, on all devices."""
    batch, views, height, width, _ = coordinates.shape

    def split(x: Array) -> Array:
        return x.reshape(batch, views, height * width, -1)

    descriptors = split(ops.l2_normalize(outputs["descriptors"]))
    others, example = descriptors[:, 1], jnp.arange(batch)
    if axis_name is not None:
        others = jax.lax.all_gather(others, axis_name, tiled=True)
        example += batch * jax.lax.axis_index(axis_name)
    places = split(coordinates)

    step = loss.query_step
    of_example = functools.partial(
        correspondence_loss,
        temperature=loss.temperature,
        positive_radius=loss.positive_radius,
        ignore_radius=loss.ignore_radius,
    )
    losses, paired, right = jax.vmap(of_example, (0, 0, None, 0, 0))(
        descriptors[:, 0, ::step], places[:, 0, ::step], others, places[:, 1], example
    )
    attention = split(outputs["attention"][..., None])[:, 0, ::step, 0]
    matchable = jax.vmap(matchability_loss)(attention, right, paired)
    found = (right & paired).sum(1) / jnp.maximum(paired.sum(1), 1)
    return {
        "correspondence": losses.mean(),
        "matchability": matchable.mean(),
        "match_accuracy": found.mean(),
    }


class _Stage(NamedTuple):
    """Which anchors of a detector have a box, and how many of them are drawn."""

    positive: float
    """overlap from which on an anchor has a box, and"""
    negative: float
    """below which it is background"""
    forced: bool
    """whether every box has an anchor"""
    samples: int
    share: float
    """of the samples, with a box"""


# By what their outputs are called: [Liu2016], and the two stages of [Ren2015].
_ONE = {"box": _Stage(0.5, 0.5, True, 256, 0.25)}
_TWO = {
    "proposal": _Stage(0.7, 0.3, True, 256, 0.5),
    "box": _Stage(0.5, 0.5, False, 64, 0.25),
}


def _detect(
    outputs: Outputs, batch: Batch, loss: LossSettings, key: jax.Array | None
) -> dict[str, Scalar]:
    """Whether each anchor has a box, and where: with equal weights, as in [Liu2016]."""
    metrics: dict[str, Scalar] = {}
    for name, stage in (_TWO if "proposal_logits" in outputs else _ONE).items():
        prefix = "" if name == "box" else f"{name}_"
        anchors = outputs[f"{prefix}anchors"]
        fields = outputs[f"{name}_logits"], outputs[f"{prefix}offsets"]
        keys = None
        if loss.anchors == "balanced":
            assert key is not None  # The step brings it.
            keys = jax.random.split(
                jax.random.fold_in(key, len(metrics)), len(fields[0])
            )
        of_image = functools.partial(_learn, stage=stage, kind=loss.anchors)
        axes = 0, 0, 0, 0, 0 if anchors.ndim == 3 else None, 0
        chances, places = jax.vmap(of_image, axes)(
            batch["boxes"], batch["valid"], *fields, anchors, keys
        )
        metrics |= {f"{name}_chance": chances.mean(), f"{name}_place": places.mean()}
    return {"detection": jnp.stack([*metrics.values()]).sum(), **metrics}


def _learn(
    boxes: Array,
    valid: Array,
    logits: Array,
    offsets: Array,
    anchors: Array,
    key: jax.Array | None,
    *,
    stage: _Stage,
    kind: str,
) -> tuple[Scalar, Scalar]:
    """(loss of chances, loss of places) of the anchors of an image."""
    targets = make_targets(boxes, valid, anchors, *stage[:3])
    # places without a proposal are empty boxes
    fields = logits, targets.positive, targets.counted & (box_areas(anchors) > 0)
    if key is not None:  # Of "balanced".
        chances = detection.balanced_loss(*fields, key, stage.samples, stage.share)
    elif kind == "mined":
        chances = detection.mined_loss(*fields)
    else:
        chances = detection.focal_loss(*fields)
    return chances, detection.offset_loss(offsets, targets.offsets, targets.positive)
