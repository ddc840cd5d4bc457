"""Safetensors files of our own: as the library reads and writes them, and mapped."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from delf_jax.files import InputError
from delf_jax.formats import tensor_files

DTYPES = ["f8", "f4", ml_dtypes.bfloat16, "i8", "i4", "i1", "u4", "u1"]


@pytest.fixture
def tensors(rng):
    values = 10 * rng.random((3, 5))
    return {np.dtype(kind).name: values.astype(kind) for kind in DTYPES}


def test_tensors_come_back_with_their_info(tmp_path, tensors):
    tensor_files.write_tensors(tmp_path / "x", tensors, {"a": [1, None]})
    found, info = tensor_files.read_tensors(tmp_path / "x")
    assert info == {"a": [1, None]} and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)
        assert not found[name].flags.owndata and not found[name].flags.writeable


@pytest.mark.parametrize("size", [0, 2048])
def test_the_library_reads_what_is_written_part_by_part(tmp_path, tensors, size):
    del tensors["bfloat16"]  # The library writes it, and does not read it to numpy.
    specs = {name: (x.dtype, x.shape) for name, x in tensors.items()}
    header = tensor_files.encode_header(specs, {"key": "\u00fc"}, size)
    assert len(header) % 8 == 0 and len(header) >= size
    data = header + b"".join(tensor.tobytes() for tensor in tensors.values())
    found = safetensors.numpy.load(data)
    (tmp_path / "x").write_bytes(data)
    mapped, metadata = tensor_files.map_tensors(tmp_path / "x")
    assert metadata == {"key": "\u00fc"}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)
        np.testing.assert_array_equal(mapped[name], tensor, strict=True)


def test_a_file_without_tensors_is_a_file(tmp_path):
    (tmp_path / "x").write_bytes(tensor_files.encode_header({}, {"key": "k"}))
    assert tensor_files.map_tensors(tmp_path / "x") == ({}, {"key": "k"})
    with pytest.raises(InputError, match="no info in JSON"):
        tensor_files.read_tensors(tmp_path / "x")


def test_every_cut_or_longer_file_is_refused(tmp_path, tensors):
    tensor_files.write_tensors(tmp_path / "x", tensors, {})
    data = (tmp_path / "x").read_bytes()
    for wrong in [*(data[:length] for length in range(len(data))), data + b"0"]:
        (tmp_path / "x").write_bytes(wrong)
        with pytest.raises(InputError, match="not a safetensors file"):
            tensor_files.map_tensors(tmp_path / "x")


def test_every_changed_byte_of_a_header_gives_tensors_or_our_own_error(
    tmp_path, tensors
):
    tensor_files.write_tensors(tmp_path / "x", tensors, {})
    data = bytearray((tmp_path / "x").read_bytes())
    for place in range(8 + int.from_bytes(data[:8], "little")):
        changed = data.copy()
        changed[place] ^= 0xFF if place % 3 == 0 else 1 << place % 8
        (tmp_path / "x").write_bytes(changed)
        try:
            tensor_files.map_tensors(tmp_path / "x")
        except InputError as error:
            assert str(tmp_path / "x") in str(error)


def test_a_file_that_is_absent_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        tensor_files.map_tensors(tmp_path / "absent")
