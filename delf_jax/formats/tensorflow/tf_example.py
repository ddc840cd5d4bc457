"""The wire format of tf.train.Example, read and written without TensorFlow.

An example maps names to lists of bytes, of floats or of integers. Integers and bytes
are read, the latter as views; lists of floats, which no dataset here has, are skipped.
"""

from collections.abc import Mapping

import numpy as np

from delf_jax.formats.delf.messages import encode_varints, field
from delf_jax.formats.tensorflow import wire

Features = dict[str, list[int] | list[memoryview]]
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of tf.train.Feature.


def parse_example(data: memoryview) -> Features:
    """The features of a serialised example; ValueError if it is not one."""
    entries = [
        wire.parse(entry)
        for features in wire.contents(wire.parse(data), 1)
        for entry in wire.contents(wire.parse(features), 1)
    ]
    return {wire.text(each, 1): _values(wire.content(each, 2)) for each in entries}


def serialize_example(features: Mapping[str, int | bytes]) -> bytes:
    """An example with one value for each name."""
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(_BYTES_LIST, field(1, value))
        else:
            packed = encode_varints(np.array([value]))
            feature = field(_INT64_LIST, field(1, packed))
        entries.append(field(1, field(1, name.encode("utf-8")) + field(2, feature)))
    return field(1, b"".join(entries))


def _values(feature: memoryview) -> list[int] | list[memoryview]:
    """What a tf.train.Feature holds; of several lists the last one counts."""
    values: list = []
    for number, found in wire.fields(feature):
        if not isinstance(found, memoryview):
            continue
        if number == _BYTES_LIST:
            values = wire.contents(wire.parse(found), 1)
        elif number == _INT64_LIST:
            numbers = wire.packed_integers(wire.parse(found), 1)
            values = numbers.astype(np.int64).tolist()
    return values
