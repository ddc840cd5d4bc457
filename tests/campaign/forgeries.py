"""Manifests are forged: what they say is false, and their checksums are right."""

import hashlib
import json
import math
import pathlib
import random
import struct
from collections.abc import Iterator
from typing import Any

from delf_jax.files import digest
from delf_jax.manifests import CHECKSUM
from tests.campaign import mutations
from tests.campaign.lab import Lab
from tests.campaign.verdicts import Judgement

KINDS = (
    "store",
    "store of boxes",
    "store resumed",
    "index",
    "index by two models",
    "index resumed",
    "index grown",
    "inverted file",
    "inverted file resumed",
    "small descriptors",
    "codebook",
    "pca",
    "whitening",
    "model",
    "prepared",
    "sidecar of delf",
    "curves",
    "ground truth json",
    "candidates json",
)
# What is written in the place of a value. The paths lead to the canaries of a lab.
PATHS = (
    *("../canary", "../../canary", "../../../canary", "../../../../canary"),
    *("{folder}/canary", "{folder}/canary.json", "/etc/passwd", "..", ".", "", "a\0b"),
    *("../../../canary.safetensors", "../../../../canary.postings", "\x1b[31m", "/"),
)
NUMBERS = (math.nan, math.inf, -1, 0, 1, 0.5, 2**31, 2**63, 2**200, 1e308)
OTHERS = (None, True, "", [], {}, [[]], {"a": 1}, "x" * 10_000, "\ud800", "\u202e")
DEPTH = 20_000  # of nested lists: more than Python's recursion allows.


def names(*, slow: bool) -> list[str]:
    """The kinds of files that have manifests."""
    return [name.replace(" ", "_") for name in KINDS]


def step(lab: Lab, rng: random.Random, name: str) -> tuple[str, Judgement]:
    """Forges one manifest in one or two places, and reads it."""
    kind = mutations.find(name)
    expected = mutations.reference(lab, name)
    mutations.fill(lab, kind)
    known = (".json", ".jsonl", ".safetensors")
    files = [f for f in mutations.files_to_damage(lab, kind) if f.suffix in known]
    path = rng.choice(files)
    before = path.read_bytes()
    whats = [forge(path, rng, lab) for _ in range(rng.choice((1, 1, 2)))]
    sign(lab.work, before, path.read_bytes())
    what = f"{', then '.join(whats)} in {path.relative_to(lab.work)}"
    # A forger may write a manifest that is as good as the old one, with other values.
    return what, mutations.read(lab, kind, expected, ours=False)


def forge(path: pathlib.Path, rng: random.Random, lab: Lab) -> str:
    """Changes a value of a JSON file or of the header of safetensors; says which."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        size = struct.unpack("<Q", data[:8])[0]
        try:
            header = json.loads(data[8 : 8 + size])
        except (ValueError, RecursionError):
            return "nothing more"
        what, text = _changed(header, rng, lab)
        text += b" " * (-len(text) % 8)
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        return what
    lines = data.splitlines() if path.suffix == ".jsonl" else [data]
    row = rng.randrange(len(lines))
    try:
        value = json.loads(lines[row])
    except (ValueError, RecursionError):
        return "nothing more"
    what, lines[row] = _changed(value, rng, lab)
    path.write_bytes(b"\n".join(lines))
    return what


def sign(folder: pathlib.Path, before: bytes, now: bytes) -> None:
    """Writes the new SHA-256 of a file wherever the old one stood, and sums of that."""
    old, new = (hashlib.sha256(data).hexdigest().encode() for data in (before, now))
    for path in sorted(folder.rglob("*.json")):
        text = path.read_bytes()
        if old in text and path.stat().st_size:
            try:
                path.write_bytes(_encode(json.loads(text.replace(old, new))))
            except (ValueError, RecursionError):
                continue
            sign(folder, text, path.read_bytes())


def _changed(value: Any, rng: random.Random, lab: Lab) -> tuple[str, bytes]:
    """What was changed, and the new JSON."""
    places = list(_places(value))
    if not places or rng.random() < 0.05:
        other = _other(value, rng, lab)
        return f"{other!r:.60} instead of all", _encode(other)
    holder, key, inside = rng.choice(places)
    if inside:  # JSON in a text, as the headers of safetensors have it.
        what, text = _changed(json.loads(holder[key]), rng, lab)
        holder[key] = text.decode("utf-8", "replace")
        return f"{key}: {what}", _encode(value)
    action = rng.random()
    if action < 0.2:
        del holder[key]
        return f"{key!r:.60} removed", _encode(value)
    if action < 0.3 and isinstance(holder, list):
        holder.append(holder[key])
        return f"{key!r} twice", _encode(value)
    if action < 0.35:
        holder[key] = "DEEP"
        text = _encode(value).replace(b'"DEEP"', b"[" * DEPTH + b"]" * DEPTH)
        return f"{key!r:.60} nested {DEPTH} deep", text
    holder[key] = other = _other(holder[key], rng, lab)
    return f"{key!r:.60} = {other!r:.60}", _encode(value)


def _places(value: Any) -> Iterator[tuple[Any, Any, bool]]:
    """(holder, key, whether a text of JSON is there) of all that can be changed."""
    if not isinstance(value, (dict, list)):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key, False
        if isinstance(inner, (dict, list)):
            yield from _places(inner)
        elif isinstance(inner, str) and inner[:1] in ("{", "["):
            try:
                json.loads(inner)
            except (ValueError, RecursionError):
                continue
            yield from [(value, key, True)] * 4


def _other(value: Any, rng: random.Random, lab: Lab) -> Any:
    """Something else: of the same type in most cases."""
    if isinstance(value, str) and rng.random() < 0.7:
        return rng.choice(PATHS).replace("{folder}", str(lab.folder))
    if isinstance(value, (int, float)) and rng.random() < 0.7:
        return rng.choice(NUMBERS)
    return rng.choice((*OTHERS, *NUMBERS, *PATHS))


def _encode(value: Any) -> bytes:
    """JSON, with the checksum of our manifests."""
    if isinstance(value, dict) and CHECKSUM in value:
        fields = {name: v for name, v in value.items() if name != CHECKSUM}
        value = fields | {CHECKSUM: digest(fields, 16)}
    return json.dumps(value).encode()
