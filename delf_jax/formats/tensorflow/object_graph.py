"""Which key of a checkpoint holds which variable of a SavedModel.

A SavedModel names its variables; the checkpoint inside has keys that follow the
objects, in ways that depend on how the model was exported. Both hold the graph of
objects, whose edges have the same names. Field numbers are those of
tensorflow/core/protobuf/{saved_object_graph,trackable_object_graph}.proto.
"""

import collections
from collections.abc import Callable
from typing import NamedTuple

from delf_jax.formats.tensorflow import wire


class _Object(NamedTuple):
    children: dict[str, int]
    slots: dict[tuple[int, str], int]  # of optimizers: by variable and name
    label: str | None  # a variable's name, or its key in the checkpoint


def keys_of_variables(saved: memoryview, stored: memoryview) -> dict[str, str]:
    """The key of each variable by name, in the order of a SavedObjectGraph.

    `stored` is the TrackableObjectGraph of the checkpoint. Variables whose name is not
    theirs alone go by their key.
    """
    variables = _read_objects(saved, _variable_name)
    values = _read_objects(stored, _checkpoint_key)
    pairs = _walk_together(variables, values)
    found, missing = [], []
    for number, variable in enumerate(variables):
        key = values[pairs[number]].label if number in pairs else None
        if variable.label is not None and key is not None:
            found.append((variable.label, key))
        elif variable.label is not None:
            missing.append(variable.label)
    if missing:
        names = ", ".join(missing[:5])
        raise wire.Malformed(f"{len(missing)} variables without a value: {names:.200}")
    counts = collections.Counter(name for name, _ in found)
    return {name if counts[name] == 1 else key: key for name, key in found}


def _read_objects(
    graph: memoryview, label: Callable[[wire.Message], str | None]
) -> list[_Object]:
    objects = []
    for node in map(wire.parse, wire.contents(wire.parse(graph), 1)):
        edges, slots = (map(wire.parse, wire.contents(node, n)) for n in (1, 3))
        children = {wire.text(e, 2): wire.integer(e, 1) for e in edges}
        made = {
            (wire.integer(s, 1), wire.text(s, 2)): wire.integer(s, 3) for s in slots
        }
        objects.append(_Object(children, made, label(node)))
    numbers = [n for x in objects for n in (*x.children.values(), *x.slots.values())]
    if not all(0 <= number < len(objects) for number in numbers):
        raise wire.Malformed("an object that is not there")
    return objects


def _variable_name(node: wire.Message) -> str | None:
    variables = wire.contents(node, 7)
    return wire.text(wire.parse(variables[-1]), 6) if variables else None


def _checkpoint_key(node: wire.Message) -> str | None:
    attributes = list(map(wire.parse, wire.contents(node, 2)))
    keys = (wire.text(a, 3) for a in attributes if wire.text(a, 1) == "VARIABLE_VALUE")
    return next(keys, None)


def _walk_together(left: list[_Object], right: list[_Object]) -> dict[int, int]:
    """The numbers of objects of `left` with those that `right` has in their place."""
    pairs = {0: 0} if left and right else {}
    waiting = list(pairs)
    for number in waiting:  # which grows meanwhile
        others = right[pairs[number]].children
        for name, child in left[number].children.items():
            if name in others and child not in pairs:
                pairs[child] = others[name]
                waiting.append(child)
    for number, other in list(pairs.items()):
        for (variable, name), slot in left[number].slots.items():
            place = right[other].slots.get((pairs.get(variable, -1), name))
            if place is not None:
                pairs.setdefault(slot, place)
    return pairs
