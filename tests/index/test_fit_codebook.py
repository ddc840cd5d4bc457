import numpy as np
import pytest

from delf_jax import cli
from delf_jax.files import InputError
from delf_jax.formats import tensor_files
from delf_jax.index import fit_codebook
from delf_jax.index.codebook import TENSORS, UNFINISHED, check_codebook, load_codebook
from delf_jax.retrieval import kmeans
from delf_jax.store.local_descriptors import gather, open_descriptors
from tests.helpers.stores import draw_store, write_descriptors


@pytest.fixture
def clustered(tmp_path, rng):
    """(store, its descriptors): 20 images of ten clusters far apart."""
    centres = 10 * rng.normal(size=(10, 6))
    images = [
        (centres[rng.integers(0, 10, 30)] + rng.normal(size=(30, 6))).astype(np.float32)
        for _ in range(20)
    ]
    return write_descriptors(tmp_path / "store", images), np.concatenate(images)


def fit(store, out, **options):
    return fit_codebook.fit_codebook(
        store, out, **{"progress": False, "words": 10} | options
    )


def naive_kmeans(x, centroids, iterations):
    """Of clusters that are never empty, in float64."""
    for _ in range(iterations):
        distances = ((x[:, None].astype(float) - centroids[None]) ** 2).sum(axis=2)
        words = distances.argmin(axis=1)
        centroids = np.stack([x[words == k].mean(axis=0) for k in range(4)])
    return centroids


def test_a_codebook_is_what_lloyds_iterations_give(clustered, tmp_path):
    store, x = clustered
    found = fit(store, tmp_path / "a", words=4, iterations=4, seed=3)
    start = fit_codebook._start(
        open_descriptors(store), 4, "sample", np.random.default_rng([3, 0])
    )
    np.testing.assert_allclose(found.centroids, naive_kmeans(x, start, 4), rtol=1e-4)
    loaded = load_codebook(tmp_path / "a")
    np.testing.assert_array_equal(loaded.centroids, found.centroids)
    assert loaded.info["model"]["fingerprint"] == "f" * 64
    assert loaded.info["features_key"] == "drawn"
    assert loaded.info["descriptors"] == 600 and loaded.info["images"] == 20
    given = open_descriptors(store)
    check_codebook(loaded, given.store.manifest, given.dimension)
    assert not (tmp_path / "a" / UNFINISHED).exists()


def test_a_start_far_apart_finds_the_clusters(clustered, tmp_path):
    store, _ = clustered
    found = fit(store, tmp_path / "a", start="kmeans++", iterations=30)
    history = found.info["history"]
    assert history[-1]["moved"] == 0 and len(history) < 30
    assert history[-1]["mean_squared_distance"] == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize("start", fit_codebook.STARTS)
def test_the_same_seed_gives_the_same_bytes(clustered, tmp_path, start):
    store, _ = clustered
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(store, tmp_path / name, iterations=3, seed=seed, start=start)
    bytes_of = {n: (tmp_path / n / TENSORS).read_bytes() for n in "abc"}
    assert bytes_of["a"] == bytes_of["b"] != bytes_of["c"]


