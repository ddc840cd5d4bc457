"""The engine that docs/scale.md shows does what the seam asks for."""

import pathlib
import re
import shutil
import warnings

import numpy as np
import pytest

from delf_jax.index.vectors import engines, find, update
from delf_jax.index.vectors.update import Wanted

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "scale.md"
IDS = ["it's.jpg", *(f"a/{number}.jpg" for number in range(9))]


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_the_engine_of_the_page_serves_an_index(fill, forget, monkeypatch):
    pytest.importorskip("qdrant_client", reason="needs qdrant-client")
    monkeypatch.setattr(engines, "ENGINES", dict(engines.ENGINES))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}
    with warnings.catch_warnings(action="ignore"):
        exec(code, names)
    folder, _ = fill(IDS)
    update.update(folder, Wanted("qdrant"), progress=False)
    fill(["a/0.jpg", "new.jpg"])
    store = forget("a/1.jpg")
    update.update(folder, progress=False)
    queries = store.read_global([2, 5])
    table = find.open_table(folder, store, "folder = 'a'", "mend")
    exact = np.argsort(-queries @ store.read_global(range(len(store))).T, axis=1)
    inside = [row for row, id in enumerate(store.ids) if id.startswith("a/")]
    found = find.find_nearest(table, queries, 4)
    for (_, rows), expected in zip(found, exact, strict=True):
        assert rows.tolist() == [row for row in expected if row in inside][:4]
    names["connect"](str(folder / "vectors")).close()
    shutil.rmtree(folder)
