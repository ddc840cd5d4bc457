"""What a catalogue of downloads is made of."""

from collections.abc import Iterator
from typing import NamedTuple


class Files(NamedTuple):
    """One file, or numbered ones: {} in `url`, `path` and `md5` stands for a number."""

    url: str
    path: str
    """within the folder of the dataset"""
    size: int | None = None
    """bytes of one, as documented, about; None: not documented"""
    numbers: tuple[str, ...] = ("",)
    md5: str = ""
    """address of a file whose first word is the MD5; "": none is published"""
    unpack: str = ""
    """folder for what an archive holds; "": no archive"""
    digest: str = ""
    """"md5:" or "sha256:" and its first hex digits, as published; "": none is"""

    def each(self) -> Iterator["Files"]:
        """The single files."""
        for number in self.numbers:
            texts = (self.url, self.path, self.md5)
            url, path, md5 = (text.replace("{}", number) for text in texts)
            yield self._replace(url=url, path=path, md5=md5, numbers=("",))


class Use(NamedTuple):
    """What a released artefact becomes."""

    kind: str
    """"model", which is converted, "detector" or "codebook", which are used as such"""
    source: str
    """where it lies in the folder of the download: a pattern that one path matches"""
    whitening: str = ""
    """where a model's whitening lies; "": it has none of its own"""


class Download(NamedTuple):
    """A dataset or an artefact, or a part of one that is of use by itself."""

    about: str
    documented: str
    """where the addresses and terms stand"""
    files: tuple[Files, ...]
    use: Use | None = None
    """None: of a dataset"""
