"""Odd input: names, files and pictures of people's folders, and odd machines."""

import errno
import os
import pathlib
import random
import shutil
import socket
from collections.abc import Callable
from typing import Any

from tests.campaign import processes
from tests.campaign.commands import MODEL, RECIPES
from tests.campaign.lab import Lab, files_of
from tests.campaign.verdicts import Judgement, Verdict, failure_of, wrong

LIMIT = 45.0  # seconds of a command.
# Of a command that reads the folder photos/, in which one thing is odd.
COMMANDS = (
    "extract photos --out=out",
    "index photos --index=out",
    "index --index=index --add photos",
    "search photos --index=index --json=out.json --html=out.html",
    "prepare --dataset=photos --data=out",
    "evaluate photos --index=out --json=out.json --html=out.html",
    "inspect photos",
    "extract {odd} --out=out",
    "match {odd} {given}/images/a/0.jpg --out=out.png --json=out.json",
    "search {odd} --index=index --json=out.json",
    "index {odd} --index=out",
    "inspect {odd}",
    "features {odd} out --from=delf",
    "rerank {odd} --index=index --out=out.json",
    "prepare --dataset={odd} --data=out",
    "evaluate {odd} --index=out",
    "convert {odd} --out=out",
    "plot {odd} --out=out.png",
    "search {given}/images/a/0.jpg --index={odd}",
    "match {given}/images/a/0.jpg {given}/images/a/1.jpg --model={odd}",
    "extract {given}/images/a --out={odd}",
    "extract {given}/images/a --out=out --config={odd}",
)
NAMES = (
    b"caf\xe9.jpg",
    b"new\nline.jpg",
    b"\x1b[31mred.jpg",
    b"tab\t.jpg",
    b"-dash.jpg",
    b"--out=x.jpg",
    b"*.jpg",
    b"[a-z]?.jpg",
    b"{0}%s%d.jpg",
    b"<script>alert(1)</script>.jpg".replace(b"/", b""),
    b"quote\"'.jpg",
    b" .jpg",
    b"a,b;c.jpg",
    "\u202egpj.jpg".encode(),
    "\u0130\xdf\u0301.jpg".encode(),
    "\U0001f600.jpg".encode(),
    b"x" * 251 + b".jpg",
    b".hidden.jpg",
    b"._0.jpg",
    b"no_suffix",
    b"UPPER.JPG",
    b"~.jpg",
    b"#.jpg",
    b"CON.jpg",
    b"back\\slash.jpg",
    b"\xff\xfe.jpg",
)


def _named(lab: Lab, path: pathlib.Path, rng: random.Random) -> pathlib.Path:
    """A good photo of an odd name, or in a folder of one."""
    name = os.fsdecode(rng.choice(NAMES))
    if rng.random() < 0.3:
        path = path.parent / name / "0.jpg"
        path.parent.mkdir()
    else:
        path = path.parent / name
    shutil.copy(lab.given / "photos" / "photo.jpg", path)
    return path


def _picture(lab: Lab, path: pathlib.Path, rng: random.Random) -> pathlib.Path:
    """A picture of an odd size or mode."""
    import numpy as np
    from PIL import Image

    def save(array: Any, suffix: str, mode: str | None = None, **options: Any) -> Any:
        image = Image.fromarray(array)
        image = image.convert(mode) if mode else image
        image.save(path.with_suffix(suffix), **options)
        return path.with_suffix(suffix)

    numbers = np.random.default_rng(rng.randrange(1000))
    colour = numbers.integers(0, 256, (40, 50, 3), np.uint8)
    deep = numbers.integers(0, 65536, (40, 50), np.uint16)
    height, width = rng.choice(((1, 1), (1, 50), (50, 1), (2, 3), (1, 65500), (9, 9)))
    kinds: list[Callable[[], Any]] = [
        lambda: save(np.zeros((height, width, 3), np.uint8), ".png"),
        lambda: save(np.zeros((height, width, 3), np.uint8), ".jpg"),
        lambda: save(deep, ".png"),
        lambda: save(deep, ".tif"),
        lambda: save(deep.astype(np.int32), ".tif"),
        lambda: save(deep.astype(np.float32), ".tif"),
        lambda: save(np.full((40, 50), np.nan, np.float32), ".tif"),
        lambda: save(colour, ".jpg", "CMYK"),
        lambda: save(colour, ".png", "1"),
        lambda: save(colour, ".png", "P"),
        lambda: save(colour, ".png", "LA"),
        lambda: save(colour, ".tif", "LAB"),
        lambda: save(colour, ".jpg", "YCbCr"),
        lambda: save(np.dstack([colour, colour[..., 0]]), ".webp"),
        lambda: save(
            colour, ".gif", save_all=True, append_images=[Image.fromarray(colour)] * 3
        ),
        lambda: save(
            colour, ".tif", save_all=True, append_images=[Image.fromarray(colour)] * 3
        ),
        lambda: save(
            colour, ".webp", save_all=True, append_images=[Image.fromarray(colour)] * 3
        ),
    ]
    return rng.choice(kinds)()


