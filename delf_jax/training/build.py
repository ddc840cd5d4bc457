"""From a config: the modules, the optimiser and its schedule, the loss settings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from ml_collections import ConfigDict

from delf_jax.data.teacher import Teacher
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.settings import ExtractionSettings, make_settings
from delf_jax.files import InputError
from delf_jax.losses.classification import dynamic_margins
from delf_jax.models.compact import CompactNet
from delf_jax.training import objective
from delf_jax.training.inputs import (
    open_teacher,
    settings_tuple,
    teaches,
    view_settings,
)
from delf_jax.training.step import Static, check_train_only, norm_of

Tree = Any
PRECISIONS = {"float32": None, "bfloat16": "bfloat16"}
# Learning rates are stated for a batch of so many images, as in [DELG], and grow with
# the batch.
REFERENCE_BATCH = 256
_RMS_OF_ADAM = 0.2  # of what a step adds, in learning rates [Liu2025].
# By loss, the models that have what it needs.
_NEEDS = {
    "arcface": ("delg", "global"),
    "attention": ("delf", "delg"),
    "reconstruction": ("delf", "delg"),
    "classification": ("delf",),
    "contrastive": ("delg", "global", "how"),
    "triplet": ("delg", "global", "how"),
    "map_distillation": ("delg",),
    "global_distillation": ("delg", "global"),
    "similarity_distillation": ("delg", "global"),
}


def make_static(
    config: ConfigDict,
    classes: int,
    axis_name: str | None,
    counts: Sequence[int] | None = None,
) -> tuple[Static, optax.Schedule]:
    """What the training step is made of, and the learning rate by step.

    Args:
      axis_name: of the devices, where the step knows it: see `parallel.axis_of`.
      counts: images of each class, of which `loss.rare_margin` makes margins.
    """
    loss = _loss_settings(config, classes, counts)
    check_train_only(config.train_only)
    extraction = make_settings(config.extraction.to_dict())
    _check_outputs(config.model.name, loss, extraction)
    classify = any(getattr(loss, name) for name in objective.CLASSIFYING)
    if classify and not classes:
        raise InputError(
            "data.sources: no image has a class, so arcface and attention need 0"
        )
    architecture = {**config.model.to_dict(), "num_classes": classes if classify else 0}
    if config.train_only in ("attention", "global", "detector"):
        architecture["normalization"] = "frozen"
    dimension = config.teacher.dimension
    if loss.global_distillation and config.model.global_dimension != dimension:
        raise InputError(
            f"model.global_dimension is {config.model.global_dimension}: for "
            f"loss.global_distillation it must be teacher.dimension, {dimension}"
        )
    settings, taught_by = view_settings(config), None
    if teaches(config):
        taught_by, _ = open_teacher(config)
    if loss.reconstruction and not config.model.get("reduced_dimension", 0):
        raise InputError(
            "loss.reconstruction must be 0 where model.reduced_dimension is: there "
            "is nothing to reconstruct from"
        )
    sharded = loss.classifier == "sharded"
    norm = norm_of(sharded, axis_name)
    optimizer, schedule = make_optimizer(
        config.optimizer, config.steps, config.batch_size, norm
    )
    if config.precision not in PRECISIONS:
        raise InputError(
            f"precision is {config.precision!r}: use {' or '.join(PRECISIONS)}"
        )
    module = build_module(architecture, axis_name=axis_name)
    if classify and config.model.name in _NEEDS["arcface"]:
        module = module.clone(
            centers=loss.centers,
            classifier_axis=axis_name if sharded else None,
            classifier_dtype=loss.classifier_dtype,
        )
    if taught_by is not None:
        _check_teacher(config, module.backbone, taught_by)
    backbone = module.backbone.clone(compute_dtype=PRECISIONS[config.precision])
    static = Static(
        module.clone(backbone=backbone),
        optimizer,
        loss,
        config.ema_decay,
        extraction.pixel_mean,
        extraction.pixel_std,
        config.accumulate,
        config.train_only,
        taught_by,
        config.teacher.forced_steps,
        settings if config.data.on_device else None,
    )
    return static, schedule


def make_optimizer(
    settings: ConfigDict,
    steps: int,
    batch_size: int,
    norm: Callable[[Tree], jax.Array] = optax.tree.norm,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of `config.optimizer` and its learning rate by step.

    Args:
      batch_size: over all devices and hosts.
      norm: of gradients, of which a device may hold a part only.
    """
    schedule = _make_schedule(settings, steps, batch_size)
    clip = [_clip(settings.clip_norm, norm)] if settings.clip_norm else []
    decay = optax.add_decayed_weights(settings.weight_decay, mask=_is_kernel)
    descend = optax.scale_by_learning_rate(schedule)
    if settings.name == "adamw":
        rule = [optax.scale_by_adam(b1=settings.momentum), decay, descend]
    elif settings.name == "sgd":
        rule = [decay, optax.trace(settings.momentum), descend]
    elif settings.name == "muon":
        muon = optax.contrib.muon(
            schedule,
            weight_decay=settings.weight_decay,
            adam_b1=settings.momentum,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=_RMS_OF_ADAM,
        )
        rule = [muon]
    else:
        raise InputError(
            f"optimizer.name is {settings.name!r}: use 'adamw', 'muon' or 'sgd'"
        )
    chain = optax.chain(*clip, *rule)
    promoted = jax.numpy_dtype_promotion("standard")  # optax mixes counts and floats.
    update = promoted(chain.update)
    return optax.GradientTransformation(chain.init, update), promoted(schedule)


