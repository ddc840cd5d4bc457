"""One training step: pure, and the same on one device and on many.

What a step is made of (`Static`), what it changes (`TrainState`), and which part of the
model it leaves as it is (`train_only`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax import linen as nn

from delf_jax import ops
from delf_jax.data.augment import ViewSettings
from delf_jax.data.device_views import Counterpart, PhotoStore, draw_views
from delf_jax.data.teacher import Targets, Teacher, describe, maps_of, standardize
from delf_jax.files import InputError
from delf_jax.training import objective, sharded_classifier

Tree = Any
Batch = dict[str, Any]

# By `train_only`: how names of what is trained begin, and how those of what is not.
PARTS: dict[str, tuple[str | tuple[str, ...], tuple[str, ...]]] = {
    "": ("", ()),
    # The two stages of [DELF]: what the local branch reads, and what it adds.
    "descriptors": ("", ("local/",)),
    "attention": ("local/attention", ()),
    # Of [HOW]: the layer that reduces is set before.
    "backbone": ("backbone/", ()),
    # Of few photos: what follows the backbone, so that local features stay as they are.
    "global": (("whitening/", "classifier/", "gem_power"), ()),
    # Boxes, from maps of a backbone that knows photos already.
    "detector": ("", ("backbone/",)),
}


class Constants(NamedTuple):
    """Arrays that every step reads and none changes: one copy on each device."""

    photos: PhotoStore | None = None
    """of which views are drawn; None: batches bring theirs"""
    teacher: Tree = None
    """variables of the network that teaches"""
    targets: Targets | None = None


NO_CONSTANTS = Constants()


class TrainState(flax.struct.PyTreeNode):
    """All that changes from step to step."""

    step: Any  # int32, an array of jax or, from a checkpoint, of numpy.
    params: Tree  # {"model": ...}
    batch_stats: Tree
    opt_state: Tree
    ema: Tree  # {"params", "batch_stats"} of the model, averaged over steps.


class Static(NamedTuple):
    """What the step is made of and does not change."""

    module: nn.Module
    optimizer: optax.GradientTransformation
    loss: objective.LossSettings
    ema_decay: float
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    accumulate: int = 1
    """pieces that a device computes its share of a batch in, one after the other"""
    train_only: str = ""
    """the part of the model that learns: a key of PARTS"""
    teacher: Teacher | None = None
    forced_steps: int = 0
    """in which every stage reads the teacher's map instead of the one before it; in as
    many again ever fewer do"""
    views: ViewSettings | None = None
    """of views that the step draws itself"""

    @property
    def pixels(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation of R, G and B that the model expects."""
        return self.pixel_mean, self.pixel_std

    @property
    def sharded(self) -> bool:
        """Whether every device holds its classes of the classifier only."""
        return self.loss.classifier == "sharded"


def create_state(static: Static, key: jax.Array, *, view_size: int) -> TrainState:
    """The state before the first step."""
    images = jnp.zeros((2, view_size, view_size, 3), jnp.float32)
    module_key, _ = jax.random.split(key)  # a training starts as it always did
    variables = without_axis(static.module).init(module_key, images, train=True)
    batch_stats = variables.get("batch_stats", {})
    params = {"model": variables["params"]}
    averaged = {"params": params["model"], "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=static.optimizer.init(params),
        ema=jax.tree.map(jnp.copy, averaged),  # donated: a buffer has one owner.
    )


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    constants: Constants = NO_CONSTANTS,
    *,
    static: Static,
    axis_name: str | None = None,
) -> tuple[TrainState, clu_metrics.Collection]:
    """The state after one step on a batch, and its metrics.

    Pure. The only thing it knows about devices is the name of their axis: with one, the
    batch is a device's share, and gradients, statistics and metrics are means over all.
    """
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    batch = with_views(static, batch, constants)
    gradients, stats, parts = _gradients(
        static, state, batch, key, constants, axis_name
    )
    if axis_name is not None:
        stats = jax.lax.pmean(stats, axis_name)
        gradients = sharded_classifier.mean_gradients(
            gradients, axis_name, static.sharded
        )
    parts["gradient_norm"] = norm_of(static.sharded, axis_name)(gradients)
    updates, opt_state = static.optimizer.update(
        gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    model = {"params": params["model"], "batch_stats": stats}
    new = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=stats,
        opt_state=opt_state,
        ema=_averaged(state.ema, model, state.step, static.ema_decay),
    )
    new = keep_frozen(new, state, static.train_only)
    collection = _collection(tuple(sorted(parts)))
    if axis_name is None:
        return new, collection.single_from_model_output(**parts)
    return new, collection.gather_from_model_output(axis_name=axis_name, **parts)