def _special(lab: Lab, path: pathlib.Path, rng: random.Random) -> pathlib.Path:
    """Something that is no regular file."""

    def bind() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            before = os.getcwd()
            os.chdir(path.parent)  # Addresses are short.
            server.bind(path.name)
            os.chdir(before)

    kinds: list[Callable[[], Any]] = [
        lambda: os.mkfifo(path),
        bind,
        path.mkdir,
        lambda: path.symlink_to("absent.jpg"),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to(".."),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/full"),
        lambda: path.symlink_to("/dev/null"),
        lambda: path.symlink_to(lab.given / "images"),
        lambda: path.symlink_to(lab.given / "photos" / "photo.jpg"),
        lambda: path.symlink_to("/proc/self/mem"),
    ]
    rng.choice(kinds)()
    return path


def _content(lab: Lab, path: pathlib.Path, rng: random.Random) -> pathlib.Path:
    """A file that is not what its name says."""
    wholes = files_of(lab.given)
    kinds: list[Callable[[], Any]] = [
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(rng.randbytes(5000)),
        lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 36),
        lambda: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        lambda: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
        lambda: path.write_text("[" * 100_000),
        lambda: path.write_bytes(b"\x80\x04" + b"(" * 100_000 + b"."),
        lambda: path.write_bytes(b"cos\nsystem\n(S'touch canary'\ntR."),
        lambda: path.write_bytes(b"image,label\n" + b"\0" * 10 + b",a\n"),
        lambda: path.write_bytes("image,label\n\xe4.jpg,b\n".encode("utf-16")),
        lambda: path.write_bytes(b"\xef\xbb\xbfid,images\nx,y\n"),
        lambda: path.write_text("id,images\n" + "x" * 300_000 + ",y\n"),
        lambda: shutil.copy(rng.choice(wholes), path),
        lambda: shutil.copy(rng.choice(wholes), path),
        lambda: shutil.copy(rng.choice(wholes), path),
    ]
    rng.choice(kinds)()
    suffixes = ("jpg", "csv", "json", "pkl", "mat", "pth", "h5", "pbtxt", "delf", "txt")
    renamed = path.with_suffix(f".{rng.choice(suffixes)}")
    return path.rename(renamed)


def _input(make: Callable[[Lab, pathlib.Path, random.Random], pathlib.Path]) -> Any:
    """A step in which one thing is odd in a folder of good photos."""

    def run(lab: Lab, rng: random.Random) -> tuple[str, Judgement]:
        lab.fill(["index"])
        shutil.copytree(lab.given / "images", lab.work / "photos")
        odd = make(lab, lab.work / "photos" / "a" / "odd.jpg", rng)
        odd = odd.relative_to(lab.work)
        command = rng.choice(COMMANDS)
        arguments = [a.replace("{odd}", str(odd)) for a in command.split()]
        if arguments[0] in ("extract", "index", "search", "match", "evaluate"):
            arguments += [] if "--model" in command else [MODEL]
        outcome = lab.run(arguments, LIMIT)
        what = f"{odd!s:.80} ({_kind_of(lab.work / odd)}) for {command}"
        return what, _judge(outcome)

    return run


