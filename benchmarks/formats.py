"""Time of reading and writing one image's .delf, beside a loop over its messages.

    python benchmarks/formats.py [--features=1000] [--dimension=128]

One core. The peer visits the protobuf message of each feature, as the original does,
with protobuf's parser in C. Both give the same arrays, and the same bytes.
"""

import argparse
import pathlib
import tempfile

import numpy as np
import rounds

from delf_jax.formats.delf.features import (
    DelfFeatures,
    encode_delf_features,
    read_delf_features,
)
from delf_jax.formats.protos import feature_pb2

CALLS = 10  # in a row, as a folder is read one file after the other.


def draw_features(count: int, dimension: int, seed: int = 0) -> DelfFeatures:
    rng = np.random.default_rng(seed)
    shapes = (count, 2), count, (count, dimension), count, count
    return DelfFeatures(*(rng.random(shape, np.float32) for shape in shapes))


def read_one_by_one(path: pathlib.Path) -> DelfFeatures:
    """The same features, one message after the other."""
    messages = feature_pb2.DelfFeatures.FromString(path.read_bytes()).feature
    count, dimension = len(messages), len(messages[0].descriptor.float_list.value)
    shapes = (count, 2), count, (count, dimension), count, count
    features = DelfFeatures(*(np.zeros(shape, np.float32) for shape in shapes))
    for row, message in enumerate(messages):
        features.locations[row] = message.y, message.x
        features.scales[row] = message.scale
        descriptor = message.descriptor
        values = np.array(descriptor.float_list.value, np.float32)
        features.descriptors[row] = values.reshape(tuple(descriptor.shape.dim))
        features.attention[row] = message.strength
        features.orientations[row] = message.orientation
    return features


def write_one_by_one(features: DelfFeatures) -> bytes:
    """The same bytes, one message after the other."""
    messages = feature_pb2.DelfFeatures()
    rows = zip(*(array.tolist() for array in features), strict=True)
    for (y, x), scale, values, attention, orientation in rows:
        message = messages.feature.add(
            y=y, x=x, scale=scale, strength=attention, orientation=orientation
        )
        message.descriptor.shape.dim.append(len(values))
        message.descriptor.float_list.value.extend(values)
    return messages.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds.keep_to_one_core()
    features = draw_features(options.features, options.dimension)
    data = encode_delf_features(features)
    assert write_one_by_one(features) == data
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.delf"
        path.write_bytes(data)
        for read in (read_one_by_one, read_delf_features):
            assert all(map(np.array_equal, read(path), features))
        print(f"{options.features} x {options.dimension}, reading:")
        reading = {
            "message by message": lambda: read_one_by_one(path),
            "ours": lambda: read_delf_features(path),
        }
        times = rounds.interleave(reading, options.rounds, CALLS)
        rounds.report(times, peer="message by message")
    print("writing, to memory:")
    writing = {
        "message by message": lambda: write_one_by_one(features),
        "ours": lambda: encode_delf_features(features),
    }
    times = rounds.interleave(writing, options.rounds, CALLS)
    rounds.report(times, peer="message by message")


if __name__ == "__main__":
    main()
