import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from delf_jax import cli
from delf_jax.evaluation import experiment
from delf_jax.features import Features
from delf_jax.files import InputError, read_json, write_json
from delf_jax.images import SizeBounds
from delf_jax.manifests import write_manifest
from delf_jax.models import set_similarity
from delf_jax.search import fit_reranker, learned, pipeline
from tests.helpers.ranked_photos import rank_one
from tests.helpers.stores import MODEL, add_features, with_descriptors

DIMENSION = 16


@pytest.fixture
def small(monkeypatch):
    """Few descriptors of a photo, that tests are fast."""
    monkeypatch.setattr(fit_reranker, "FEATURES", 8)


def draw_places(out, rng, places=5, photos=3, **manifest):
    """A store whose local descriptors tell places apart, its global ones hardly."""
    features = {}
    for place in range(places):
        shown = rng.normal(size=(8, DIMENSION))
        for photo in range(photos):
            x = shown + 0.1 * rng.normal(size=shown.shape)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            globe = np.ones(6) + 0.05 * rng.normal(size=6)
            globe = (globe / np.linalg.norm(globe)).astype(np.float32)
            local = with_descriptors(x.astype(np.float32))
            features[f"{place}/{photo}.jpg"] = local._replace(global_descriptor=globe)
    return add_features(out, features, **{"settings": {}, **manifest})


@pytest.fixture
def fitted(tmp_path, rng, small):
    store = draw_places(tmp_path / "store", rng)
    return store, fit_reranker.fit_reranker(
        store.path, None, tmp_path / "reranker", steps=20, progress=False
    )


def ranking_inputs(store, reranker=None):
    places = np.arange(len(store))
    return pipeline.RankingInputs(
        [*store], store, places, places, SizeBounds(100), reranker=reranker
    )


def test_a_reranker_finds_the_place_that_global_descriptors_do_not(fitted):
    store, reranker = fitted
    inputs = ranking_inputs(store, reranker)
    places = np.arange(len(store)) // 3
    nobody = [()] * len(store)

    def found(steps):
        ranked = rank_one(inputs, steps, junk=nobody)
        return np.mean(places[ranked[:, :2]] == places[:, None])

    assert found(("learned",)) > found(("global",)) + 0.3
    assert reranker.info["pairs"] == 15 and reranker.info["model"] == MODEL


def test_the_same_seed_fits_the_same_reranker(fitted, tmp_path):
    store, reranker = fitted
    again = fit_reranker.fit_reranker(
        store.path, None, tmp_path / "again", steps=20, progress=False
    )
    other = fit_reranker.fit_reranker(
        store.path, None, tmp_path / "other", steps=1, seed=1, progress=False
    )
    assert again.info["sha256"] == reranker.info["sha256"] != other.info["sha256"]


def test_only_the_first_of_a_list_are_compared(fitted, monkeypatch):
    store, reranker = fitted
    inputs = ranking_inputs(store, reranker)
    monkeypatch.setattr("delf_jax.search.steps._COMPARED", 4)
    (before,), (after,) = (
        pipeline.run_steps(inputs, [(step,)]) for step in ("global", "learned")
    )
    np.testing.assert_array_equal(after.ids[:, 4:], before.ids[:, 4:])
    np.testing.assert_array_equal(
        np.sort(after.ids[:, :4], axis=1), np.sort(before.ids[:, :4], axis=1)
    )


def test_evidence_is_the_same_in_batches_and_of_the_strongest_alone(
    fitted, monkeypatch
):
    store, reranker = fitted
    images = [*store]
    whole = learned.find_evidence(reranker, images[0], images)
    monkeypatch.setattr(learned, "_BATCH", 4)
    parts = learned.find_evidence(reranker, images[0], images)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    local = images[1].local
    weaker = local._replace(descriptors=np.repeat(local.descriptors, 2, axis=0))
    weaker.descriptors[:8] = local.descriptors
    (found,) = learned.find_evidence(
        reranker, images[0], [images[1]._replace(local=weaker)]
    )
    np.testing.assert_allclose(found, whole[1], rtol=1e-5)
    assert learned.find_evidence(reranker, images[0], []).shape == (0,)