def _kind_of(path: pathlib.Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_file():
        with open(path, "rb") as file:
            return f"{path.stat().st_size} bytes, {file.read(12)!r}"
    return "folder" if path.is_dir() else "no regular file"


def _judge(outcome: processes.Outcome) -> Judgement:
    if failure := failure_of(outcome):
        return wrong(failure)
    return Judgement(Verdict.REFUSED if outcome.status else Verdict.EQUAL)


def _full_disk(lab: Lab, rng: random.Random) -> tuple[str, Judgement]:
    """A disk that fills up, then the same with room."""
    from tests.campaign import kills

    names = [n for n, r in RECIPES.items() if not r.slow]
    name = rng.choice(names)
    # Less would leave no room for the messages.
    recipe, size = RECIPES[name], rng.choice((2000, 4000, 8000, 20_000))
    key = name.replace(" ", "_")
    lab.reference(key)
    lab.fill(recipe.needs)
    synced, left = os.fsync, rng.randrange(4)

    def no_room(descriptor: int) -> None:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        synced(descriptor)

    by_size = rng.random() < 0.6

    def fill_disk() -> None:
        if by_size:
            processes.limit_file_size(size)
        else:
            os.fsync = no_room

    outcome = processes.Child(
        lab.arguments(recipe.arguments), lab.work, before=fill_disk, counts=False
    ).wait(LIMIT)
    what = f"{name}: " + (f"files of {size} bytes" if by_size else "no room at fsync")
    if recipe.arguments[0] == "download":  # Its server was not there.
        return what, Judgement(Verdict.EQUAL)
    if failure := failure_of(outcome):
        return what, wrong(failure)
    return what, kills.run_again(lab, key)


def _machine(lab: Lab, rng: random.Random) -> tuple[str, Judgement]:
    """A command as a shell starts it, in odd circumstances."""
    lab.fill(["index"])
    photos = lab.work / "photos"
    shutil.copytree(lab.given / "images", photos)
    shutil.copy(photos / "a" / "0.jpg", photos / "a" / "\xfc.jpg")
    shutil.copy(photos / "a" / "0.jpg", photos / "a" / os.fsdecode(b"\xfc.jpg"))
    commands = (
        "extract photos --out=out",
        "index photos --index=out",
        "search photos --index=index --json=out.json --html=out.html",
        "search photos --index=index --json=-",
        "search photos --index=index --json=/dev/stdout",
        "search photos --index=index --json=/dev/full",
        "inspect index",
        "prepare --dataset=photos --data=out",
        "evaluate photos --index=out --json=-",
        "match photos/a/0.jpg photos/a/1.jpg --out=out.png",
    )
    shells = (
        'exec "$@"',
        'exec "$@" >&-',
        'exec "$@" 2>&-',
        'exec "$@" <&- >&- 2>&-',
        'exec "$@" >/dev/full',
        'exec "$@" 2>/dev/full',
        '"$@" | head -c 1',
        'ulimit -v 3000000; exec "$@"',
        'ulimit -v 800000; exec "$@"',
        'ulimit -n 40; exec "$@"',
        'ulimit -u 1; exec "$@"',
        'ulimit -s 256; exec "$@"',
        'umask 0777; exec "$@"',
        'mkdir gone; cd gone; rmdir ../gone; exec "$@"',
    )
    environments = (
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
        {"LC_ALL": "tr_TR.UTF-8"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
        {"TMPDIR": "/nonexistent"},
        {"COLUMNS": "1"},
        {"PYTHONIOENCODING": "ascii"},
        {"DELF_JAX_CACHE": "/dev/null/x"},
    )
    command, shell, environment = rng.choice(commands), shells[0], {}
    if rng.random() < 0.5:
        shell = rng.choice(shells)
    else:
        environment = rng.choice(environments)
    arguments = command.split()
    if arguments[0] not in ("inspect", "prepare"):
        arguments.append(MODEL)
    outcome = processes.run_program(
        lab.arguments(arguments),
        lab.work,
        LIMIT,
        environment=environment,
        shell=shell,
    )
    what = f"{command} with {environment or shell}"
    silent = "2>&-" in shell or "2>/dev/full" in shell
    if silent and outcome.status in (0, 1, 2, 120):
        return what, Judgement(Verdict.REFUSED if outcome.status else Verdict.EQUAL)
    return what, _judge(outcome)


def _forbidden(lab: Lab, rng: random.Random) -> tuple[str, Judgement]:
    """Files and folders that may not be read, or not be written to."""
    lab.fill(["index"])
    shutil.copytree(lab.given / "images", lab.work / "photos")
    names = ("photos/a/0.jpg", "photos/a", "photos", "index", "index/index.json")
    more = ("index/store", "index/store/manifest.json", "index/store/shards", ".")
    path, mode = lab.work / rng.choice(names + more), rng.choice((0o000, 0o555))
    command = rng.choice([c for c in COMMANDS if "{odd}" not in c])
    arguments = command.split()
    if arguments[0] in ("extract", "index", "search", "evaluate"):
        arguments.append(MODEL)
    path.chmod(mode)

    child = processes.Child(
        lab.arguments(arguments),
        lab.work,
        before=processes.drop_capabilities,
        counts=False,
    )
    outcome = child.wait(LIMIT)
    path.chmod(0o755)
    return f"{path.relative_to(lab.work)} {mode:o}: {command}", _judge(outcome)


STEPS = {
    "names": _input(_named),
    "pictures": _input(_picture),
    "special files": _input(_special),
    "other content": _input(_content),
    "forbidden": _forbidden,
    "full disk": _full_disk,
    "machine": _machine,
}


def names(*, slow: bool) -> list[str]:
    """The kinds of odd input."""
    return [name.replace(" ", "_") for name in STEPS]


def step(lab: Lab, rng: random.Random, name: str) -> tuple[str, Judgement]:
    """One command on something odd."""
    (run,) = (r for n, r in STEPS.items() if n.replace(" ", "_") == name)
    return run(lab, rng)
