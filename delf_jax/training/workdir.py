"""What a workdir has beside checkpoints: a lock, while it is written, and classes."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from delf_jax import manifests
from delf_jax.files import InputError, digest

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

Classes = Mapping[str, Sequence[str]]
LOCK, CLASSES = ".lock", "classes.json"
_SCHEMA = {"format": manifests.one_of(1), "classes": {str: [str]}}
_REPAIR = "remove it: the next training writes it again"


@contextlib.contextmanager
def locked(
    folder: pathlib.Path,
    program: str = "training",
    remedy: str = "wait for its end, or choose another --workdir",
) -> Iterator[None]:
    """A context that one process of a machine or network is in at a time.

    The system ends the lock with its process, however that ends. InputError with the
    remedy if another one is in it. Where a filesystem has no locks, that is printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with (folder / LOCK).open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{folder}: another {program} is running in it "
                f"({file.read(200).strip() or 'just begun'}); {remedy}"
            ) from None
        except OSError as error:
            print(
                f"{folder}: its filesystem has no locks ({error.strerror}): see that "
                f"no other {program} runs in it",
                flush=True,
            )
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield


def digest_classes(classes: Classes) -> str:
    """A digest of the classes of all sources in their order, which numbers them."""
    return digest({name: list(of) for name, of in classes.items()}, 16)


def write_classes(folder: pathlib.Path, classes: Classes) -> None:
    """Writes the names of the classes of each source, in the order of their numbers."""
    content = {"format": 1, "classes": {n: list(x) for n, x in classes.items()}}
    manifests.write_manifest(folder / CLASSES, content)


def check_classes(
    folder: pathlib.Path, where: str, before: str, classes: Classes
) -> None:
    """InputError, naming a class, if these are not those of the checkpoint `where`.

    Args:
      folder: the workdir.
      before: their `digest_classes`; empty: of an older version, which kept none.
    """
    if not before or before == digest_classes(classes):
        return
    change = "its classes have changed"
    if (folder / CLASSES).is_file():
        known = manifests.read_manifest(folder / CLASSES, _SCHEMA, _REPAIR)["classes"]
        change = next(_changes(known, classes), change)
    raise InputError(
        f"{where}: cannot go on, as {change}, which would number all anew; restore the "
        "classes that it was trained with or choose another --workdir"
    )


def _changes(before: Classes, now: Classes) -> Iterator[str]:
    """What has changed in each source, in words."""
    for name in {**before, **now}:
        there, here = (list(each.get(name, ())) for each in (before, now))
        gone, new = (
            [label for label in one if label not in other]
            for one, other in ((there, set(here)), (here, set(there)))
        )
        words = [f"class {gone[0]!r} is gone"] if gone else []
        words += [f"class {new[0]!r} is new"] if new else []
        if more := len(gone[1:]) + len(new[1:]):
            words.append(f"{more} more differ")
        if words:
            yield f"in data.sources.{name} {' and '.join(words)}"