def test_an_interrupted_fit_resumes_to_the_same_bytes(clustered, tmp_path, monkeypatch):
    store, _ = clustered
    fit(store, tmp_path / "whole", iterations=5)
    passes = []

    def interrupted(*arguments, real=kmeans.lloyd_pass):
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(kmeans, "lloyd_pass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(store, tmp_path / "torn", iterations=5)
    with pytest.raises(InputError, match="not finished"):
        load_codebook(tmp_path / "torn")
    fit(store, tmp_path / "torn", iterations=5)
    assert len(passes) == 6
    whole, torn = (tmp_path / n / TENSORS for n in ("whole", "torn"))
    assert whole.read_bytes() == torn.read_bytes()


def test_what_was_left_by_other_options_or_is_damaged_is_not_used(clustered, tmp_path):
    store, _ = clustered
    expected = fit(store, tmp_path / "new", iterations=2)
    fit(store, tmp_path / "old", iterations=4)
    fit(store, tmp_path / "old", iterations=2, seed=5)
    tensor_files.write_tensors(
        tmp_path / "old" / UNFINISHED,
        {"centroids": np.zeros((10, 6), np.float32), "weights": np.zeros(10, int)},
        {"key": expected.info["key"], "history": [{"moved": 0}], "sha256": ""},
    )
    found = fit(store, tmp_path / "old", iterations=2)
    np.testing.assert_array_equal(found.centroids, expected.centroids)


def test_a_finished_fit_resumes_with_more_iterations(clustered, tmp_path):
    store, _ = clustered
    fit(store, tmp_path / "a", iterations=2)
    further = fit(store, tmp_path / "a", iterations=4)
    whole = fit(store, tmp_path / "b", iterations=4)
    np.testing.assert_array_equal(further.centroids, whole.centroids)
    fewer = fit(store, tmp_path / "a", iterations=2)
    assert len(fewer.info["history"]) == 2


def naive_mini_batches(given, centroids, batch, seed, iterations):
    """One descriptor after the other, as [Sculley] has it, in float64."""
    centroids = centroids.astype(np.float64)
    weights = np.zeros(len(centroids))
    per_iteration = -(-fit_codebook.DRAWN_PER_WORD * len(centroids) // batch)
    for iteration in range(1, iterations + 1):
        for number in range(per_iteration):
            rng = np.random.default_rng([seed, iteration, number])
            rows = np.sort(rng.choice(given.total, batch, replace=False))
            x = gather(given, rows).astype(np.float64)
            distances = ((x[:, None] - centroids[None]) ** 2).sum(axis=2)
            for row, word in zip(x, distances.argmin(axis=1), strict=True):
                weights[word] += 1
                centroids[word] += (row - centroids[word]) / weights[word]
    return centroids


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_mini_batches_are_what_sculleys_steps_give(
    clustered, tmp_path, monkeypatch, chunk
):
    store, _ = clustered
    monkeypatch.setattr(fit_codebook, "CHUNK", chunk)
    found = fit(store, tmp_path / "a", words=4, iterations=3, batch=25, seed=3)
    given = open_descriptors(store)
    start = fit_codebook._start(given, 4, "sample", np.random.default_rng([3, 0]))
    expected = naive_mini_batches(given, start, 25, 3, 3)
    np.testing.assert_allclose(found.centroids, expected, rtol=1e-4, atol=1e-5)
    assert found.info["batch"] == 25 and len(found.info["history"]) == 3
    assert found.info["history"][0]["empty"] == 0


def test_mini_batches_come_close_to_full_passes(clustered, tmp_path):
    store, x = clustered
    distances = []
    for name, batch in (("full", None), ("batches", 60)):
        options = {"start": "kmeans++", "iterations": 8, "seed": 1, "batch": batch}
        centroids = fit(store, tmp_path / name, **options).centroids
        squares = ((x[:, None] - centroids[None]) ** 2).sum(axis=2)
        distances.append(squares.min(axis=1).mean())
    assert distances[1] < 1.05 * distances[0]


def test_interrupted_mini_batches_go_on_to_the_same_bytes(
    clustered, tmp_path, monkeypatch
):
    store, _ = clustered
    options = {"iterations": 4, "batch": 50}
    fit(store, tmp_path / "whole", **options)
    batches = []

    def interrupted(*arguments, real=kmeans.average_in):
        batches.append(1)
        if len(batches) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(kmeans, "average_in", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(store, tmp_path / "torn", **options)
    assert (tmp_path / "torn" / UNFINISHED).exists()
    fit(store, tmp_path / "torn", **options)
    # Two batches an iteration: the third was begun, and is done again.
    assert len(batches) == 5 + 4
    whole, torn = (tmp_path / n / TENSORS for n in ("whole", "torn"))
    assert whole.read_bytes() == torn.read_bytes()
    # Without weights more iterations start again, and give the same as if at once.
    further = fit(store, tmp_path / "torn", iterations=5, batch=50)
    at_once = fit(store, tmp_path / "other", iterations=5, batch=50)
    np.testing.assert_array_equal(further.centroids, at_once.centroids)


def test_empty_words_of_mini_batches_are_seeded_again(tmp_path, rng, capsys):
    x = rng.normal(size=(100, 4)).astype(np.float32)
    x[:50] = x[0]
    store = write_descriptors(tmp_path / "store", [x])
    options = {"words": 20, "iterations": 12, "batch": 40, "progress": True}
    history = fit(store, tmp_path / "a", **options).info["history"]
    assert history[0]["empty"] == history[0]["reseeded"] > 0
    # A word of a single descriptor is empty where this one is not drawn.
    assert history[-1]["empty"] <= 2 < history[0]["empty"]
    assert "empty words seeded again" in capsys.readouterr().out
    same = np.repeat(np.eye(4, dtype=np.float32)[:3], 30, axis=0)
    store = write_descriptors(tmp_path / "same", [same])
    with pytest.raises(InputError, match="only 3 of 10 words have any"):
        fit(store, tmp_path / "b", batch=30)


def test_empty_words_are_seeded_again_and_counted(tmp_path, rng, capsys):
    # Half of the descriptors are the same: a sampled start has many equal words.
    x = rng.normal(size=(100, 4)).astype(np.float32)
    x[:50] = x[0]
    store = write_descriptors(tmp_path / "store", [x])
    found = fit(store, tmp_path / "a", words=20, iterations=12, progress=True)
    history = found.info["history"]
    assert history[0]["empty"] == history[0]["reseeded"] > 0
    assert history[-1]["empty"] == 0
    expected = (
        f"{history[0]['empty']} of {history[0]['empty']} empty words seeded again"
    )
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("start", fit_codebook.STARTS)
def test_a_collapse_is_an_error(tmp_path, start):
    x = np.repeat(np.eye(4, dtype=np.float32)[:3], 30, axis=0)
    store = write_descriptors(tmp_path / "store", [x])
    with pytest.raises(InputError, match=r"only 3 (of|different)"):
        fit(store, tmp_path / "a", start=start)


def test_a_collapse_to_fewer_than_half_of_the_words_is_an_error(
    clustered, tmp_path, monkeypatch
):
    store, _ = clustered
    real = kmeans.move_centroids

    def collapsed(found, codebook):
        return real(found, codebook)._replace(empty=6)

    monkeypatch.setattr(kmeans, "move_centroids", collapsed)
    with pytest.raises(InputError, match="6 of 10 words have none"):
        fit(store, tmp_path / "a", iterations=2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"words": 601}, "600 local descriptors, too few for 601 words"),
        ({"words": 0}, "use positive numbers"),
        ({"iterations": 0}, "use positive numbers"),
        ({"batch": 601}, "draw 1 to 600 descriptors"),
        ({"batch": 0}, "--batch=0: draw 1 to 600"),
        ({"start": "luck"}, "use one of sample, kmeans"),
    ],
)
def test_options_that_cannot_be_are_refused(clustered, tmp_path, options, reason):
    with pytest.raises(InputError, match=reason):
        fit(clustered[0], tmp_path / "a", **options)


