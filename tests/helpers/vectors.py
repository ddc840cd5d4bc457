"""An engine of vectors in one JSON file, which finds what is nearest exactly.

It has no transactions: a process that dies leaves what it had put there.
"""

import re

import numpy as np

from delf_jax.files import InputError, read_json, write_json
from delf_jax.index.vectors import engines
from delf_jax.index.vectors.seam import Count, check_owner, format_owner

_CONDITION = re.compile(r"(\w+) = '([^']*)'")


class FileVectors:
    """A table; with less effort than `needed` it overlooks every second photo."""

    needed = 1

    def __init__(self, place, owner):
        self.path, self.owner = f"{place}-table.json", owner
        try:
            self.table = read_json(self.path)
        except InputError:
            self.table = {"owner": format_owner(owner), "version": 0, "rows": {}}
        check_owner(f"{place}: its table", self.table["owner"], owner)

    def _write(self):
        self.table["version"] += 1
        write_json(self.path, self.table)

    def add(self, photos):
        self.table["owner"] = format_owner(self.owner)
        for ids, columns, descriptors in photos:
            for number, id in enumerate(ids):
                row = {name: values[number] for name, values in columns.items()}
                row["vector"] = descriptors[number].tolist()
                self.table["rows"][id] = row
            self._write()

    def remove(self, ids):
        for id in list(self.table["rows"]) if ids is None else ids:
            self.table["rows"].pop(id, None)
        self._write()

    def _matching(self, where):
        rows = {id: {"id": id, **row} for id, row in self.table["rows"].items()}
        if where:
            condition = _CONDITION.fullmatch(where)
            if condition is None:
                raise InputError(f"--where={where!r}: no condition")
            name, value = condition.groups()
            rows = {id: row for id, row in rows.items() if row[name] == value}
        return rows

    def nearest(self, queries, k, where="", effort=0):
        rows = self._matching(where)
        ids = np.array(sorted(rows))
        vectors = np.array([rows[id]["vector"] for id in ids], np.float32)
        step = 1 if effort in (0, *range(self.needed, 999)) else 2
        order = np.argsort(-queries @ vectors.T, axis=1)[:, ::step][:, :k]
        return ids[order].tolist()

    def count(self, where=""):
        return Count(len(self._matching(where)), str(self.table["version"]))


def use_file_engine(monkeypatch):
    """Makes `--vectors=file` an engine."""
    monkeypatch.setitem(engines.ENGINES, "file", FileVectors)
    monkeypatch.setattr(FileVectors, "needed", 1)
