"""What files are checked against: published digests, or that of the first download.

    SHA256SUMS   in a folder of downloads, a line for each file of which nothing is
                 published, as `sha256sum -c SHA256SUMS` reads it

A digest is "md5:" or "sha256:" and its hex digits, of which the last may be missing.
"""

import hashlib
import pathlib
import re

from delf_jax.files import InputError, atomic_write, read_text

SUMS = "SHA256SUMS"
TITLES = {"md5": "MD5", "sha256": "SHA-256"}
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def kept_digest(file: pathlib.Path) -> str:
    """The digest of the first download of a file; "" if there was none."""
    sums = _read(file.with_name(SUMS))
    return f"sha256:{sums[file.name]}" if file.name in sums else ""


def keep_digest(file: pathlib.Path, content: pathlib.Path) -> None:
    """Writes down the digest of a file, whose content is still under another name."""
    path = file.with_name(SUMS)
    _write(path, _read(path) | {file.name: digest_of(content, "sha256")})


def forget_digest(file: pathlib.Path) -> None:
    """The next download of a file will be as the first."""
    path = file.with_name(SUMS)
    sums = _read(path)
    if sums.pop(file.name, None):
        _write(path, sums)


def digest_of(file: pathlib.Path, kind: str) -> str:
    """The hex digits of a file's MD5 or SHA-256."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, kind).hexdigest()


def difference(file: pathlib.Path, expected: str) -> str:
    """How a file differs from a digest, in words; "" if it does not."""
    kind, _, digits = expected.partition(":")
    found = digest_of(file, kind)
    if found.startswith(digits):
        return ""
    return f"{TITLES[kind]} is {found[: len(digits)]}, not {digits}"


def _write(path: pathlib.Path, sums: dict[str, str]) -> None:
    with atomic_write(path, "w") as opened:
        opened.writelines(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _read(path: pathlib.Path) -> dict[str, str]:
    """name -> SHA-256."""
    if not path.exists():
        return {}
    sums = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError(
                f"{path}, line {number}: expected a SHA-256, two blanks and a name; "
                "remove the line"
            )
        sums[found[2]] = found[1]
    return sums
