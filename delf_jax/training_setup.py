"""What a config makes of a training: the modules, the optimiser, the objective."""

import optax
from ml_collections import ConfigDict

from delf_jax import objective, weights
from delf_jax.files import InputError
from delf_jax.optimizers import make_optimizer
from delf_jax.settings import ExtractionSettings, make_settings
from delf_jax.train_step import Static
from delf_jax.training_data import settings_tuple

PRECISIONS = {"float32": None, "bfloat16": "bfloat16"}


def make_static(
    config: ConfigDict, classes: int, axis_name: str | None
) -> tuple[Static, optax.Schedule]:
    """The modules, the optimiser and its learning rate."""
    loss = settings_tuple(objective.LossSettings, config.loss, "loss")
    if not loss.active():
        raise InputError("config.loss: every weight is 0, so there is nothing to learn")
    chosen = make_settings(config.extraction.to_dict())
    if config.model.name == "global":
        _check_nothing_local(loss, chosen)
    classify = bool(loss.arcface or loss.attention)
    if classify and not classes:
        raise InputError(
            "data.sources: no image has a class, so arcface and attention need 0"
        )
    architecture = {**config.model.to_dict(), "num_classes": classes if classify else 0}
    dimension = config.teacher.dimension
    if loss.global_distillation and config.model.global_dimension != dimension:
        raise InputError(
            f"model.global_dimension is {config.model.global_dimension}: for "
            f"loss.global_distillation it must be teacher.dimension, {dimension}"
        )
    head = objective.TeacherHead(dimension) if loss.distillation else None
    optimizer, schedule = make_optimizer(
        config.optimizer, config.steps, config.batch_size
    )
    if config.precision not in PRECISIONS:
        raise InputError(
            f"precision is {config.precision!r}: use {' or '.join(PRECISIONS)}"
        )
    module = weights.build_module(architecture, axis_name=axis_name)
    backbone = module.backbone.clone(compute_dtype=PRECISIONS[config.precision])
    static = Static(
        *(module.clone(backbone=backbone), head, optimizer, loss, config.ema_decay),
        *(chosen.pixel_mean, chosen.pixel_std, config.accumulate),
    )
    return static, schedule


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