def norm_of(sharded: bool, axis_name: str | None) -> Callable[[Tree], jax.Array]:
    """The norm of gradients, of which a device may hold its classes only."""
    if sharded and axis_name is not None:
        return functools.partial(sharded_classifier.global_norm, axis_name=axis_name)
    return optax.tree.norm


def predict(
    module: nn.Module,
    pixels: tuple[tuple, tuple],
    variables: Tree,
    images: jax.Array,
    sizes: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Outputs of a module that does not learn, for uint8 images (on canvases)."""
    normalized = ops.normalize_pixels(images, *pixels, sizes)
    outputs: Any = module.apply(variables, normalized, sizes)
    return outputs


def without_axis(module: nn.Module) -> nn.Module:
    """The module on one device: nothing to average over, all classes in one piece."""
    if getattr(module, "classifier_axis", None) is not None:
        module = module.clone(classifier_axis=None)
    return module.clone(backbone=module.backbone.clone(axis_name=None))


def check_train_only(train_only: str) -> None:
    """InputError if there are no such parts."""
    if train_only not in PARTS:
        choices = ", ".join(map(repr, PARTS))
        raise InputError(f"train_only is {train_only!r}: use one of {choices}")


def keep_frozen(new: Any, old: Any, train_only: str) -> Any:
    """The new `TrainState`, but the old one's variables where they are frozen.

    No decay, rounding of an average or new statistic gets at them.
    """
    if not train_only:
        return new
    kept = functools.partial(_choose, train_only=train_only)
    averages = {name: kept(new.ema[name], old.ema[name]) for name in new.ema}
    return new.replace(
        params={**new.params, "model": kept(new.params["model"], old.params["model"])},
        batch_stats=kept(new.batch_stats, old.batch_stats),
        ema=averages,
    )


def _gradients(
    static: Static,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    constants: Constants,
    axis_name: str | None,
) -> tuple[Tree, Tree, dict[str, jax.Array]]:
    """Gradients, new running statistics and metrics, as means over pieces of the batch.

    Every piece starts from the statistics of the state, and BatchNorm sees a piece at a
    time, as do losses that compare examples; all else is as of the whole batch.
    """

    def of_piece(piece: Batch, key: jax.Array) -> tuple[Tree, Tree, dict]:
        def loss_of(params: Tree) -> tuple[jax.Array, tuple]:
            stopped = jax.lax.stop_gradient(params["model"])
            model = _choose(params["model"], stopped, static.train_only)
            taught = _teach(static.teacher, piece, constants)
            outputs, stats = _forward(
                static, model, state, piece, key, taught.maps if taught else None
            )
            loss, parts = objective.evaluate(
                outputs,
                taught,
                piece,
                static.loss,
                axis_name,
                jax.random.fold_in(key, 2),
            )
            return loss, (stats, parts)

        (_, (stats, parts)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        return gradients, stats, parts

    count = static.accumulate
    if count == 1:
        return of_piece(batch, key)
    # Every count-th example: under jit no example moves to another device.
    pieces = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch
    )
    pieces = pieces, jax.random.split(key, count)
    shapes = jax.eval_shape(of_piece, *jax.tree.map(lambda x: x[0], pieces))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(sums: Tree, piece: tuple[Batch, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, sums, of_piece(*piece)), None

    total, _ = jax.lax.scan(add, nothing, pieces)
    return jax.tree.map(lambda x: x / count, total)


def _forward(
    static: Static,
    params: Tree,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    maps: dict[str, jax.Array] | None,
) -> tuple[dict, Tree]:
    """Outputs of the model and the new running statistics.

    Args:
      params: of the model; of the state, only what is no parameter is read.
      maps: of the teacher, which stand in for the model's in the first steps: in all
        images, then at random in ever fewer.
    """
    views, sizes = batch["image"], batch.get("size")
    if sizes is not None:
        sizes = sizes.reshape(-1, 2)
    images = views.reshape(-1, *views.shape[2:])
    forced: dict[str, Any] = {}
    if static.forced_steps and maps is not None:
        share = 2 - state.step / static.forced_steps
        draw = jax.random.uniform(
            jax.random.fold_in(key, 1), (len(maps), len(images), 1, 1, 1)
        )
        forced["forced"] = dict(
            zip(maps, zip(draw < share, maps.values(), strict=True), strict=True)
        )
    outputs, updated = static.module.apply(
        {"params": params, "batch_stats": state.batch_stats},
        ops.normalize_pixels(images, *static.pixels, sizes),
        sizes,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
        **forced,
    )
    if static.loss.descriptors_train_backbone:
        # The model reduces a block3 without gradient, as [DELG] does; here it has one.
        reduce = params["local"]["autoencoder"]["reduce"]
        reduced = outputs["block3"] @ reduce["kernel"][0, 0]
        outputs["descriptors"] = reduced + reduce["bias"].reshape(1, 1, 1, -1)
    return outputs, updated.get("batch_stats", {})


def _teach(
    taught_by: Teacher | None, batch: Batch, constants: Constants
) -> objective.Taught | None:
    """What the teacher says of the views that the student sees [Beyer2022]."""
    if taught_by is None:
        return None
    views, targets = batch["image"], constants.targets
    assert targets is not None  # They come with the teacher.
    views = views.reshape(-1, *views.shape[2:])
    maps = maps_of(taught_by, constants.teacher, views)
    pooled = describe(maps["block4"]) - targets.centre[None]
    return objective.Taught(
        {stage: standardize(maps[stage], targets, stage) for stage in taught_by.stages},
        pooled @ targets.projection,
    )


def with_views(static: Static, batch: Batch, constants: Constants) -> Batch:
    """The batch with views of its photos, if it does not bring them."""
    if static.views is None:
        return batch
    settings, photos = static.views, constants.photos
    assert photos is not None  # They come with the settings.
    photos = jax.tree.map(jnp.asarray, photos)  # Outside of jit they are of numpy.

    def draw(
        photo: jax.Array, seed: jax.Array, counterpart: Counterpart | None
    ) -> Batch:
        return draw_views(photos, photo, jax.random.key(seed), settings, counterpart)

    pairs = None
    if "affine" in batch:
        pairs = Counterpart(batch["counterpart"], batch["affine"], batch["region"])
    drawn: Batch = jax.vmap(draw)(batch["photo"], batch["seed"], pairs)
    return {"label": batch["label"], **drawn}


def _averaged(average: Tree, latest: Tree, step: jax.Array, decay: float) -> Tree:
    """The moving average; early on it forgets faster, so as not to hold the start."""
    count = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, average, latest)


def blend(averages: Tree, start: Mapping[str, np.ndarray] | None, part: float) -> Tree:
    """Weights on the line to those of the start: what is the same stays bit for bit.

    Args:
      averages: of the training.
      start: None: there is none, and the averages are returned.
      part: of the start in the result.
    """
    if start is None or not part:
        return averages
    ours = flax.traverse_util.flatten_dict(averages, sep="/")
    for name, x in ours.items():
        if name in start and start[name].shape == x.shape:
            here = np.asarray(x, np.float32)
            ours[name] = here + np.float32(part) * (start[name] - here)
    return flax.traverse_util.unflatten_dict(ours, sep="/")


@functools.cache
def _collection(names: tuple[str, ...]) -> type[clu_metrics.Collection]:
    """A clu collection of the averages of `names`."""
    averages = {name: clu_metrics.Average.from_output(name) for name in names}
    return clu_metrics.Collection.create(**averages)


def _choose(trained: Tree, frozen: Tree, train_only: str) -> Tree:
    start, without = PARTS[train_only]

    def choose(path: tuple, one: Any, other: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return one if name.startswith(start) and not name.startswith(without) else other

    return jax.tree_util.tree_map_with_path(choose, trained, frozen)
