"""What a config makes of a training: the modules, the optimiser, the objective."""

from collections.abc import Sequence

import numpy as np
import optax
from ml_collections import ConfigDict

from delf_jax import frozen, objective, weights
from delf_jax.files import InputError
from delf_jax.losses.classification import dynamic_margins
from delf_jax.optimizers import make_optimizer
from delf_jax.settings import ExtractionSettings, make_settings
from delf_jax.train_step import Static, norm_of
from delf_jax.training_data import settings_tuple

PRECISIONS = {"float32": None, "bfloat16": "bfloat16"}


def make_static(
    config: ConfigDict,
    classes: int,
    axis_name: str | None,
    counts: Sequence[int] | None = None,
) -> tuple[Static, optax.Schedule]:
    """The modules, the optimiser and its learning rate.

    counts: images of each class, of which `loss.rare_margin` makes margins.
    """
    loss = _loss_settings(config, classes, counts)
    frozen.check(config.train_only)
    chosen = make_settings(config.extraction.to_dict())
    if config.model.name == "global":
        _check_nothing_local(loss, chosen)
    _check_outputs(config.model.name, loss, axis_name)
    classify = any(getattr(loss, name) for name in objective.CLASSIFYING)
    if classify and not classes:
        raise InputError(
            "data.sources: no image has a class, so arcface and attention need 0"
        )
    architecture = {**config.model.to_dict(), "num_classes": classes if classify else 0}
    if config.train_only == "attention":
        architecture["normalization"] = "frozen"
    dimension = config.teacher.dimension
    if loss.global_distillation and config.model.global_dimension != dimension:
        raise InputError(
            f"model.global_dimension is {config.model.global_dimension}: for "
            f"loss.global_distillation it must be teacher.dimension, {dimension}"
        )
    head = objective.TeacherHead(dimension) if loss.distillation else None
    optimizer, schedule = make_optimizer(
        *(config.optimizer, config.steps, config.batch_size),
        norm_of(loss.classifier == "sharded", axis_name),
    )
    if config.precision not in PRECISIONS:
        raise InputError(
            f"precision is {config.precision!r}: use {' or '.join(PRECISIONS)}"
        )
    module = weights.build_module(architecture, axis_name=axis_name)
    if classify and config.model.name in WITH_COSINES:
        module = module.clone(
            centers=loss.centers,
            classifier_axis=axis_name if loss.classifier == "sharded" else None,
            classifier_dtype=loss.classifier_dtype,
        )
    backbone = module.backbone.clone(compute_dtype=PRECISIONS[config.precision])
    static = Static(
        *(module.clone(backbone=backbone), head, optimizer, loss, config.ema_decay),
        *(chosen.pixel_mean, chosen.pixel_std, config.accumulate, config.train_only),
    )
    return static, schedule


def _loss_settings(
    config: ConfigDict, classes: int, counts: Sequence[int] | None
) -> objective.LossSettings:
    """The settings of `config.loss`, completed with what the data say."""
    loss = settings_tuple(objective.LossSettings, config.loss, "loss")
    if not loss.active():
        raise InputError("config.loss: every weight is 0, so there is nothing to learn")
    for field, words in objective.CHOICES.items():
        if getattr(loss, field) not in words:
            raise InputError(
                f"loss.{field} is {getattr(loss, field)!r}: use {' or '.join(words)}"
            )
    if not (loss.centers >= 1 and 0 <= loss.smoothing < 1):
        raise InputError("loss.centers must be 1 or more, loss.smoothing in [0, 1)")
    if loss.rare_margin and counts is not None:
        margins = dynamic_margins(np.array(counts), loss.margin, loss.rare_margin)
        loss = loss._replace(margin=margins)
    return loss._replace(classes=classes)


# By loss, the models that have what it needs.
_NEEDS = {
    "arcface": ("delg", "global"),
    "attention": ("delf", "delg"),
    "reconstruction": ("delf", "delg"),
    "classification": ("delf",),
    "contrastive": ("delg", "global", "how"),
    "triplet": ("delg", "global", "how"),
}
WITH_COSINES = _NEEDS["arcface"]


def _check_outputs(
    model: str, loss: objective.LossSettings, axis_name: str | None
) -> None:
    """InputError if a loss needs what the model does not put out."""
    for name, models in _NEEDS.items():
        if getattr(loss, name) and model not in models:
            raise InputError(
                f"loss.{name} must be 0 for model.name {model}: it is for "
                f"{' or '.join(models)}"
            )
    if loss.classifier == "sharded" and not (loss.arcface and axis_name):
        raise InputError(
            'loss.classifier "sharded" is for loss.arcface under parallel "pmap"; use '
            '"dense" here'
        )


def _check_nothing_local(
    loss: objective.LossSettings, chosen: ExtractionSettings
) -> None:
    """InputError if something needs the local branch that a global model lacks."""
    wrong = [f"loss.{name}" for name in objective.LOCAL if getattr(loss, name)]
    if chosen.max_features:
        wrong.append("extraction.max_features")
    if wrong:
        raise InputError(
            f"model.name global has no local branch: {', '.join(wrong)} must be 0"
        )
