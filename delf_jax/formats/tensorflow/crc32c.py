"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, vectorised in numpy."""

import functools

import numpy as np
from jaxtyping import UInt32

_POLYNOMIAL = 0x82F63B78  # bits reversed, as in RFC 3720.
_LANE = 256  # bytes that one lane of a block takes.
_BLOCK = 1 << 20  # bytes at a time: tables and lanes stay in the cache.
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """The checksum of bytes: 0xE3069283 for b"123456789"."""
    view = memoryview(data).cast("B")
    state, place = 0xFFFFFFFF, 0
    while len(view) - place >= _LANE:
        lanes = min(len(view) - place, _BLOCK) // _LANE
        words = np.frombuffer(view, "<u4", lanes * _LANE // 4, place)
        state = _advance_lanes(state, words.reshape(lanes, -1))
        place += lanes * _LANE
    table = _byte_table().tolist()
    for byte in view[place:]:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """The checksum as TensorFlow stores it: of data that hold checksums themselves."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _advance_lanes(state: int, words: UInt32[np.ndarray, "lanes words"]) -> int:
    """The state after the words of all lanes, one lane after the other.

    The lanes are worked through side by side. As the checksum is linear, the state of
    a lane moves past the lanes behind it by a linear map, and states add up by xor.
    """
    states = np.zeros(len(words), np.uint32)
    states[0] = state
    low, high = _word_tables()
    for word in np.ascontiguousarray(words.T):
        states ^= word
        states = low[states & 0xFFFF] ^ high[states >> 16]
    doublings = 0
    while len(states) > 1:
        if len(states) % 2:  # A state of zero in front changes nothing.
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _apply(_lane_tables(doublings), states[::2]) ^ states[1::2]
        doublings += 1
    return int(states[0])


@functools.cache
def _byte_table() -> UInt32[np.ndarray, "256"]:
    """What eight steps make of each byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@functools.cache
def _word_tables() -> tuple[UInt32[np.ndarray, "65536"], UInt32[np.ndarray, "65536"]]:
    """What four bytes of steps make of the low and of the high half of a state."""
    tables = []
    for shift in (0, 16):
        table = np.arange(1 << 16, dtype=np.uint32) << shift
        for _ in range(4):
            table = _byte_table()[table & 0xFF] ^ (table >> 8)
        tables.append(table)
    return tables[0], tables[1]


@functools.cache
def _lane_tables(doublings: int) -> UInt32[np.ndarray, "4 256"]:
    """What 2^doublings lanes of zeros make of each of a state's four bytes."""
    bytes_ = np.arange(256, dtype=np.uint32)
    states = np.stack([bytes_ << shift for shift in (0, 8, 16, 24)])
    if doublings:
        half = _lane_tables(doublings - 1)
        return _apply(half, _apply(half, states))
    for _ in range(_LANE):
        states = _byte_table()[states & 0xFF] ^ (states >> 8)
    return states


def _apply(
    tables: UInt32[np.ndarray, "4 256"], states: UInt32[np.ndarray, "..."]
) -> UInt32[np.ndarray, "..."]:
    """The linear map of the tables, of each state."""
    first, second, third, fourth = tables
    return (
        first[states & 0xFF]
        ^ second[states >> 8 & 0xFF]
        ^ third[states >> 16 & 0xFF]
        ^ fourth[states >> 24]
    )
