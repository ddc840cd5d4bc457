"""Files are damaged, and then read: noticed, harmless, or silently another result."""

import json
import pathlib
import random
import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

from tests.campaign import processes
from tests.campaign.commands import MODEL, offer_downloads
from tests.campaign.contents import contents, differences
from tests.campaign.lab import Lab, files_of
from tests.campaign.processes import Outcome
from tests.campaign.verdicts import Judgement, judge

LIMIT = 45.0  # seconds: reading what is damaged must not take long.


class Kind(NamedTuple):
    """Files of a kind, and a command that reads them."""

    files: str
    """pattern within the folder of a step"""
    reader: str
    """a command; or the name of a function of this module"""
    needs: str = ""
    """recipes that make them"""
    given: str = ""
    """what of the material is copied instead"""
    results: str = "out"
    """beginning of the names of what the reader writes"""
    ours: bool = True
    """so that damage must be noticed; of other formats some cannot tell it"""


_SEARCH = "search {given}/images/a/0.jpg --index=index --json=out.json "
_EVALUATE = (
    "--images={given}/drawn/jpg --index=evaluated --rerank=global --json=out.json"
)


def _photo(suffix: str) -> Kind:
    path = f"photos/{suffix}"
    return Kind(path, f"extract {path} --out=out", given=path, ours=False)


def _weights(name: str, files: str = "") -> Kind:
    path = f"weights/{name}"
    files = f"{path}/{files}" if files else path
    return Kind(files, f"convert {path} --out=out", given=path, ours=False)


KINDS = {
    "store": Kind("store/**/*", "features store out --to=delg", "extract"),
    "store of boxes": Kind(
        "store_of_boxes/**/*",
        "features store_of_boxes out --to=delf",
        "extract_--boxes",
    ),
    "detections": Kind(
        "detected_csv/**/*.json",
        "detect {given}/images --out=detected_csv --threshold=0.01 "
        "--model={given}/detector",
        "detect_--format=csv",
        results="detected_csv",
    ),
    "detector": Kind(
        "detector/*",
        "detect {given}/images --out=out --threshold=0.01 --model=detector",
        given="detector",
        results="out",
    ),
    "store resumed": Kind(
        "store/**/*", "extract {given}/images --out=store", "extract", results="store"
    ),
    "index": Kind("index/**/*", _SEARCH, "index"),
    "index by two models": Kind(
        "pair/**/*",
        _SEARCH.replace("--index=index", "--index=pair"),
        "index_--global_model",
    ),
    "index resumed": Kind(
        "index/**/*", "index {given}/images --index=index", "index", results="index"
    ),
    "index grown": Kind(
        "index/**/*",
        "index --index=index --add {given}/more",
        "index",
        results="index",
    ),
    "inverted file": Kind(
        "index/asmk/**/*",
        f"{_SEARCH} --codebook=codebook --no_rerank",
        "extract fit_codebook search_--codebook",
    ),
    "inverted file resumed": Kind(
        "inverted/**/*",
        "aggregate store --codebook=codebook --idf --out=inverted",
        "aggregate",
        results="inverted",
    ),
    "small descriptors": Kind(
        "index/store/global*", f"{_SEARCH} --precision=int8", "search_--precision"
    ),
    "codebook": Kind(
        "codebook/*",
        "aggregate store --codebook=codebook --to=asmk --out=out",
        "extract fit_codebook",
    ),
    "pca": Kind(
        "pca/*",
        "extract {given}/images/a --out=out "
        "--config.extraction.pca.mean=pca/mean.datum "
        "--config.extraction.pca.projection=pca/pca_proj_mat.datum",
        "fit_pca",
    ),
    "whitening": Kind(
        "whitening/*",
        "extract {given}/images/a --out=out "
        "--config.extraction.global_pca.mean=whitening/mean.datum "
        "--config.extraction.global_pca.projection=whitening/pca_proj_mat.datum",
        "fit_whitening",
    ),
    "model": Kind(
        "model/*",
        "extract {given}/images/a --out=out --model=model",
        given="model",
    ),
    "prepared": Kind("prepared/**/*", "read_prepared", "prepare"),
    "sidecar of delf": Kind(
        "delf/images.json", "features delf out --from=delf", "features_--to=delf"
    ),
    "curves": Kind(
        "trained/metrics.jsonl",
        "plot trained --out=out.png",
        given="trained",
        ours=False,
    ),
    "delf": Kind(
        "delf/*/*.delf",
        "features delf out --from=delf",
        "features_--to=delf",
        ours=False,
    ),
    "delg": Kind(
        "delg/*/*", "features delg out --from=delg", "features_--to=delg", ours=False
    ),
    "pbtxt": Kind(
        "delf.pbtxt",
        "extract {given}/images/a --out=out --config=delf.pbtxt",
        given="delf.pbtxt",
        ours=False,
    ),
    "pbtxt of aggregation": Kind(
        "aggregation.pbtxt",
        "aggregate store --out=out --config=aggregation.pbtxt",
        "extract fit_codebook",
        given="aggregation.pbtxt",
        ours=False,
    ),
    **{
        f"ground truth {suffix}": Kind(
            f"drawn/gnd_drawn.{suffix}",
            f"evaluate drawn/gnd_drawn.{suffix} {_EVALUATE}",
            "evaluate",
            given=f"drawn/gnd_drawn.{suffix}",
            ours=False,
        )
        for suffix in ("json", "pkl", "mat")
    },
    "sfm": Kind(
        "sfm/db/*",
        "prepare --dataset=sfm/db/retrieval-SfM-120k.pkl --data=out",
        given="sfm",
        ours=False,
    ),
    "tfrecords": Kind(
        "tfrecords/*",
        "prepare --dataset=tfrecords --data=out",
        given="tfrecords",
        ours=False,
    ),
    "labels": Kind(
        "labels.csv",
        "prepare --dataset=labels.csv --data=out",
        given="labels.csv",
        ours=False,
    ),
    "boxes": Kind(
        "boxes.csv",
        "extract {given}/images --boxes=boxes.csv --out=out",
        given="boxes.csv",
        ours=False,
    ),
    "pairs": Kind(
        "pairs.csv",
        "fit whitening store --out=out --pairs=pairs.csv --dimension=2",
        "extract",
        given="pairs.csv",
        ours=False,
    ),
    "pairs of photos": Kind(
        "pairs.txt",
        "features store out --to=hdf5 --pairs=pairs.txt",
        "extract",
        given="pairs.txt",
        ours=False,
    ),
    "list of photos": Kind(
        "list.txt", "extract @list.txt --out=out", given="list.txt", ours=False
    ),
    **{
        f"candidates {suffix}": Kind(
            f"candidates.{suffix}",
            f"rerank candidates.{suffix} --index=index --out=out.json",
            "index",
            given=f"candidates.{suffix}",
            ours=False,
        )
        for suffix in ("json", "csv")
    },
    "predictions": Kind(
        "found.csv",
        "gldv2 score retrieval found.csv --json=out.json "
        "--solution={given}/gldv2/retrieval_solution_v2.1.csv",
        "gldv2_retrieve",
        ours=False,
    ),
    "solution": Kind(
        "gldv2/retrieval_solution_v2.1.csv",
        "gldv2 score retrieval found.csv --json=out.json "
        "--solution=gldv2/retrieval_solution_v2.1.csv",
        "gldv2_retrieve",
        given="gldv2/retrieval_solution_v2.1.csv",
        ours=False,
    ),
    **{
        f"photo {name}": _photo(name)
        for name in (
            "photo.jpg photo.png photo.webp photo.gif photo.bmp photo.tif photo.ppm "
            "packed.tif progressive.jpg cmyk.jpg"
        ).split()
    },
    "tensorflow checkpoint": _weights("checkpoint", "*"),
    "saved model": _weights("saved_model", "*"),
    "pth": _weights("resnet.pth"),
    "legacy pth": _weights("legacy.pth"),
    "h5": _weights("resnet.h5"),
    "safetensors": _weights("resnet.safetensors"),
    "frozen graph": Kind(
        "weights/graph.pb",
        "inspect --all weights/graph.pb",
        given="weights/graph.pb",
        ours=False,
    ),
    "archives": Kind("server/*.tar*", "download", given="server", ours=False),
}
_NEED_MODEL = ("extract", "index", "search", "evaluate")