def test_a_start_that_takes_too_long_is_refused(clustered, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_codebook, "MOST_WORDS_DRAWN", 9)
    with pytest.raises(InputError, match="use sample for more than 9"):
        fit(clustered[0], tmp_path / "a", start="kmeans++")


def test_a_command_fits_a_codebook(clustered, tmp_path, capsys):
    store, _ = clustered
    out = tmp_path / "codebook"
    options = ["--words=10", "--iterations=2", "--start=kmeans++", "--seed=4"]
    options += ["--batch=50"]
    assert cli.main(["fit", "codebook", str(store), f"--out={out}", *options]) == 0
    said = capsys.readouterr().out
    assert "k-means 2 of 2: mean squared distance" in said
    assert "10 words of 6 dimensions, from 600 descriptors of 20 images" in said
    expected = fit(
        store, tmp_path / "b", iterations=2, start="kmeans++", seed=4, batch=50
    )
    found = load_codebook(out)
    np.testing.assert_array_equal(found.centroids, expected.centroids)


def test_commands_tell_what_is_wrong(tmp_path, capsys):
    store = draw_store(tmp_path / "store", local=0)
    assert cli.main(["fit", "codebook", str(store), f"--out={tmp_path}"]) == 2
    assert "has no local descriptors" in capsys.readouterr().err


def test_a_config_of_the_original_sets_the_number_of_words(clustered, tmp_path, capsys):
    path, out = tmp_path / "aggregation.pbtxt", tmp_path / "codebook"
    path.write_text("codebook_size: 7 feature_dimensionality: 6")
    command = ["fit", "codebook", str(clustered[0]), f"--out={out}", f"--config={path}"]
    assert cli.main([*command, "--iterations=1"]) == 0
    assert "7 words of 6 dimensions" in capsys.readouterr().out
    assert cli.main([*command, "--config.codebook_size=5"]) == 2
    assert "fit takes no fields; use --words" in capsys.readouterr().err
    path.write_text("codebook_size: 7 feature_dimensionality: 40")
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "feature_dimensionality is 40; the descriptors of" in said
