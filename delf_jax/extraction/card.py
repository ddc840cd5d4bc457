"""The card of a model: what it is, what it learned from, and how well it did.

MODEL.md of a model folder says in words what its config.json says.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from delf_jax.files import atomic_write
from delf_jax.manifests import owned
from delf_jax.models.architecture import DETECTORS
from delf_jax.progress import printable

CARD = "MODEL.md"
_KINDS = {
    "delg": "DELG: a global descriptor and local features of an image",
    "delf": "DELF: local features of an image",
    "global": "a global descriptor of an image",
    "how": "HOW: local descriptors, trained by their weighted sum",
    "ssd": "SSD: boxes of landmarks in an image",
    "faster_rcnn": "Faster R-CNN: boxes of landmarks in an image",
}
# Fields of an architecture, as a card says them.
_FIELDS = {
    "backbone": "backbone",
    "depth": "layers",
    "width": "channels of the stem",
    "layout": "layout",
    "reduced_dimension": "dimensions of a local descriptor",
    "global_dimension": "dimensions of the global descriptor",
    "image_size": "pixels of an image's side",
}


def write_card(directory: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes the card of a model folder."""
    with atomic_write(owned(directory / CARD), "w") as file:
        file.write(format_card(model_name(directory), config))


def model_name(directory: pathlib.Path) -> str:
    """What a model is called: as its folder, or as its training if that is `model`."""
    where = directory.resolve()
    return where.parent.name if where.name == "model" else where.name


def format_card(
    name: str,
    config: Mapping[str, Any],
    *,
    use: str = "",
    files: Mapping[str, str] | None = None,
) -> str:
    """The card of a model in Markdown.

    Args:
      name: of the model.
      config: as its config.json.
      use: how it is used, where that is not as a model folder.
      files: and which it has: the SHA-256 of each.
    """
    architecture, provenance = _in(config, "architecture"), _in(config, "provenance")
    title = _KINDS.get(str(architecture.get("name")), "a model")
    fields = [
        f"- {words}: {_code(architecture[field])}"
        for field, words in _FIELDS.items()
        if architecture.get(field)
    ]
    parts = [
        f"# {_plain(name)}",
        f"{title[0].upper()}{title[1:]}. A model of delf_jax, in JAX.",
        "\n".join(fields),
        "## Use\n\n"
        + (
            use
            or _use("detect" if architecture.get("name") in DETECTORS else "extract")
        ),
        *_training(provenance),
        *_origin(provenance),
        _files(_sums(config) if files is None else files),
        *_whole(provenance),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _use(call: str) -> str:
    return "\n".join(
        [
            "```python",
            "import delf_jax",
            "",
            'model = delf_jax.load_model("path/to/this/folder")',
            f'delf_jax.{call}("photo.jpg", model)',
            "```",
        ]
    )


def _training(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Sections of a model that was trained here: data, figures, how."""
    config = _in(provenance, "config")
    if not config:
        return
    yield _data(config, _in(provenance, "data"))
    yield from _figures(_in(provenance, "figures"))
    optimizer, views = _in(config, "optimizer"), _in(config, "views")
    losses = [f"{_plain(n)} {_plain(x)}" for n, x in _weights(_in(config, "loss"))]
    lines = [
        f"- start: {_code(config.get('init_from') or 'random weights')}"
        + _share(config.get("init_share")),
        f"- learns: {_code(config.get('train_only') or 'all')}",
        f"- steps: {_plain(provenance.get('steps'))} of "
        f"{_plain(config.get('batch_size'))} examples, views of "
        f"{_plain(views.get('size'))} pixels ({_plain(views.get('kind'))})",
        f"- losses: {', '.join(losses)}",
        f"- optimiser: {_plain(optimizer.get('name'))}, learning rate "
        f"{_plain(optimizer.get('learning_rate'))} (for a batch of 256)",
        f"- seed: {_plain(config.get('seed'))}",
        f"- revision of the code: {_code(provenance.get('revision') or 'not known')}",
    ]
    yield "## Training\n\n" + "\n".join(lines)


def _in(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The fields of a field; none where a foreign folder has something else."""
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _weights(loss: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The losses that are on: fields of a config before those that shape them."""
    for name, value in loss.items():
        if name == "margin_kind":
            return
        if value:
            yield name, value


def _share(part: Any) -> str:
    return f", of whose weights it keeps a share of {_plain(part)}" if part else ""


def _data(config: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = [("source", "images", "classes", "from")]
    sources = _in(_in(config, "data"), "sources")
    for name in sources:
        source, count = _in(sources, name), _in(counts, name)
        drawn = "landmarks" in source
        origin = "drawn landmarks" if drawn else _code(source.get("path", ""))
        numbers = (_plain(count.get(key, "")) for key in ("images", "classes"))
        rows.append((_plain(name), *numbers, origin))
    return "## Data\n\n" + _table(rows)


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures:
        return
    has_start = any("start" in _in(figures, name) for name in figures)
    keys = ["start"] * has_start + ["model"]
    rows: list[Sequence[str]] = [
        ("metric", *["at the start"] * has_start, "this model")
    ]
    for name in figures:
        cells = (_number(_in(figures, name).get(key, "")) for key in keys)
        rows.append((_plain(name), *cells))
    yield (
        "## Figures\n\n" + _table(rows) + "\n\nOf the validation that chose this "
        "checkpoint, on images that it did not learn from: a little optimistic."
    )


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """A section of a model that was converted."""
    known = {n: x for n, x in provenance.items() if isinstance(x, str) and x}
    if "converted_from" not in known:
        return
    lines = [f"- {_plain(n).replace('_', ' ')}: {_code(x)}" for n, x in known.items()]
    files = provenance.get("files", [])
    lines += [
        f"- file: {_code(file.get('name'))}, SHA-256 {_code(file.get('sha256'))}"
        for file in (files if isinstance(files, list) else [])
        if isinstance(file, dict)
    ]
    yield "## Conversion\n\n" + "\n".join(lines)


def _sums(config: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each file of a model folder."""
    return {"model.safetensors": config.get("sha256", ""), **_in(config, "files")}


def _files(sums: Mapping[str, str]) -> str:
    rows = [("file", "SHA-256"), *((_code(n), _code(x)) for n, x in sums.items())]
    return "## Files\n\n" + _table(rows)


def _whole(provenance: Mapping[str, Any]) -> Iterator[str]:
    if config := provenance.get("config"):
        text = json.dumps(config, indent=1)
        title = "<details><summary>Config of the training</summary>"
        yield f"{title}\n\n```json\n{text}\n```\n\n</details>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else _plain(value)


def _plain(value: Any) -> str:
    """A value on one line, without what Markdown would take for its own."""
    text = printable(str(value))
    for mark in "\\`*[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text


def _code(value: Any) -> str:
    """A value as code, also within a table."""
    text = printable(str(value)).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text.strip() else ""
