"""Which weights a training moves, and that it leaves the others bit for bit."""

from typing import Any

import jax

from delf_jax.files import InputError

Tree = Any

# By `train_only`: how names of what is trained begin, and how those of what is not.
PARTS = {
    "": ("", ()),
    # The two stages of [DELF]: what the local branch reads, and what it adds.
    "descriptors": ("", ("local/",)),
    "attention": ("local/attention", ()),
    # Of [HOW]: the layer that reduces is set before.
    "backbone": ("backbone/", ()),
}


def check(train_only: str) -> None:
    """InputError if there are no such parts."""
    if train_only not in PARTS:
        words = ", ".join(map(repr, PARTS))
        raise InputError(f"train_only is {train_only!r}: use one of {words}")


def is_trained(name: str, train_only: str) -> bool:
    """Whether a variable of the model changes: "backbone/conv1/kernel"."""
    start, without = PARTS[train_only]
    return name.startswith(start) and not name.startswith(without)


def stop_gradients(variables: Tree, train_only: str) -> Tree:
    """The model's variables, of which the frozen ones have no gradient."""
    stopped = jax.lax.stop_gradient
    return _choose(variables, jax.tree.map(stopped, variables), train_only)


def keep(new: Any, old: Any, train_only: str) -> Any:
    """The new `TrainState`, but the old one's variables where they are frozen.

    No decay, rounding of an average or new statistic gets at them.
    """
    if not train_only:
        return new

    def kept(new: Tree, old: Tree) -> Tree:
        return _choose(new, old, train_only)

    averages = {name: kept(new.ema[name], old.ema[name]) for name in new.ema}
    return new.replace(
        params={**new.params, "model": kept(new.params["model"], old.params["model"])},
        batch_stats=kept(new.batch_stats, old.batch_stats),
        ema=averages,
    )


def _choose(trained: Tree, frozen: Tree, train_only: str) -> Tree:
    def choose(path: tuple, one: Any, other: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return one if is_trained(name, train_only) else other

    return jax.tree_util.tree_map_with_path(choose, trained, frozen)
