import numpy as np
import pytest

from delf_jax.index import neighbour_graph
from delf_jax.retrieval import reranking

OPTIONS = {"neighbours": 4, "gamma": 3.0}


@pytest.fixture
def index(rng):
    rows = rng.normal(size=(30, 8)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def made(monkeypatch):
    """How often a graph was made."""
    calls = []
    make = reranking.neighbour_graph
    monkeypatch.setattr(
        reranking, "neighbour_graph", lambda *a, **k: calls.append(k) or make(*a, **k)
    )
    return calls


def same(a, b):
    return np.array_equal(a.toarray(), b.toarray())


def test_a_graph_is_made_once_and_is_then_read(index, made, tmp_path):
    path = tmp_path / "neighbours.npz"
    first = neighbour_graph.stored_graph(path, index, **OPTIONS)
    second = neighbour_graph.stored_graph(path, index, **OPTIONS)
    assert len(made) == 1 and same(first, second)
    assert same(first, reranking.neighbour_graph(index, **OPTIONS))
    assert [p.name for p in tmp_path.iterdir()] == ["neighbours.npz"]


def test_a_graph_of_other_photos_or_numbers_is_not_taken(index, made, tmp_path):
    path = tmp_path / "neighbours.npz"
    neighbour_graph.stored_graph(path, index, **OPTIONS)
    changed = index.copy()
    changed[3] = index[4]
    for rows, options in (
        (changed, OPTIONS),
        (index[:-1], OPTIONS),
        (index, {**OPTIONS, "neighbours": 5}),
        (index, {**OPTIONS, "gamma": 1.0}),
    ):
        count = len(made)
        found = neighbour_graph.stored_graph(path, rows, **options)
        assert len(made) == count + 1
        assert same(found, reranking.neighbour_graph(rows, **options))


def spoil_tail(content):
    return content[: len(content) // 2]


def spoil_middle(content):
    middle = len(content) // 2
    return content[:middle] + b"\xff" * 64 + content[middle + 64 :]


@pytest.mark.parametrize(
    "spoil", [spoil_tail, spoil_middle, lambda content: b"", lambda content: b"PK no"]
)
def test_a_damaged_graph_is_rebuilt(index, made, tmp_path, spoil):
    path = tmp_path / "neighbours.npz"
    first = neighbour_graph.stored_graph(path, index, **OPTIONS)
    path.write_bytes(spoil(path.read_bytes()))
    assert same(first, neighbour_graph.stored_graph(path, index, **OPTIONS))
    assert len(made) == 2
    neighbour_graph.stored_graph(path, index, **OPTIONS)
    assert len(made) == 2


def test_without_a_file_nothing_is_written(index, made):
    neighbour_graph.stored_graph(None, index, **OPTIONS)
    assert len(made) == 1


def test_no_flipped_bit_is_read_as_another_graph(index, made, tmp_path):
    path = tmp_path / "neighbours.npz"
    first = neighbour_graph.stored_graph(path, index, **OPTIONS)
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 100).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert same(first, neighbour_graph.stored_graph(path, index, **OPTIONS))
