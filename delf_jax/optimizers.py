"""Optimisers by name, with their learning rate by step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from delf_jax.files import InputError

Tree = Any
# Learning rates are stated for a batch of so many images, as in [DELG], and grow with
# the batch.
REFERENCE_BATCH = 256


def make_optimizer(
    settings: ConfigDict,
    steps: int,
    batch_size: int,
    norm: Callable[[Tree], jax.Array] = optax.tree.norm,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of `config.optimizer` and its learning rate by step.

    norm: of gradients, of which a device may hold a part only.
    """
    schedule = _make_schedule(settings, steps, batch_size)
    clip = [_clip(settings.clip_norm, norm)] if settings.clip_norm else []
    decay = optax.add_decayed_weights(settings.weight_decay, mask=_is_kernel)
    if settings.name == "adamw":
        rule = [optax.scale_by_adam(b1=settings.momentum), decay]
    elif settings.name == "sgd":
        rule = [decay, optax.trace(settings.momentum)]
    else:
        raise InputError(f"optimizer.name is {settings.name!r}: use 'adamw' or 'sgd'")
    chain = optax.chain(*clip, *rule, optax.scale_by_learning_rate(schedule))
    update = _with_promotion(chain.update)
    return optax.GradientTransformation(chain.init, update), _with_promotion(schedule)


def _make_schedule(settings: ConfigDict, steps: int, batch_size: int) -> optax.Schedule:
    """Warm-up from 0, then what `schedule` says until the last step."""
    peak = settings.learning_rate * batch_size / REFERENCE_BATCH
    warmup = min(settings.warmup_steps, steps - 1)
    end, left = peak * settings.final_factor, steps - warmup
    after = {
        "cosine": optax.cosine_decay_schedule(peak, left, settings.final_factor),
        "linear": optax.linear_schedule(peak, end, left),
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


def _with_promotion(function: Callable) -> Callable:
    """The function under standard promotion: optax mixes counts and floats."""

    @functools.wraps(function)
    def promoted(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return promoted


def _is_kernel(params: Tree) -> Tree:
    """True for matrices and convolutions: biases and BatchNorm are not decayed."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
