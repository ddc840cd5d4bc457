import pytest

from delf_jax.formats.tensorflow import object_graph, wire
from tests.helpers.tensorflow_files import message


def saved(*nodes):
    """A SavedObjectGraph of (children, variable's name or None, slots)."""
    return _graph(nodes, lambda name: (7, message((1, 1), (6, name))))


def stored(*nodes):
    """A TrackableObjectGraph of (children, key or None, slots)."""
    return _graph(
        nodes, lambda key: (2, message((1, "VARIABLE_VALUE"), (2, ""), (3, key)))
    )


def _graph(nodes, labelled):
    objects = []
    for children, label, *slots in nodes:
        fields = [(1, message((1, i), (2, name))) for name, i in children.items()]
        for variable, name, slot in slots:
            fields.append((3, message((1, variable), (2, name), (3, slot))))
        fields += [labelled(label)] if label is not None else []
        objects.append((1, message(*fields)))
    return memoryview(message(*objects))


def test_variables_are_found_by_the_names_of_edges_whatever_their_numbers():
    left = saved(
        ({"model": 1, "step": 3}, None), ({"conv": 2}, None), ({}, "w"), ({}, "step")
    )
    right = stored(
        ({"step": 1, "model": 3}, None), ({}, "s/V"), ({}, "m/V"), ({"conv": 2}, None)
    )
    keys = object_graph.keys_of_variables(left, right)
    assert list(keys.items()) == [("w", "m/V"), ("step", "s/V")]


def test_circles_and_edges_that_only_one_side_has_do_no_harm():
    left = saved(
        ({"call": 1, "a": 2}, None),
        ({"w": 3}, None),
        ({"w": 3, "up": 0}, None),
        ({}, "w"),
    )
    right = stored(({"a": 1}, None), ({"w": 2, "up": 0}, None), ({"up": 0}, "a/w"))
    assert object_graph.keys_of_variables(left, right) == {"w": "a/w"}


def test_names_of_several_variables_give_way_to_their_keys():
    left = saved(({"a": 1, "b": 2, "c": 3}, None), ({}, "x"), ({}, "x"), ({}, "y"))
    right = stored(({"a": 1, "b": 2, "c": 3}, None), ({}, "A"), ({}, "B"), ({}, "C"))
    keys = object_graph.keys_of_variables(left, right)
    assert keys == {"A": "A", "B": "B", "y": "C"}


def test_slots_of_optimizers_are_found():
    left = saved(
        ({"w": 1, "opt": 2}, None), ({}, "w"), ({}, None, (1, "m", 3)), ({}, "w/m")
    )
    right = stored(
        ({"opt": 1, "w": 3}, None), ({}, None, (3, "m", 2)), ({}, "M"), ({}, "W")
    )
    assert object_graph.keys_of_variables(left, right) == {"w": "W", "w/m": "M"}


@pytest.mark.parametrize(
    "right",
    [
        stored(),
        stored(({}, None), ({}, "W")),
        stored(({"w": 1}, None), ({}, None)),
    ],
)
def test_a_variable_without_a_value_is_malformed(right):
    with pytest.raises(wire.Malformed, match="1 variables without a value: conv/w"):
        object_graph.keys_of_variables(saved(({"w": 1}, None), ({}, "conv/w")), right)


def test_edges_to_nowhere_are_malformed():
    for number in (2, -1):
        with pytest.raises(wire.Malformed, match="not there"):
            object_graph.keys_of_variables(saved(({"w": number}, None)), stored())