def names(*, slow: bool) -> list[str]:
    """The kinds of files."""
    return [name.replace(" ", "_") for name in KINDS]


def step(lab: Lab, rng: random.Random, name: str) -> tuple[str, Judgement]:
    """Damages one file of a kind once, and reads it."""
    kind = find(name)
    expected = reference(lab, name)
    fill(lab, kind)
    path = rng.choice(files_to_damage(lab, kind))
    what = damage(path, rng)
    return f"{what} of {path.relative_to(lab.work)}", read(lab, kind, expected)


def find(name: str) -> Kind:
    return next(k for n, k in KINDS.items() if n.replace(" ", "_") == name)


def fill(lab: Lab, kind: Kind) -> None:
    """Puts the files of a kind into the folder of this step."""
    lab.fill(kind.needs.split())
    if kind.given:
        source, target = lab.given / kind.given, lab.work / kind.given
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def files_to_damage(lab: Lab, kind: Kind) -> list[pathlib.Path]:
    found = sorted(path for path in lab.work.glob(kind.files) if path.is_file())
    if not found:
        raise RuntimeError(f"{kind.files}: no such files in {files_of(lab.work)}")
    return found


class Expected(NamedTuple):
    """What a reader makes of files that are as they were."""

    out: str
    contents: dict[str, str]


def reference(lab: Lab, name: str) -> Expected:
    """The result of reading a kind of files undamaged, once."""
    key = "read", name
    if key not in lab.references:
        kind, before = find(name), lab.folder
        lab.folder = lab.made / f"read_{name}"
        lab.work.mkdir(parents=True)
        fill(lab, kind)
        outcome = run_reader(lab, kind)
        if outcome.status:
            raise RuntimeError(f"{name}: {outcome.err[-2000:]}")
        lab.references[key] = Expected(_plain(lab, outcome.out), _results(lab, kind))
        lab.folder = before
    return lab.references[key]


