"""A store of objects under s3://, in a folder of this machine."""

import pathlib

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


def make_bucket(folder: pathlib.Path) -> pathlib.Path:
    """The folder of `s3://bucket`, for as long as no other is made."""

    class Store(DirFileSystem):
        protocol, cachable = "s3", False

        def __init__(self, **_):
            super().__init__(str(folder), LocalFileSystem(auto_mkdir=True))

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("s3://")

    fsspec.register_implementation("s3", Store, clobber=True)
    bucket = folder / "bucket"
    bucket.mkdir(parents=True)
    return bucket
