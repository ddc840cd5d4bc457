"""What tests of tables share: an index without photos, whose store is drawn."""

import numpy as np
import pytest

from delf_jax.features import Features
from delf_jax.index.photo_places import Places, write_places
from delf_jax.store import feature_store
from tests.helpers.stores import add_features
from tests.helpers.vectors import use_file_engine

DIMENSION = 8


@pytest.fixture
def fill(tmp_path):
    """Draws global descriptors of these photos anew: (folder, store)."""
    rng = np.random.default_rng(0)

    def fill(ids, dimension=DIMENSION, **manifest):
        rows = rng.normal(size=(len(ids), dimension)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        features = {
            id: Features(None, row, (40, 60)) for id, row in zip(ids, rows, strict=True)
        }
        store = add_features(tmp_path / "ix" / "store", features, **manifest)
        write_places(tmp_path / "ix", Places(tmp_path / "photos", {}))
        return tmp_path / "ix", store

    return fill


@pytest.fixture
def forget(tmp_path):
    """Removes photos from that store, which it gives."""

    def forget(*ids):
        feature_store.remove_from_store(tmp_path / "ix" / "store", ids)
        return feature_store.open_store(tmp_path / "ix" / "store")

    return forget


@pytest.fixture
def engine(monkeypatch):
    use_file_engine(monkeypatch)
