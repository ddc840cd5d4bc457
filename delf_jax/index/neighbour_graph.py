"""The neighbour graph of a store, the part of diffusion that knows no query, on disk.

    neighbours.npz  beside the shards: the graph, and the key of photos and settings

Built when first needed, and again once photos or settings change or it is damaged:
the format has a CRC-32 of each part.
"""

import hashlib
import os
import pathlib
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float

from delf_jax.files import BROKEN_ZIP, atomic_write
from delf_jax.manifests import owned
from delf_jax.retrieval import reranking
from delf_jax.store.feature_store import FeatureStore

FORMAT = 1
_PARTS = ("data", "indices", "indptr")


def graph_path(store: FeatureStore) -> pathlib.Path:
    """Where the graph of a store is kept."""
    return store.path / "neighbours.npz"


def stored_graph(
    path: pathlib.Path | None, index: Float[np.ndarray, "M G"], **options: Any
) -> scipy.sparse.csr_array:
    """`reranking.neighbour_graph` of an index, from the file if it is that.

    Else it is built, and written to the file. None: there is no file.
    """
    if path is None:
        return reranking.neighbour_graph(index, **options)
    key = _key(index, options)
    graph = _read(path, key, len(index))
    if graph is None:
        graph = reranking.neighbour_graph(index, **options)
        _write(path, key, graph)
    return graph


def _key(index: Float[np.ndarray, "M G"], options: dict[str, Any]) -> str:
    """What a graph depends on, as a hex string."""
    settings = repr((FORMAT, index.shape, index.dtype.str, sorted(options.items())))
    digest = hashlib.sha256(settings.encode())
    digest.update(np.ascontiguousarray(index).data)
    return digest.hexdigest()


def _read(path: pathlib.Path, key: str, count: int) -> scipy.sparse.csr_array | None:
    """The graph with this key; None if the file has another, is absent or damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            parts = tuple(arrays[name] for name in _PARTS)
        graph = scipy.sparse.csr_array(parts, shape=(count, count))
        graph.check_format()
        return graph if np.isfinite(graph.data).all() else None
    except (*BROKEN_ZIP, KeyError):
        return None


def _write(path: pathlib.Path, key: str, graph: scipy.sparse.csr_array) -> None:
    parts = {name: getattr(graph, name) for name in _PARTS}
    try:
        with atomic_write(owned(path)) as file:
            np.savez(file, key=np.array(key), **parts)
    except OSError as error:  # A store that cannot be written to can still be read.
        if os.access(path.parent, os.W_OK):
            raise error