def read(
    lab: Lab, kind: Kind, expected: Expected, *, ours: bool | None = None
) -> Judgement:
    """The verdict on reading the files of this step."""
    outcome = run_reader(lab, kind)
    equal, different = False, ""
    if outcome.status == 0:
        try:
            found = list(differences(expected.contents, _results(lab, kind)))
        except RuntimeError as error:
            found = [f"the result cannot be read: {error!s:.200}"]
        if _plain(lab, outcome.out) != expected.out and not expected.contents:
            found.append("prints something else")
        equal, different = not found, "; ".join(found[:3])
    checked = kind.ours if ours is None else ours
    judgement = judge(outcome, equal, has_checksum=checked)
    return judgement._replace(reason=f"{judgement.reason} ({different})"[:600])


def run_reader(lab: Lab, kind: Kind) -> Outcome:
    """What became of the command that reads a kind."""
    if kind.reader in FUNCTIONS:
        function = FUNCTIONS[kind.reader]
        run = lambda: _as_command(function, lab)  # noqa: E731
        return processes.Child([], lab.work, before=run).wait(LIMIT)
    if kind.reader == "download":
        arguments = ["download", "campaign", "--yes", "--unpack", "--out=out"]
        offer = lambda: offer_downloads(lab.work / "server")  # noqa: E731
        return processes.Child(arguments, lab.work, before=offer).wait(LIMIT)
    arguments = kind.reader.split()
    if arguments[0] in _NEED_MODEL and "--model" not in kind.reader:
        arguments.append(MODEL)
    return lab.run(arguments, LIMIT)


def _results(lab: Lab, kind: Kind) -> dict[str, str]:
    """What the reader wrote."""
    return processes.call(lambda: contents(lab.work, kind.results), lab.work)


def _plain(lab: Lab, out: str) -> str:
    """What was printed, but for times."""
    lines = out.replace(str(lab.folder), "").splitlines()
    return "\n".join(line for line in lines if " s, " not in line)


def _as_command(function: Callable[[Lab], object], lab: Lab) -> None:
    """Calls a function; an InputError is printed as commands print it."""
    from delf_jax.files import InputError

    try:
        function(lab)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _read_prepared(lab: Lab) -> None:
    """Reads all examples, as a training does that finds them prepared."""
    from delf_jax.data import image_lists, prepare
    from delf_jax.files import digest

    listed = image_lists.list_records(str(lab.given / "images"))
    found = prepare.prepare("images", listed, "prepared", max_side=128)
    examples = [found.images[i] for i in range(len(found.images))]
    values = [[str(e["id"]), digest(bytes(e["image"]))] for e in examples]
    pathlib.Path("out.json").write_text(json.dumps(sorted(values)))


FUNCTIONS = {"read_prepared": _read_prepared}


def damage(path: pathlib.Path, rng: random.Random) -> str:
    """Changes a file, and says how."""
    data = path.read_bytes()
    if not data or rng.random() < 0.1:
        return rng.choice((_remove, _exchange, _empty, _replace_by_folder))(path, rng)
    kinds = (_flip, _flip, _flip, _cut, _zero, _repeat, _swap, _insert, _append)
    what, changed = rng.choice(kinds)(data, rng)
    path.write_bytes(changed)
    return what


def _flip(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    # Headers are short beside the data: each third flip is there.
    end = min(len(data), 400) if rng.random() < 0.3 else len(data)
    place, bit = rng.randrange(end), rng.randrange(8)
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return f"bit {bit} of byte {place} flipped", bytes(changed)


def _cut(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    length = rng.choice((rng.randrange(len(data)), len(data) - 1, min(8, len(data))))
    return f"cut to {length} of {len(data)} bytes", data[:length]


def _range(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 16, 512, 4096)))


def _zero(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    start, end = _range(data, rng)
    return f"bytes {start}:{end} zero", data[:start] + bytes(end - start) + data[end:]


def _repeat(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    start, end = _range(data, rng)
    return f"bytes {start}:{end} twice", data[:end] + data[start:end] + data[end:]


def _swap(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    (a, b), (c, d) = sorted((_range(data, rng), _range(data, rng)))
    b = min(b, c)
    changed = data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
    return f"bytes {a}:{b} and {c}:{d} exchanged", changed


def _insert(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    place, size = rng.randrange(len(data) + 1), rng.choice((1, 3, 100))
    more = rng.randbytes(size)
    return f"{size} bytes inserted at {place}", data[:place] + more + data[place:]


def _append(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    return "bytes appended", data + rng.randbytes(rng.choice((1, 100)))


def _remove(path: pathlib.Path, rng: random.Random) -> str:
    path.unlink()
    return "removal"


def _empty(path: pathlib.Path, rng: random.Random) -> str:
    path.write_bytes(b"")
    return "nothing left"


def _replace_by_folder(path: pathlib.Path, rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder instead"


def _exchange(path: pathlib.Path, rng: random.Random) -> str:
    """Exchanges it with another file of its folder."""
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    if not others:
        return _empty(path, rng)
    other = rng.choice(sorted(others))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)
    return f"exchange with {other.name}"