def _loss_settings(
    config: ConfigDict, classes: int, counts: Sequence[int] | None
) -> objective.LossSettings:
    """The settings of `config.loss`, with the margins and classes of the data."""
    loss = settings_tuple(objective.LossSettings, config.loss, "loss")
    if not loss.active():
        raise InputError("config.loss: every weight is 0, so there is nothing to learn")
    for field, choices in objective.CHOICES.items():
        if getattr(loss, field) not in choices:
            raise InputError(
                f"loss.{field} is {getattr(loss, field)!r}: use {' or '.join(choices)}"
            )
    if not (loss.centers >= 1 and 0 <= loss.smoothing < 1):
        raise InputError("loss.centers must be 1 or more, loss.smoothing in [0, 1)")
    if loss.rare_margin and counts is not None:
        margins = dynamic_margins(np.array(counts), loss.margin, loss.rare_margin)
        loss = loss._replace(margin=margins)
    return loss._replace(classes=classes)


def _check_outputs(
    model: str,
    loss: objective.LossSettings,
    extraction: ExtractionSettings,
) -> None:
    """InputError if something needs what the model does not put out."""
    local = [f"loss.{name}" for name in objective.LOCAL if getattr(loss, name)]
    local += ["extraction.max_features"] if extraction.max_features else []
    if model == "global" and local:
        raise InputError(
            f"model.name global has no local branch: {', '.join(local)} must be 0"
        )
    for name, models in _NEEDS.items():
        if getattr(loss, name) and model not in models:
            raise InputError(
                f"loss.{name} must be 0 for model.name {model}: it is for "
                f"{' or '.join(models)}"
            )
    if loss.classifier == "sharded" and not loss.arcface:
        raise InputError(
            'loss.classifier "sharded" is for loss.arcface; use "dense" here'
        )


def _check_teacher(config: ConfigDict, backbone: Any, teacher: Teacher) -> None:
    """InputError unless the maps that are taught have the student's shapes."""
    size, forced = config.views.size, config.teacher.forced_steps
    view = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def maps(net: Any) -> dict[str, Any]:
        alone = net.clone(axis_name=None)
        key = jax.ShapeDtypeStruct((2,), jnp.uint32)
        given = functools.partial(alone.init_with_output, train=True)
        return jax.eval_shape(given, key, view)[0]

    ours, theirs = maps(backbone), maps(teacher.backbone)
    taught = teacher.stages if config.loss.map_distillation or forced else ()
    for stage in taught:
        if stage not in ours or ours[stage].shape != theirs[stage].shape:
            has = ours[stage].shape[1:] if stage in ours else "none"
            raise InputError(
                f"teacher.stages: {stage} of the teacher is {theirs[stage].shape[1:]}, "
                f"and the model has {has}; leave it out, or choose another backbone"
            )
    missing = [n for n in ours if n.startswith("stage") and n not in taught]
    if forced and (missing or not isinstance(backbone, CompactNet)):
        raise InputError(
            "teacher.forced_steps: it needs model.backbone 'compact' and all of its "
            f"stages in teacher.stages; {', '.join(missing) or 'no stage'} lacks"
        )


def _make_schedule(settings: ConfigDict, steps: int, batch_size: int) -> optax.Schedule:
    """Warm-up from 0, then what `schedule` says until the last step."""
    peak = settings.learning_rate * batch_size / REFERENCE_BATCH
    warmup, factor = min(settings.warmup_steps, steps - 1), settings.final_factor
    after = {
        "cosine": optax.cosine_decay_schedule(peak, steps - warmup, factor),
        "linear": optax.linear_schedule(peak, peak * factor, steps - warmup),
        "constant": optax.constant_schedule(peak),
    }
    if settings.schedule not in after:
        raise InputError(
            f"optimizer.schedule is {settings.schedule!r}: use 'cosine', 'linear' or "
            "'constant'"
        )
    if not warmup:
        return after[settings.schedule]
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, after[settings.schedule]], [warmup])


def _clip(
    longest: float, norm: Callable[[Tree], jax.Array]
) -> optax.GradientTransformation:
    """Gradients shortened to `longest`; optax's own clipping knows one norm only."""

    def update(gradients: Tree, state: Any, params: Any = None) -> tuple[Tree, Any]:
        factor = jnp.minimum(1, longest / jnp.maximum(norm(gradients), 1e-30))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), gradients), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _matrices(params: Tree) -> Tree:
    """Of each kernel what it reads and what it writes; None: Adam's steps, not Muon's.

    None for biases, BatchNorm, convolutions of single channels and classifiers.
    """

    def of(path: tuple, x: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if x.ndim < 2 or x.shape[-2] == 1 or "classifier" in jax.tree_util.keystr(path):
            return None
        last = x.ndim - 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)

    return jax.tree_util.tree_map_with_path(of, params)


def _is_kernel(params: Tree) -> Tree:
    """True for matrices and convolutions: biases and BatchNorm are not decayed."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
