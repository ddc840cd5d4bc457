"""What a folder holds, so that two results can be compared: digests by name.

Files count byte by byte, but for those in which the same content may be written in
another way: stores and inverted files in other shards, checkpoints, and what says when
something was done.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from delf_jax.files import digest

# What the clock and the checkout decide, and sums over where a folder lies.
CLOCK = ("images_per_second", "seconds", "date", "revision", "checksum")
# The names of TensorBoard's files have a time, too; cards have sums of other files.
SKIPPED = re.compile(
    r"(^|/)(events|logs)/|events\.out\.|log\.txt$|\.unpacked$|(^|/)MODEL\.md$"
)
# Of a file that nobody would look for: written, and then left.
LEFT = re.compile(
    r"(^|/)\.[^/]+|(^|/)incomplete\.[^/]+|\.part(\.tag)?$|\.orbax-checkpoint-tmp|"
    r"\.incomplete|tmp[^/]*$"
)


def contents(folder: pathlib.Path, beginning: str = "") -> dict[str, str]:
    """A digest of each thing in a folder, by its path; where that lies is no matter.

    Args:
      beginning: of the names of what is read; what was left over is always seen.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if LEFT.search(name):
            found[f"LEFT: {name}"] = ""
        elif not name.startswith(beginning) or _lies_in(name, found):
            continue
        elif path.is_dir():
            if reader := _reader(path):
                found[name] = reader(path)
        elif not SKIPPED.search(name) and path.is_file():
            found[name] = _of_file(path, str(folder).encode())
    return found


def _lies_in(name: str, known: Iterable[str]) -> bool:
    return any(name.startswith(f"{folder}/") for folder in known)


def _reader(folder: pathlib.Path) -> Any:
    """What reads a folder whose files may differ where its content does not."""
    names = {
        "manifest.json": _of_store,
        "inverted.json": _of_inverted_file,
    }
    for name, reader in names.items():
        if (folder / name).is_file():
            return reader
    if folder.name == "checkpoints":
        return _of_checkpoints
    return None


def _of_file(path: pathlib.Path, root: bytes) -> str:
    if path.suffix == ".jaxexport":
        return _of_program(path)
    if ".array_record" in path.name:
        return _of_examples(path)
    data = path.read_bytes().replace(root, b"FOLDER")
    if path.suffix not in (".json", ".jsonl"):
        return digest(data, 16)
    try:
        values = [json.loads(line) for line in data.splitlines()]
    except ValueError:
        try:
            values = json.loads(data)
        except ValueError:
            return digest(data, 16)
    return digest(json.dumps(_without_clock(values), sort_keys=True), 16)


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        items = {n: _without_clock(v) for n, v in value.items() if n not in CLOCK}
        return {n: v for n, v in items.items() if not n.startswith(".")}
    return [_without_clock(v) for v in value] if isinstance(value, list) else value


def _of_store(folder: pathlib.Path) -> str:
    from delf_jax.store import feature_store

    store = feature_store.open_store(folder)
    arrays = {id: _arrays(store[store.row(id)]) for id in store.ids}
    return digest([arrays, store.failed, store.manifest["model"]], 16)


def _of_examples(path: pathlib.Path) -> str:
    """Examples, whose fields each process writes in an order of its own."""
    from array_record.python import array_record_module

    from delf_jax.formats.tensorflow.tf_example import parse_example

    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        records = (reader.read([row])[0] for row in range(reader.num_records()))
        found = [parse_example(memoryview(record)) for record in records]
    except (ValueError, LookupError, RuntimeError):  # Damaged.
        return digest(path.read_bytes(), 16)
    fields = [[(name, digest(x[name][0], 16)) for name in sorted(x)] for x in found]
    return digest(fields, 16)


def _of_program(path: pathlib.Path) -> str:
    """What is computed; not where in our source that stands."""
    from jax import export

    text = export.deserialize(bytearray(path.read_bytes())).mlir_module()
    return digest(re.sub(r"loc\(.*|#loc.*|\s", "", text), 16)


def _arrays(value: Any) -> Any:
    """Digests of arrays in tuples."""
    if isinstance(value, tuple):
        return [_arrays(part) for part in value]
    if hasattr(value, "tobytes"):
        return digest(value.tobytes(), 16)
    return value


def _of_inverted_file(folder: pathlib.Path) -> str:
    import numpy as np

    from delf_jax.index import inverted_file
    from tests.helpers.stores import with_descriptors

    index = inverted_file.open_inverted_file(folder)
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(50, index.info["dimension"])).astype(np.float32)
    query = inverted_file.aggregate_query(index, with_descriptors(descriptors))
    found = inverted_file.similarities(index, query)
    rule = index.info["rule"], index.info["binary"]
    return digest([index.ids, np.asarray(found).tolist(), rule], 16)


def _of_checkpoints(folder: pathlib.Path) -> str:
    import jax
    import numpy as np

    from delf_jax.training import checkpoints

    steps = sorted(path.name for path in folder.iterdir() if path.is_dir())
    state = jax.device_get(checkpoints.read_state(folder))
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return digest([steps, [digest(leaf, 16) for leaf in leaves]], 16)


def differences(one: dict[str, str], other: dict[str, str]) -> Iterator[str]:
    """The names that are only in one of them, or differ."""
    for name in sorted({*one, *other}):
        if name not in other:
            yield f"{name} is missing"
        elif name not in one:
            yield name if name.startswith("LEFT") else f"{name} is new"
        elif one[name] != other[name]:
            yield f"{name} differs"
