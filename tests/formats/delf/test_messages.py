import numpy as np
import pytest
from google.protobuf.internal import encoder

from delf_jax.files import InputError
from delf_jax.formats.delf import messages
from delf_jax.formats.protos.datum_pb2 import DatumProto, Uint32List


def test_varints_are_protobufs(rng):
    edges = [0, 1, 127, 128, 2**14 - 1, 2**14, 2**28, 2**32 - 1]
    values = np.array([*edges, *rng.integers(0, 2**32, 100)], np.uint32)
    expected = Uint32List(value=values.tolist()).SerializeToString()
    packed = messages.encode_varints(values)
    assert messages.field(1, packed) == expected
    assert messages.encode_varints(values[:0]) == b""


def test_a_large_number_takes_as_many_groups_as_it_needs():
    for value in (2**35, 2**62, 2**63 - 1):
        found = messages.encode_varints(np.array([value]))
        assert found == encoder._VarintBytes(value)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: no such file"):
        messages.read_bytes(tmp_path / "absent")
    with pytest.raises(InputError, match=f"{tmp_path.name}: cannot be read"):
        messages.read_bytes(tmp_path)
    with pytest.raises(InputError, match=r"a\.datum: damaged, or no DatumProto"):
        messages.parse(b"\x0a\x05", DatumProto, "a.datum")


def test_files_that_no_message_can_fill_are_refused(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(messages.MAX_BYTES + 1)  # Takes no room on the disk.
    with pytest.raises(InputError, match="large: .* bytes, expected at most"):
        messages.read_bytes(path)
