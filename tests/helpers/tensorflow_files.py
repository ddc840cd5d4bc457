"""TensorFlow's files, written as plainly as can be, for tests to read."""

import pathlib
import struct

import ml_dtypes
import numpy as np

from delf_jax.formats.tensorflow.crc32c import masked_crc32c

TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "complex128": 18,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def varint(value):
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def message(*fields):
    """A protobuf message of (number, value); a float is one of four bytes."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        elif isinstance(value, float):
            parts.append(varint(number << 3 | 5) + struct.pack("<f", value))
        else:
            value = value.encode() if isinstance(value, str) else bytes(value)
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def fixed32(number, value):
    return varint(number << 3 | 5) + struct.pack("<I", value)


def shape(sizes):
    return message(*((2, message((1, size))) for size in sizes))


def tensor(array):
    """A TensorProto with all bytes as one."""
    kind = TYPES[array.dtype.name]
    return message((1, kind), (2, shape(array.shape)), (4, array.tobytes()))


def node(name, op, inputs=(), **attributes):
    """A NodeDef; attributes are serialised AttrValues."""
    pairs = [message((1, key), (2, value)) for key, value in attributes.items()]
    return message(
        (1, name), (2, op), *((3, i) for i in inputs), *((5, pair) for pair in pairs)
    )


def constant(name, array):
    return node(name, "Const", value=message((8, tensor(array))))


def frozen_graph(array, name="net/conv1/weights"):
    """A frozen graph of one constant, and a node that takes it."""
    reader = node(f"{name}/read", "Identity", [name])
    return message((1, constant(name, array)), (1, reader))


def compress(data):
    """Snappy with literals and copies of what was seen four bytes long."""
    result, seen, place, start = bytearray(varint(len(data))), {}, 0, 0
    while place + 4 <= len(data):
        before = seen.setdefault(data[place : place + 4], place)
        if before == place:
            place += 1
            continue
        result += literal(data[start:place])
        length = 4
        while length < 64 and data[before + length : before + length + 1] == (
            data[place + length : place + length + 1] or None
        ):
            length += 1
        result += bytes([(length - 1) << 2 | 3]) + struct.pack("<I", place - before)
        place += length
        start = place
    return bytes(result + literal(data[start:]))


def literal(data):
    """Literals of up to 256 bytes each."""
    pieces = [data[i : i + 256] for i in range(0, len(data), 256)]
    return b"".join(
        bytes([(len(p) - 1) << 2] if len(p) <= 60 else [60 << 2, len(p) - 1]) + p
        for p in pieces
    )


def table(items, block_bytes=1 << 18, snappy=False):
    """A sorted table of sorted (key, value) pairs, in blocks of about that size."""
    blocks, data, handles = [[]], b"", []
    for key, value in items:
        if sum(len(k) + len(v) for k, v in blocks[-1]) >= block_bytes:
            blocks.append([])
        blocks[-1].append((key, value))
    for pairs in [*blocks, []]:
        where = varint(len(data))
        data, size = _append_block(data, pairs, snappy)
        handles.append((pairs[-1][0] if pairs else b"", where + varint(size)))
    where = varint(len(data))
    data, size = _append_block(data, handles[:-1], snappy)
    footer = handles[-1][1] + where + varint(size)
    return data + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _append_block(data, pairs, snappy):
    block, last, restarts = b"", b"", []
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % 16:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(block))
        block += varint(shared) + varint(len(key) - shared) + varint(len(value))
        block += key[shared:] + value
        last = key
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    block = compress(block) if snappy else block
    kind = bytes([snappy])
    checksum = struct.pack("<I", masked_crc32c(block + kind))
    return data + block + kind + checksum, len(block)


def header(shards=1, endianness=0, version=1):
    return message((1, shards), (2, endianness), (3, message((1, version))))


def _text(value):
    """What the checksum of a text covers, and what is stored."""
    length = struct.pack("<I", len(value))
    checksum = struct.pack("<I", masked_crc32c(length))
    return length + checksum + value, varint(len(value)) + checksum + value


def entry(dtype, sizes, shard, offset, raw, checked=None):
    fields = [(1, dtype), (2, shape(sizes)), (3, shard), (4, offset), (5, len(raw))]
    return message(*fields) + fixed32(
        6, masked_crc32c(raw if checked is None else checked)
    )


def write_bundle(prefix, arrays, shards=1, **settings):
    """A checkpoint of arrays, or single bytes, by key, dealt out to the shards."""
    prefix = pathlib.Path(prefix)
    data, items = [b""] * shards, [(b"", header(shards))]
    for number, (key, value) in enumerate(sorted(arrays.items())):
        shard, kind, sizes = number % shards, 7, ()
        if isinstance(value, bytes):
            checked, raw = _text(value)
        else:
            kind, sizes = TYPES[value.dtype.name], value.shape
            checked = raw = value.tobytes()
        items.append(
            (key.encode(), entry(kind, sizes, shard, len(data[shard]), raw, checked))
        )
        data[shard] += raw
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(table(items, **settings))
    for number, raw in enumerate(data):
        file = f"{prefix.name}.data-{number:05d}-of-{shards:05d}"
        prefix.with_name(file).write_bytes(raw)


def damaged(data, step=1):
    """The bytes with one changed, or cut off, at every so manieth place."""
    for place in range(0, len(data), step):
        for change in (0x01, 0xFF):
            yield data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
        yield data[:place]