def test_pairs_of_a_file_say_what_is_one_place(tmp_path, rng, small):
    store = draw_places(tmp_path / "store", rng, places=2)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,positive\n0/0.jpg,0/1.jpg\n0/1.jpg,0/2.jpg\n")
    out = tmp_path / "reranker"
    status = cli.main(
        ["fit", "reranker", str(store.path), f"--out={out}", f"--pairs={pairs}"]
        + ["--steps=1"]
    )
    assert status == 0 and learned.load_reranker(out).info["pairs"] == 2


def test_candidates_are_reranked_on_the_command_line(fitted, tmp_path, capsys):
    store, reranker = fitted
    lists = {"0/0.jpg": [*store.ids[:0:-1]]}
    write_json(tmp_path / "lists.json", lists)
    arguments = ["rerank", f"{tmp_path}/lists.json", f"--index={store.path}"]
    arguments += [f"--out={tmp_path}/ranking.json", "--with=learned"]
    assert cli.main(arguments) == 2
    assert "name one with --reranker" in capsys.readouterr().err
    assert cli.main([*arguments, f"--reranker={reranker.path}"]) == 0
    ranking = read_json(tmp_path / "ranking.json")["0/0.jpg"]
    assert {*ranking[:2]} == {"0/1.jpg", "0/2.jpg"}
    assert sorted(ranking) == sorted(lists["0/0.jpg"])


@pytest.mark.parametrize(
    ("places", "photos", "steps", "message"),
    [
        (1, 3, 1, "all its images match each other"),
        (3, 1, 1, "has no two images of the pairs"),
        (3, 2, 0, "--steps=0: use a positive number"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    tmp_path, rng, places, photos, steps, message
):
    store = draw_places(tmp_path / "store", rng, places, photos)
    with pytest.raises(InputError, match=re.escape(message)):
        fit_reranker.fit_reranker(store.path, None, tmp_path / "out", steps=steps)


def test_stores_of_one_kind_of_features_are_refused(tmp_path, rng):
    names = ["a/0.jpg", "a/1.jpg", "b/0.jpg"]
    globe = Features(None, np.ones(3, np.float32), (40, 60))
    bare = with_descriptors(np.ones((2, 4), np.float32))
    for name, features in (("local", globe), ("global", bare)):
        add_features(tmp_path / name, dict.fromkeys(names, features), settings={})
        with pytest.raises(InputError, match=f"has no {name} descriptors"):
            fit_reranker.fit_reranker(tmp_path / name, None, tmp_path / "out", steps=1)


def test_a_reranker_of_other_features_is_refused(fitted, tmp_path, rng):
    _, reranker = fitted
    other = {"name": "other", "fingerprint": "0" * 64}
    store = draw_places(tmp_path / "others", rng, model=other)
    with pytest.raises(InputError, match="model drawn, not of other: fit a reranker"):
        learned.check_reranker(reranker, store.manifest)
    longer = with_descriptors(np.ones((2, 5), np.float32))
    with pytest.raises(InputError, match="of 5 dimensions do not fit a reranker of 16"):
        learned.find_evidence(reranker, longer, [longer])


def test_damaged_rerankers_are_refused(fitted, tmp_path):
    _, reranker = fitted
    tensors = reranker.path / learned.TENSORS
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="damaged; fit it again"):
        learned.load_reranker(reranker.path)
    tensors.unlink()
    with pytest.raises(InputError, match="no such file"):
        learned.load_reranker(reranker.path)
    with pytest.raises(InputError, match="make a reranker with `fit reranker`"):
        learned.load_reranker(tmp_path)
    wrong = set_similarity.initial(jax.random.key(0), 3)
    wrong = wrong._replace(votes=wrong.votes * np.nan)
    with pytest.raises(InputError, match="has not the parameters of a reranker of 3"):
        learned.save_reranker(tmp_path / "nan", wrong, {"features": 8})
    write_manifest(reranker.path / learned.INFO, reranker.info | {"features": 0})
    with pytest.raises(InputError, match="'features': expected an integer of at least"):
        learned.load_reranker(reranker.path)


def test_experiments_have_no_learned_step():
    ways = ConfigDict({"ways": ("global", "learned")})
    with pytest.raises(InputError, match="got 'learned'"):
        experiment.read_pipelines(ways)
