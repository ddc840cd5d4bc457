"""The engines there are, by the names that `index --vectors` gives them."""

import pathlib
from collections.abc import Callable

from delf_jax.files import InputError
from delf_jax.index.vectors import lance, record
from delf_jax.index.vectors.record import Record, place_of
from delf_jax.index.vectors.seam import Owner, Vectors
from delf_jax.store.feature_store import FeatureStore

# From where a table is, and whose it has to be, to the table, which may be absent.
ENGINES: dict[str, Callable[[str, Owner], Vectors]] = {"lancedb": lance.open_table}


def parse_engine(text: str) -> tuple[str, str]:
    """(name, URI) of `name` or `name:URI`; the URI is "" for the folder of the index.

    InputError for another engine.
    """
    name, _, uri = text.partition(":")
    if name not in ENGINES:
        known = ", ".join(f"{each}, {each}:URI" for each in ENGINES)
        raise InputError(f"--vectors={text}: expected one of {known}")
    return name, uri


def open_vectors(
    directory: pathlib.Path, known: Record, model: str, fingerprint: str
) -> Vectors:
    """The table that an index has; it may be absent.

    Args:
      model, fingerprint: of global descriptors.
    """
    if known.engine not in ENGINES:
        raise InputError(
            f"{directory / record.NAME}: engine {known.engine!r:.40} is none of "
            f"{', '.join(ENGINES)}; index the photos again with --vectors"
        )
    owner = Owner(known.token, model, fingerprint, known.dimension)
    return ENGINES[known.engine](place_of(directory, known), owner)


def made_by(store: FeatureStore) -> tuple[str, str]:
    """Name and fingerprint of the model of a store's global descriptors."""
    model = store.manifest.get("global_model", store.manifest["model"])
    return model["name"], model["fingerprint"]
