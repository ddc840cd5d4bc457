"""Tuples of images: what an epoch draws, mines and reads."""

import pickle

import cv2
import numpy as np
import pytest

from delf_jax.data import loader, tuples
from delf_jax.files import InputError

SETTINGS = tuples.TupleSettings(queries=6, pool=9, negatives=2)
SIZE = 32


def draw(path, number, size=(24, 40)):
    image = np.full((*size, 3), 20 * number, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def open_pool(sources, directory):
    opened, _ = loader.open_sources(sources, str(directory), max_side=64)
    listings = {n: s["path"] for n, s in sources.items() if s["path"].endswith("pkl")}
    return tuples.open_pool(opened, listings)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Four classes of three images, one of one, and one without a class."""
    root = tmp_path_factory.mktemp("images")
    for number in range(12):
        draw(root / "abcd"[number // 3] / f"{number}.png", number)
    draw(root / "alone" / "12.png", 12)
    draw(root / "13.png", 5, (80, 20))
    return open_pool({"x": {"path": str(root)}}, tmp_path_factory.mktemp("data"))


def batches(pool, settings=SETTINGS, **changes):
    arguments = {"size": SIZE, "batch_size": 2, "seed": 3, "threads": 2} | changes
    return tuples.TupleBatches(pool, settings, **arguments)


def describe(numbers):
    """Descriptors that do not depend on the company."""
    return np.stack([np.random.default_rng(n).normal(size=4) for n in numbers])


def test_positives_show_the_same_and_are_other_images(pool):
    seen = set()
    for epoch in range(5):
        drawn = tuples.draw_epoch(pool, 0, epoch, 100, 5)
        assert len(set(drawn.queries)) == len(drawn.queries) == 12
        np.testing.assert_array_equal(
            pool.clusters[drawn.queries], pool.clusters[drawn.positives]
        )
        assert (drawn.queries != drawn.positives).all()
        assert len(set(drawn.candidates)) == 5
        seen |= set(zip(drawn.queries.tolist(), drawn.positives.tolist(), strict=True))
    assert len(seen) == 24  # of each image with the two others of its class.


def test_an_epoch_depends_on_seed_and_number_alone(pool):
    one, same, next_one, other = (
        tuples.draw_epoch(pool, *pair, 6, 9)
        for pair in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    for first, second in zip(one, same, strict=True):
        np.testing.assert_array_equal(first, second)
    for different in (next_one, other):
        assert any(
            not np.array_equal(*pair) for pair in zip(one, different, strict=True)
        )


def test_a_batch_is_query_positive_and_negatives_on_canvases(pool):
    stream = batches(pool)
    stream.mine(describe)
    batch = next(stream)
    assert batch["image"].shape == (2, 4, SIZE, SIZE, 3)
    assert batch["size"].shape == (2, 4, 2)
    columns = batch["id"], batch["image"], batch["size"], batch["label"]
    for id, images, sizes, label in zip(*columns, strict=True):
        query = pool.ids.index(id)
        assert pool.clusters[query] == label
        # 24 x 40 and 80 x 20, shrunk to 32.
        assert {tuple(size) for size in sizes.tolist()} <= {(19, 32), (32, 8)}
        assert tuple(sizes[0]) == (19, 32)
        assert not images[0, 19:].any()
        shown = [int(np.median(x[:8, :8])) // 19 for x in images[:2]]
        assert shown[0] != shown[1]
        canvas, size = tuples.read_canvas(pool, query, SIZE)
        np.testing.assert_array_equal(images[0], canvas)


def run(stream, count):
    """(ids, images) of batches, mined whenever it is due."""
    found = []
    for _ in range(count):
        if stream.due:
            stream.mine(describe)
        batch = next(stream)
        found.append((batch["id"].tolist(), batch["image"]))
    return found


def assert_same(one, other):
    for (ids, images), (other_ids, other_images) in zip(one, other, strict=True):
        assert ids == other_ids
        np.testing.assert_array_equal(images, other_images)


def test_it_resumes_from_any_state_without_mining_again(pool):
    whole = run(batches(pool), 8)
    for stop in (1, 3, 4):  # within the first epoch of three batches, at its end, after
        stream = batches(pool)
        run(stream, stop)
        state = stream.get_state()
        fresh = batches(pool)
        fresh.set_state(state)
        assert fresh.due == (stop == 3)
        assert_same(whole[stop:], run(fresh, 8 - stop))


def test_hosts_share_the_tuples_of_a_batch(pool):
    whole = run(batches(pool, batch_size=2), 3)
    parts = [run(batches(pool, batch_size=1, part=(i, 2)), 3) for i in (0, 1)]
    for (ids, _), *host in zip(whole, *parts, strict=True):
        assert ids == [host[0][0][0], host[1][0][0]]


def test_pairs_of_sfm120k_are_kept_without_missing_images(tmp_path):
    names = [f"abcde{n}" for n in range(6)]
    for number, name in enumerate(names[:5]):  # the last cannot be read
        path = tmp_path / "ims" / name[-2:] / name[-4:-2] / name[-6:-4] / name
        draw(path.with_suffix(".png"), number)
        path.with_suffix(".png").rename(path)
    part = {"cids": names, "cluster": [7, 7, 8, 8, 9, 9]}
    part |= {"qidxs": [1, 2, 4], "pidxs": [0, 3, 5]}
    folder = tmp_path / "train"
    folder.mkdir()
    listing = folder / "retrieval-SfM-120k.pkl"
    listing.write_bytes(pickle.dumps({"train": part, "val": part}))
    pool = open_pool({"sfm": {"path": str(listing)}}, tmp_path / "data")
    pairs = [(pool.ids[q], pool.ids[p]) for q, p in pool.pairs]
    assert pairs == [("sfm/abcde1", "sfm/abcde0"), ("sfm/abcde2", "sfm/abcde3")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": 9}, "tuples.negatives: 9 negatives of different clusters"),
        ({"queries": 1}, "batch_size 2: an epoch has only 1 queries"),
    ],
)
def test_too_little_for_an_epoch_is_reported(pool, changes, message):
    settings = SETTINGS._replace(**changes)
    with pytest.raises(InputError, match=message):
        batches(pool, settings).mine(describe)


def test_images_of_which_no_two_show_the_same_are_refused(pool):
    single = pool._replace(clusters=np.arange(len(pool.ids)))
    with pytest.raises(InputError, match="no two images show the same"):
        tuples.draw_epoch(single, 0, 0, 3, 3)
