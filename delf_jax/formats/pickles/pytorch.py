"""State dicts that PyTorch saved, read without it: .pth and .pt, of all its years.

torch.save writes a pickle whose tensors name storages. Since version 1.6 pickle and
storages are the entries of a zip archive; before, they follow one another: three
pickles of headers, the pickle, the list of storages, the storages.
"""

import math
import mmap
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from delf_jax.files import BROKEN_ZIP, InputError
from delf_jax.formats.pickles import arrays, unpickler

# Where training programs put the state dict: timm and torchvision's references; pycls,
# in which the DELG and DOLG of others were trained; and many.
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")
_MAGIC_NUMBER, _PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _Storage(NamedTuple):
    """Numbers in a row, stored under a key."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count its numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a state dict, in its order, mapped or read-only.

    A checkpoint that has its state dict under one of `WRAPPERS` gives that; other
    values are left out, and "module." before every name, which nn.DataParallel adds.
    Tensors that were no contiguous ones are views with their strides.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file.
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None
    read = _read_zip if mapped[:4] == b"PK\3\4" else _read_legacy
    value, storages = read(mapped, path)
    tensors = _find_tensors(value, path)
    return {name: _view(tensor, storages, path) for name, tensor in tensors.items()}


def is_legacy(start: bytes) -> bool:
    """Whether a file that starts so is one of PyTorch before 1.6."""
    number = _MAGIC_NUMBER.to_bytes(10, "little")
    return start[:1] == b"\x80" and number in start[:20]


def _read_zip(
    mapped: mmap.mmap, path: pathlib.Path
) -> tuple[Any, dict[str, np.ndarray]]:
    """The pickled value, and the bytes of each storage that it names."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive.namelist(), path)
            # Compressed or overlapping entries could be larger than the file.
            if sum(entry.file_size for entry in archive.infolist()) > len(mapped):
                raise InputError(f"{path}: its entries are larger than the file")
            if f"{root}byteorder" in archive.namelist():
                _check_byte_order(archive.read(f"{root}byteorder") == b"little", path)
            value, named = _unpickle(archive.read(f"{root}data.pkl"), path)
            return value, {
                key: np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)
                for key in named
            }
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path}: cut short ({error.args[0]})") from None
    except BROKEN_ZIP as error:
        raise InputError(f"{path}: a damaged archive ({error})") from None


def _root(names: list[str], path: pathlib.Path) -> str:
    """The folder of the archive that holds data.pkl."""
    ends = [name for name in names if name.endswith("/data.pkl")]
    if len(ends) != 1:
        raise InputError(f"{path}: an archive, but none that torch.save writes")
    root = ends[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise InputError(
            f"{path}: a TorchScript program, whose weights are not read; save its "
            "state_dict() with torch.save"
        )
    return root


def _read_legacy(
    mapped: mmap.mmap, path: pathlib.Path
) -> tuple[Any, dict[str, np.ndarray]]:
    """The pickled value, and the bytes of each storage that it names."""
    if not is_legacy(mapped[:20]):
        raise InputError(f"{path}: not a file that torch.save writes")
    headers = (unpickler.load(mapped, {}, name=str(path)) for _ in range(3))
    magic, version, system = headers
    if (magic, version) != (_MAGIC_NUMBER, _PROTOCOL_VERSION):
        raise InputError(f"{path}: of a version of torch.save that is not read")
    little = isinstance(system, dict) and system.get("little_endian") is True
    _check_byte_order(little, path)
    value, named = _unpickle(mapped, path)
    keys = unpickler.load(mapped, {}, name=str(path))
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(named):
        raise InputError(f"{path}: its storages are not those that its tensors name")
    storages = {}
    for key in map(str, keys):
        size = int.from_bytes(mapped.read(8), "little") * named[key].dtype.itemsize
        start = mapped.tell()
        if size > len(mapped) - start:
            raise InputError(f"{path}: cut short, in storage {key}")
        storages[key] = np.frombuffer(mapped, np.uint8, size, start)
        mapped.seek(start + size)
    return value, storages


def _check_byte_order(little: bool, path: pathlib.Path) -> None:
    if not little:
        raise InputError(f"{path}: written on a big-endian machine, which is not read")


def _unpickle(
    pickled: bytes | mmap.mmap, path: pathlib.Path
) -> tuple[Any, dict[str, _Storage]]:
    """The value, with a `_Tensor` for every tensor, and the storages that it names."""
    named: dict[str, _Storage] = {}

    def name_storage(reference: Any) -> _Storage:
        kind, dtype, key, _, size, *view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise ValueError(f"a reference to {kind!s:.40} that is not a whole storage")
        storage = _Storage(str(key), dtype, size)
        if named.setdefault(storage.key, storage) != storage or type(size) is not int:
            raise ValueError("a storage of two types or sizes")
        return storage

    return unpickler.load(pickled, _ALLOWED, name_storage, str(path)), named


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """For _rebuild_tensor_v2; what follows is whether it has gradients, and hooks."""
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without a storage")
    shape, strides = tuple(shape), tuple(strides)
    if len(shape) != len(strides) or len(shape) > 32:
        raise ValueError("a tensor of more or fewer strides than sides")
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor of negative size")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if size > storage.size or (size and last >= storage.size):
        raise ValueError(f"a tensor {shape} in a storage of {storage.size} numbers")
    return _Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise TypeError("a parameter without a tensor")
    return tensor


def _size(shape: Any = ()) -> tuple:
    if not isinstance(shape, (list, tuple)):
        raise TypeError("a torch.Size that is not a list")
    return tuple(shape)


_ALLOWED = {
    **arrays.NUMPY,
    **unpickler.DICTS,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    # Before 0.4 parameters were objects of their class.
    ("torch.nn.parameter", "Parameter"): _parameter,
}


def _find_tensors(value: Any, path: pathlib.Path) -> dict[str, _Tensor]:
    """The tensors of the state dict, by name."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a state dict")
    value = next((value[n] for n in WRAPPERS if isinstance(value.get(n), dict)), value)
    tensors = {n: x for n, x in value.items() if isinstance(x, _Tensor)}
    if not tensors:
        keys = ", ".join(f"{key!s:.40}" for key in list(value)[:10])
        raise InputError(
            f"{path}: no tensors, neither at its top nor under one of "
            f"{', '.join(WRAPPERS)}; it holds {keys or 'nothing'}"
        )
    tensors = {str(name): tensor for name, tensor in tensors.items()}
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _view(
    tensor: _Tensor, storages: Mapping[str, np.ndarray], path: pathlib.Path
) -> np.ndarray:
    """The tensor as a read-only view of its storage, which may be too short."""
    dtype, raw = tensor.storage.dtype, storages[tensor.storage.key]
    if len(raw) < tensor.storage.size * dtype.itemsize:
        raise InputError(f"{path}: cut short, in storage {tensor.storage.key}")
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, dtype)
    numbers = raw[: tensor.storage.size * dtype.itemsize].view(dtype)
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )
