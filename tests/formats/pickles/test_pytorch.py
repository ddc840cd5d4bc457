import collections
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.pickles import pytorch

TORCH_PYTHON = os.environ.get("DELF_JAX_TORCH_PYTHON", sys.executable)
STORAGES = {np.dtype(dtype): name for name, dtype in pytorch._STORAGES.items()}


class Tensor:
    """Pickled as PyTorch pickles a tensor, here a view of a numpy array."""

    def __init__(self, array, storage=None, rebuild="_rebuild_tensor_v2"):
        self.array = array
        self.storage = np.ravel(array) if storage is None else storage
        self.rebuild = rebuild

    def __reduce__(self):
        start = self.array.ctypes.data - self.storage.ctypes.data
        size = self.storage.itemsize
        parts = (
            Storage(self.storage),
            start // size if self.array.size else 0,
            self.array.shape,
            tuple(stride // size for stride in self.array.strides),
        )
        if self.rebuild != "_rebuild_tensor":
            parts += (False, collections.OrderedDict())
        return FAKES["torch._utils"][self.rebuild], parts


class Storage:
    def __init__(self, array):
        self.array = array


def _fake(module, name):
    """A function that pickles as a global of this name; nobody calls it."""

    def function(*arguments):
        raise AssertionError

    function.__module__, function.__qualname__ = module, name
    return function


FAKES = {
    "torch": {name: _fake("torch", name) for name in pytorch._STORAGES},
    "torch._utils": {
        name: _fake("torch._utils", name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    },
}


@pytest.fixture(autouse=True)
def torch_that_only_pickles(monkeypatch):
    pretend_torch(monkeypatch)


def pretend_torch(monkeypatch):
    for name, content in FAKES.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def pickled(value, legacy, protocol=2):
    """(pickle, {key: storage})"""
    stream, storages = io.BytesIO(), {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            found = [k for k, kept in storages.items() if kept is thing.array]
            key = found[0] if found else str(len(storages))
            storages[key] = thing.array
            kind = FAKES["torch"][STORAGES[thing.array.dtype]]
            reference = ("storage", kind, key, "cpu", thing.array.size)
            return (*reference, None) if legacy else reference

    Pickler(stream, protocol).dump(value)
    return stream.getvalue(), storages


def write_zip(path, value, root="archive", extra=(), **changed):
    text, storages = pickled(value, legacy=False)
    entries = {"data.pkl": text, "byteorder": b"little"}
    entries |= {f"data/{key}": array.tobytes() for key, array in storages.items()}
    entries |= {name: b"3" for name in ("version", *extra)} | changed
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def write_legacy(path, value, little_endian=True, version=1001):
    text, storages = pickled(value, legacy=True)
    headers = (0x1950A86A20F9469CFC6C, version, {"little_endian": little_endian})
    parts = [pickle.dumps(header, 2) for header in headers]
    parts += [text, pickle.dumps(sorted(storages), 2)]
    for _, array in sorted(storages.items()):
        parts += [struct.pack("<q", array.size), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


def ordered(**tensors):
    return collections.OrderedDict(tensors)


def arrays():
    rng = np.random.default_rng(0)
    dtypes = [*STORAGES]
    found = {str(t): rng.integers(0, 2, (2, 3)).astype(t) for t in dtypes}
    return found | {"empty": np.zeros((0, 3), np.float32), "one": np.array(3)}


@WRITERS
def test_tensors_of_every_type_come_back_in_order(tmp_path, write):
    written = {name: Tensor(array) for name, array in arrays().items()}
    read = pytorch.read_state_dict(write(tmp_path / "a.pth", ordered(**written)))
    assert list(read) == list(written)
    for name, array in arrays().items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    assert read["bfloat16"].dtype == ml_dtypes.bfloat16


@WRITERS
def test_views_keep_offset_and_strides_and_share_their_storage(tmp_path, write):
    base = np.arange(24, dtype=np.float32)
    views = {
        "whole": base,
        "moved": base.reshape(2, 3, 4).transpose(2, 0, 1),
        "every third": base[2:20:3],
        "column": base.reshape(6, 4)[:, 1],
    }
    value = {name: Tensor(view, base) for name, view in views.items()}
    read = pytorch.read_state_dict(write(tmp_path / "a.pth", value))
    for name, view in views.items():
        np.testing.assert_array_equal(read[name], view, strict=True)
        assert read[name].strides == view.strides
        assert not read[name].flags.writeable
    assert np.shares_memory(read["whole"], read["column"])


@WRITERS
def test_the_oldest_tensors_and_parameters_are_read(tmp_path, write):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    class Parameter(Tensor):
        def __reduce__(self):
            rebuild = FAKES["torch._utils"]["_rebuild_parameter"]
            return rebuild, (Tensor(self.array), True, collections.OrderedDict())

    value = {"old": Tensor(array, rebuild="_rebuild_tensor"), "p": Parameter(array)}
    read = pytorch.read_state_dict(write(tmp_path / "a.pth", value))
    for name in value:
        np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.parametrize("make", [b"R", b"\x81"])
def test_parameters_of_the_first_years_are_read(tmp_path, make):
    tensor = rebuilt(1, (3,), (1,))[6:-2]  # what comes between "a" and its place
    state = b"(I01\nI00\nNt"
    parameter = b"ctorch.nn.parameter\nParameter\n" + tensor + b"\x85" + make
    pickled = b"\x80\x02}U\x01a" + parameter + state + b"bs."
    numbers = np.arange(4, dtype=np.float32)
    entries = {"data.pkl": pickled, "data/0": numbers.tobytes()}
    read = pytorch.read_state_dict(write_zip(tmp_path / "a.pth", {}, **entries))
    np.testing.assert_array_equal(read["a"], numbers[1:], strict=True)


@WRITERS
@pytest.mark.parametrize("wrapper", pytorch.WRAPPERS)
def test_a_checkpoint_gives_its_state_dict(tmp_path, write, wrapper):
    tensor = Tensor(np.ones(2, np.float32))
    optimizer = {"state": {0: {"momentum_buffer": tensor}}, "param_groups": [{"lr": 1}]}
    state = {"module.a.weight": tensor, "module.b": tensor, "module.note": "text"}
    value = {"epoch": 3, "optimizer": optimizer, wrapper: state, "cfg": "LR: 0.1"}
    read = pytorch.read_state_dict(write(tmp_path / "a.pyth", value))
    assert list(read) == ["a.weight", "b"]


def test_module_is_kept_where_not_all_names_begin_with_it(tmp_path):
    tensor = Tensor(np.ones(2, np.float32))
    value = {"module.a": tensor, "b": tensor}
    read = pytorch.read_state_dict(write_zip(tmp_path / "a.pth", value))
    assert list(read) == ["module.a", "b"]


@WRITERS
def test_a_file_without_tensors_is_refused_with_its_keys(tmp_path, write):
    for value, words in (
        ({"epoch": 3, "net": {}}, "epoch, net"),
        ({"state_dict": {}}, "nothing"),
        ([1, 2], "a list"),
        (3, "a int"),
    ):
        path = write(tmp_path / "a.pth", value)
        with pytest.raises(InputError, match=words) as error:
            pytorch.read_state_dict(path)
        assert str(error.value).startswith(f"{path}: ")


@WRITERS
def test_code_in_a_weight_file_is_refused_by_name(tmp_path, write):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    value = {"a": Tensor(np.ones(2, np.float32)), "b": Evil()}
    path = write(tmp_path / "a.pth", value)
    with pytest.raises(InputError, match=rf"a.pth: needs {os.name}.system"):
        pytorch.read_state_dict(path)
    assert not (tmp_path / "trace").exists()


def rebuilt(offset, shape, strides, size=4, key=("0", "FloatStorage")):
    """A pickle by hand: {"a": tensor} of a storage that says to have `size` numbers."""
    return (
        b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor\n((U\x07storagectorch\n"
        + key[1].encode()
        + b"\nU\x01"
        + key[0].encode()
        + b"U\x03cpuI"
        + str(size).encode()
        + b"\ntQI"
        + str(offset).encode()
        + b"\n"
        + pickle.dumps(shape, 2)[2:-1]
        + pickle.dumps(strides, 2)[2:-1]
        + b"tRs."
    )


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "size"),
    [
        (0, (5,), (1,), 4),
        (1, (4,), (1,), 4),
        (0, (2, 2), (3, 1), 4),
        (-1, (2,), (1,), 4),
        (0, (2,), (-1,), 4),
        (0, (-2,), (1,), 4),
        (0, (2**62, 2**62), (0, 0), 4),
        (0, (2,), (2**70,), 4),
        (0, (100_000,), (0,), 4),
        (0, (2, 2), (1,), 4),
        (0, (1,) * 40, (1,) * 40, 4),
        (0, (2.0,), (1,), 4),
        (0, "ab", "cd", 4),
        (0, (4,), (1,), 1.5),
        (0, (4,), (1,), -4),
        (0, (2**40,), (1,), 2**40),
    ],
)
def test_a_tensor_lies_within_its_storage(tmp_path, offset, shape, strides, size):
    entries = {"data.pkl": rebuilt(offset, shape, strides, size), "data/0": bytes(16)}
    path = write_zip(tmp_path / "a.pth", {}, **entries)
    with pytest.raises(InputError, match="not a valid pickle|cut short"):
        pytorch.read_state_dict(path)
    sound = {"data.pkl": rebuilt(1, (3,), (1,)), "data/0": bytes(16)}
    read = pytorch.read_state_dict(write_zip(path, {}, **sound))
    np.testing.assert_array_equal(read["a"], np.zeros(3, np.float32), strict=True)


def test_a_storage_has_one_type_and_a_known_one(tmp_path):
    entries = {"data.pkl": rebuilt(0, (1,), (1,), key=("0", "QUInt8Storage"))}
    with pytest.raises(InputError, match="torch.QUInt8Storage"):
        pytorch.read_state_dict(write_zip(tmp_path / "a.pth", {}, **entries))
    two = b"\x80\x02(" + b"".join(
        rebuilt(0, (1,), (1,), key=("0", kind))[2:-1]
        for kind in ("FloatStorage", "LongStorage")
    )
    path = write_zip(tmp_path / "a.pth", {}, **{"data.pkl": two + b"l."})
    with pytest.raises(InputError, match="two types"):
        pytorch.read_state_dict(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"byteorder": b"big"}, "big-endian"),
        ({"constants.pkl": b""}, r"TorchScript.*state_dict"),
        ({"sub/data.pkl": b"N."}, "none that torch.save writes"),
        ({"data/0": b"123"}, "cut short, in storage 0"),
        ({"data.pkl": b"\x80\x02}."}, "no tensors"),
    ],
)
def test_archives_that_are_something_else_say_so(tmp_path, changed, words):
    value = {"a": Tensor(np.ones(2, np.float32))}
    path = write_zip(tmp_path / "a.pt", value, **changed)
    with pytest.raises(InputError, match=f"a.pt: .*{words}"):
        pytorch.read_state_dict(path)


def test_an_archive_without_a_storage_or_pickle_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", rebuilt(0, (1,), (1,)))
    with pytest.raises(InputError, match="cut short .*a/data/0"):
        pytorch.read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", b"text")
    with pytest.raises(InputError, match="none that torch.save writes"):
        pytorch.read_state_dict(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_entry_is_named_however_it_is_compressed(tmp_path, method):
    path = tmp_path / "a.pt"
    noise = np.random.default_rng(0).bytes(5000)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", noise)
    content = bytearray(path.read_bytes())
    content[100:140] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: a damaged archive"):
        pytorch.read_state_dict(path)


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", rebuilt(0, (1,), (1,)))
        archive.writestr("a/data/0", bytes(10_000_000))
    with pytest.raises(InputError, match="larger than the file"):
        pytorch.read_state_dict(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"little_endian": False}, "big-endian"), ({"version": 1002}, "version")],
)
def test_legacy_files_of_other_machines_say_so(tmp_path, changed, words):
    path = write_legacy(tmp_path / "a.pth", {}, **changed)
    with pytest.raises(InputError, match=words):
        pytorch.read_state_dict(path)


def test_a_legacy_file_has_the_storages_that_its_tensors_name(tmp_path):
    path = write_legacy(tmp_path / "a.pth", {"a": Tensor(np.ones(2, np.float32))})
    sound = path.read_bytes()
    keys = pickle.dumps(["0"], 2)
    assert sound.count(keys) == 1
    for other in (["1"], [], ["0", "0"], 7):
        path.write_bytes(sound.replace(keys, pickle.dumps(other, 2)))
        with pytest.raises(InputError, match="storages"):
            pytorch.read_state_dict(path)


def test_other_files_say_what_they_are_not(tmp_path):
    path = tmp_path / "a.pth"
    for content in (
        b"",
        b"text",
        b"PK\3\4",
        pickle.dumps({"a": 1}),
        b"\x89HDF\r\n\x1a\n",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a.pth: "):
            pytorch.read_state_dict(path)
    with pytest.raises(InputError, match="No such file"):
        pytorch.read_state_dict(tmp_path / "none.pth")


@WRITERS
def test_a_damaged_byte_gives_an_error_of_ours_or_other_numbers(tmp_path, write):
    value = {"a": Tensor(np.ones((2, 3), np.float32)), "b": Tensor(np.arange(3))}
    sound = write(tmp_path / "sound.pth", value).read_bytes()
    path = tmp_path / "damaged.pth"
    for cut in range(0, len(sound), 3):
        path.write_bytes(sound[:cut])
        with pytest.raises(InputError):
            pytorch.read_state_dict(path)
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        try:
            pytorch.read_state_dict(path)
        except InputError:
            pass


BY_TORCH = """
import collections, sys
import torch

torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5)
)
state = network.state_dict()
state["moved"] = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
base = torch.arange(100.0)
state["every third"], state["base"] = base[10:40:3], base
for name in "float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split():
    state[name] = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
state["empty"], state["one"] = torch.zeros(0, 3), torch.tensor(3)
optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
network(torch.ones(1, 3, 5, 6)).sum().backward()
optimizer.step()
parameters = collections.OrderedDict(
    ("module." + name, value) for name, value in network.named_parameters()
)
wrapped = {"epoch": 3, "model_state": parameters, "optimizer": optimizer.state_dict()}
for legacy in (False, True):
    options = {"_use_new_zipfile_serialization": not legacy}
    torch.save(state, f"{sys.argv[1]}/state_{legacy}.pth", **options)
    torch.save(wrapped, f"{sys.argv[1]}/wrapped_{legacy}.pth", **options)
    torch.save(network, f"{sys.argv[1]}/network_{legacy}.pth", **options)
torch.save(state, f"{sys.argv[1]}/state_4.pth", pickle_protocol=4)
torch.jit.script(network).save(f"{sys.argv[1]}/script.pt")
import numpy as np
for name, tensors in {"state": state, "wrapped": parameters}.items():
    arrays = {}
    for key, tensor in tensors.items():
        tensor = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        arrays[key.removeprefix("module.")] = tensor.detach().numpy()
    np.savez(f"{sys.argv[1]}/{name}.npz", **arrays)
"""


@pytest.fixture(scope="module")
def by_torch(tmp_path_factory) -> pathlib.Path:
    """Files that PyTorch itself wrote, in an environment that may be another."""
    if subprocess.run(
        [TORCH_PYTHON, "-c", "import torch"], capture_output=True
    ).returncode:
        pytest.skip("torch is absent; DELF_JAX_TORCH_PYTHON names a Python that has it")
    folder = tmp_path_factory.mktemp("torch")
    command = [TORCH_PYTHON, "-W", "ignore", "-c", BY_TORCH, str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    "name", ["state_False", "state_True", "state_4", "wrapped_False", "wrapped_True"]
)
def test_files_of_torch_itself_are_read_bit_by_bit(by_torch, name):
    read = pytorch.read_state_dict(by_torch / f"{name}.pth")
    written = np.load(by_torch / f"{name.split('_')[0]}.npz")
    assert list(read) == written.files
    for key, tensor in read.items():
        tensor = tensor.astype(np.float32) if key == "bfloat16" else tensor
        np.testing.assert_array_equal(tensor, written[key], strict=True)


def test_whole_networks_and_programs_of_torch_are_refused_by_name(by_torch):
    for name in ("network_False", "network_True"):
        with pytest.raises(InputError, match="torch.nn.modules.container.Sequential"):
            pytorch.read_state_dict(by_torch / f"{name}.pth")
    with pytest.raises(InputError, match="TorchScript"):
        pytorch.read_state_dict(by_torch / "script.pt")
