import json
import shutil

import numpy as np
import pytest

from delf_jax import cli, files, images
from delf_jax.evaluation import datasets, evaluation
from delf_jax.evaluation.ranking import read_rankings
from delf_jax.extraction import model_folder, settings
from delf_jax.files import InputError
from delf_jax.formats.datasets import revisited, revisited_metrics
from delf_jax.index import aggregation, fit_codebook, global_index, photo_index
from delf_jax.retrieval import metrics, ranking, similarity
from delf_jax.search.query import find_first
from delf_jax.search.query import rank as rank_photos
from delf_jax.synthetic.landmarks import HELD_OUT, draw_landmark, draw_view

SIZE = (96, 128)
LANDMARKS, VIEWS = 3, 4  # the first view of each is a query


def write_photo(path, landmark, view):
    drawn = draw_view(landmark, view, SIZE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_jpeg(drawn.image, 92))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in the shape of Revisited Oxford: jpg/ and gnd_drawn in three forms."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(LANDMARKS):
        landmark = draw_landmark(HELD_OUT + number)
        for view in range(VIEWS):
            write_photo(folder / "jpg" / f"place{number}_{view}.jpg", landmark, view)
    index = [f"place{n}_{v}" for n in range(LANDMARKS) for v in range(1, VIEWS)]
    first = np.arange(LANDMARKS) * (VIEWS - 1)
    lists = {
        "easy": [np.array([i], np.int32) for i in first],
        "hard": [np.array([i + 1], np.int32) for i in first[:-1]]
        + [np.zeros(0, np.int32)],
        "junk": [np.array([i + 2], np.int32) for i in first],
    }
    truth = revisited.GroundTruth(
        index_images=index,
        query_images=[f"place{n}_0" for n in range(LANDMARKS)],
        boxes=np.array([[10.2, 8, 90, 120]] * LANDMARKS),
        **lists,
    )
    revisited.write_ground_truth(folder / "gnd_drawn.json", truth)
    return folder


@pytest.fixture(scope="module")
def how(model):
    return settings.settings_for(model)


@pytest.fixture(scope="module")
def indexed(made, tmp_path_factory, tiny_model):
    """The folder of its features, and the results as JSON and metrics.txt."""
    folder = tmp_path_factory.mktemp("features")
    status = cli.main(arguments(made, folder / "index", tiny_model, folder, ALL))
    assert status == 0
    return folder


ALL = (
    "global,verification,average_qe,alpha_qe,augmentation,superglobal,k_reciprocal,"
    "diffusion,superglobal+verification"
)


def arguments(made, index, model, out, pipelines):
    return [
        "evaluate",
        str(made / "gnd_drawn.json"),
        f"--index={index}",
        f"--rerank={pipelines}",
        f"--json={out / 'results.json'}",
        f"--metrics={out / 'metrics.txt'}",
        f"--model={model}",
    ]


def evaluate(made, index, model, how, *pipelines, **kwargs):
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    return evaluation.evaluate(
        dataset, index, model, how, pipelines, progress=False, **kwargs
    )


def own_copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def test_a_dataset_in_the_shape_of_oxford_runs_through(indexed):
    found = json.loads((indexed / "results.json").read_text())
    assert found["dataset"] == "drawn"
    rows = {(row["protocol"], row["ranking"]) for row in found["results"]}
    assert rows == {
        (p, steps) for p in ("easy", "medium", "hard") for steps in ALL.split(",")
    }
    for row in found["results"]:
        low, high = row["mAP"]["interval"]
        assert 0 <= low <= row["mAP"]["value"] <= high <= 1
        assert len(row["settings"]) == 10
    assert len({row["settings"] for row in found["results"]}) == len(rows)


def test_metrics_are_written_as_the_original_does(indexed):
    found = json.loads((indexed / "results.json").read_text())
    ranks, summaries = revisited_metrics.read_metrics(indexed / "metrics.txt")
    assert ranks == (1, 5)
    assert {"hard", "medium_after_gv", "easy_after_superglobal"} <= summaries.keys()
    for row in found["results"]:
        if (row["protocol"], row["ranking"]) == ("medium", "verification"):
            mean = summaries["medium_after_gv"].mean_average_precision
            assert mean == pytest.approx(row["mAP"]["value"], abs=1e-4)


def test_again_nothing_is_extracted_and_the_results_are_the_same(
    made, indexed, tiny_model, tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("extracted again")

    monkeypatch.setattr("delf_jax.extraction.engines._run_program", refuse)
    asked = arguments(made, indexed / "index", tiny_model, tmp_path, ALL)
    assert cli.main(asked) == 0
    for name in ("results.json", "metrics.txt"):
        assert (tmp_path / name).read_text() == (indexed / name).read_text()


def test_a_query_without_positives_is_left_out_and_said(
    made, indexed, tiny_model, tmp_path, capsys
):
    asked = arguments(made, indexed / "index", tiny_model, tmp_path, "global")
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "hard: without positives and left out: 1 of 3 queries" in said
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    hard = next(row for row in results if row["protocol"] == "hard")
    assert hard["average_precisions"][-1] is None


def test_nothing_is_scored_on_a_part_unless_asked(made, model, how, tmp_path):
    own = own_copy(made, tmp_path)
    (own / "jpg" / "place0_1.jpg").unlink()
    (own / "jpg" / "place1_0.jpg").unlink()
    (own / "jpg" / "place2_3.jpg").write_bytes(b"no photo")
    index = tmp_path / "index"
    with pytest.raises(InputError, match=r"2 photos missing \(place0_1, place1_0\)"):
        evaluate(own, index, model, how, ("global",))
    assert not index.exists()
    found = evaluate(own, index, model, how, ("global",), partial=True)
    assert list(found.missing) == ["place0_1", "place1_0", "place2_3"]
    assert "place2_3.jpg" in found.missing["place2_3"]
    assert [query.name for query in found.dataset.queries] == ["place0_0", "place2_0"]
    assert len(found.dataset.index) == LANDMARKS * (VIEWS - 1) - 2


def test_a_damaged_photo_is_missing(made, model, how, tmp_path):
    own = own_copy(made, tmp_path)
    (own / "jpg" / "place2_3.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"1 photo missing \(place2_3\).*place2_3.jpg"):
        evaluate(own, tmp_path / "index", model, how, ("global",))


def test_a_key_depends_on_the_steps_of_its_ranking_alone():
    depends = {"model": 1, "verification": 2, "asmk": 3}
    kept = {
        name: evaluation._concerning(name, depends)
        for name in ("global", "verification", "asmk+verification")
    }
    assert kept["global"] == {"model": 1}
    assert kept["verification"] == {"model": 1, "verification": 2}
    assert kept["asmk+verification"] == depends


def test_a_part_has_other_keys_than_the_whole(made, model, how, tmp_path):
    own = own_copy(made, tmp_path)
    whole = evaluate(own, tmp_path / "index", model, how, ("global",))
    (own / "jpg" / "place0_3.jpg").unlink()
    part = evaluate(own, tmp_path / "index", model, how, ("global",), partial=True)
    assert {row.key for row in whole.rows}.isdisjoint(row.key for row in part.rows)


def test_folders_of_landmarks_are_scored_like_the_benchmark_of_photos(
    made, model, how, tmp_path
):
    photos = tmp_path / "photos"
    for path in sorted((made / "jpg").iterdir()):
        place, view = path.stem.split("_")
        (photos / "images" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, photos / "images" / place / f"{view}.jpg")
    dataset = datasets.read_dataset(photos / "images")
    names = [photo.name for photo in dataset.index]
    places = np.array([name.split("/")[0] for name in names])
    gnd = [
        {
            "bbx": [0, 0, SIZE[1], SIZE[0]],
            "easy": np.setdiff1d(np.flatnonzero(places == places[i]), [i]).tolist(),
            "hard": [],
            "junk": [i],
        }
        for i in range(len(names))
    ]
    content = {"imlist": names, "qimlist": names, "gnd": gnd}
    files.write_json(photos / "ground_truth.json", content)
    rows = "".join(f"{n},{p}\n" for n, p in zip(names, places, strict=True))
    (photos / "labels.csv").write_text("image,landmark\n" + rows)

    folder = tmp_path / "index"
    photo_index.make_index([photos / "images"], folder, model, how, progress=False)
    index = photo_index.open_index(folder)
    positives, junk = ([each[name] for each in gnd] for name in ("easy", "junk"))
    chosen = [("global",), ("verification",)]
    for source in (photos / "images", photos / "ground_truth.json"):
        found = evaluation.evaluate(
            datasets.read_dataset(source), folder, model, how, chosen, progress=False
        )
        for row, rerank in zip(found.rows, (False, True), strict=True):
            rankings = list(rank_by_search(index, how, names, rerank))
            expected = [
                metrics.average_precision(*each)
                for each in zip(rankings, positives, junk, strict=True)
            ]
            np.testing.assert_array_equal(row.metrics.average_precisions, expected)
            macro = metrics.macro_mean(expected, places.tolist())
            assert row.macro.value == pytest.approx(macro)
    assert not (folder / "queries").exists()


def rank_by_search(index, how, names, rerank):
    """Places in `names` as `search` ranks them, the query itself among them."""
    descriptors, _ = global_index.open_descriptors(index.store)
    for name in names:
        own = index.store.row(name)
        features = index.store[own]
        found = find_first(descriptors, [features], len(names))
        similarities, rows = (each[0] for each in found)
        results = rank_photos(
            *(index.store, features, rows, similarities, how), own=own, rerank=rerank
        )
        yield np.array([names.index(result.image) for result in results])


def write_ranking(path, change=None):
    names = [f"place{n}_{v}" for n in range(LANDMARKS) for v in range(1, VIEWS)]
    content = {f"place{n}_0": list(names) for n in range(LANDMARKS)}
    if change is not None:
        change(content)
    files.write_json(path, content)
    return path


def test_a_ranking_made_elsewhere_is_scored_without_photos(made, tmp_path, capsys):
    truth = tmp_path / "gnd_drawn.json"
    shutil.copy(made / "gnd_drawn.json", truth)
    ranking = write_ranking(tmp_path / "theirs.json")
    asked = ["evaluate", str(truth), f"--ranking={ranking}"]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    easy = next(line for line in said.splitlines() if line.startswith("easy"))
    # The right photos are first, fourth and seventh, the junk comes after them.
    expected = np.mean([1, (0 + 1 / 4) / 2, (0 + 1 / 7) / 2])
    assert easy.split()[:3] == ["easy", "theirs", f"{100 * expected:.2f}"]


def test_a_ranking_may_name_photos_with_suffix_and_folders(made, tmp_path):
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    plain = write_ranking(tmp_path / "plain.json")
    content = files.read_json(plain)
    renamed = {
        f"{query}.jpg": [f"jpg/{name}.JPG" for name in names]
        for query, names in content.items()
    }
    files.write_json(tmp_path / "renamed.json", renamed)
    found = read_rankings(tmp_path / "renamed.json", dataset)
    np.testing.assert_array_equal(found, read_rankings(plain, dataset))
    renamed["place1_0.jpg"][0] = content["place1_0"][1]
    files.write_json(tmp_path / "renamed.json", renamed)
    with pytest.raises(InputError, match="'place1_0' ranks a photo twice"):
        read_rankings(tmp_path / "renamed.json", dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["place1_0"].pop(), "'place1_0' ranks 8 photos of 9; rank all"),
        (
            lambda c: c["place1_0"].append("nix"),
            "ranks 'nix', which is not in",
        ),
        (lambda c: c["place1_0"].append(7), "ranks 7, which is not in"),
        (lambda c: c["place1_0"].append("place0_1"), "ranks a photo twice"),
        (lambda c: c.pop("place2_0"), "no ranking for query 'place2_0'"),
    ],
)
def test_rankings_that_are_wrong_are_refused(made, tmp_path, change, message):
    path = write_ranking(tmp_path / "theirs.json", change)
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    with pytest.raises(InputError, match=message):
        read_rankings(path, dataset)


def test_what_holds_no_rankings_is_refused(made, tmp_path):
    files.write_json(tmp_path / "list.json", [1])
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    with pytest.raises(InputError, match="expected a dict"):
        read_rankings(tmp_path / "list.json", dataset)


def test_a_perfect_ranking_scores_one(made):
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    rankings = []
    for query in range(LANDMARKS):
        right = dataset.protocols["medium"].positives[query]
        rest = np.setdiff1d(np.arange(len(dataset.index)), right)
        rankings.append(np.concatenate([right, rest]).astype(np.int32))
    perfect = {"medium": np.stack(rankings)}
    other = {"medium": np.stack(rankings)[:, ::-1]}
    only = dataset._replace(protocols={"medium": dataset.protocols["medium"]})
    first, second = evaluation.score(only, {"best": perfect, "worst": other}).rows
    assert first.mean.value == 1 and first.mean.interval == (1, 1)
    assert first.mean.gain is None and second.mean.gain.high < 0


def test_intervals_of_the_macro_mean_are_over_landmarks(made):
    """Of one landmark every draw is the same, however its queries differ."""
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    any_ranking = np.tile(np.arange(9, dtype=np.int32), (LANDMARKS, 1))
    rankings = {"any": dict.fromkeys(dataset.protocols, any_ranking)}
    for landmarks in (["a"] * LANDMARKS, ["a", "b", "c"]):
        found = evaluation.score(dataset._replace(landmarks=landmarks), rankings)
        mean, macro = found.rows[0].mean, found.rows[0].macro
        assert macro.value == pytest.approx(mean.value)
        spread = macro.interval.high - macro.interval.low
        assert (spread > 0.1) == (len(set(landmarks)) > 1)
    assert macro.interval == pytest.approx(mean.interval)


def test_a_protocol_that_nobody_can_answer_has_no_row(made):
    dataset = datasets.read_dataset(made / "gnd_drawn.json")
    names, count = dataset.protocols, len(dataset.index)
    any_ranking = np.tile(np.arange(count, dtype=np.int32), (LANDMARKS, 1))
    rankings = {"any": dict.fromkeys(names, any_ranking)}
    nothing = [np.zeros(0, np.int32)] * LANDMARKS
    unanswerable = names["hard"]._replace(positives=nothing)
    found = evaluation.score(
        dataset._replace(protocols={**names, "hard": unanswerable}), rankings
    )
    assert [row.protocol for row in found.rows] == ["easy", "medium"]
    only = dataset._replace(protocols={"hard": unanswerable})
    with pytest.raises(InputError, match="drawn: no query has a positive"):
        evaluation.score(only, rankings)


def test_a_model_without_local_features_cannot_verify(made, global_model, tmp_path):
    model = model_folder.load_model(global_model)
    how = settings.settings_for(model)
    with pytest.raises(InputError, match="no local features to verify by"):
        evaluate(made, tmp_path / "index", model, how, ("verification",))


def test_pipelines_from_asmk_need_a_codebook_once(made, model, how, tmp_path):
    local = how._replace(global_scales=())
    kinds = "asmk", "float_asmk", "vlad"
    chosen = *((kind,) for kind in kinds), ("vlad", "verification")
    index = tmp_path / "index"
    with pytest.raises(InputError, match="no visual words: name a codebook"):
        evaluate(made, index, model, local, *chosen)
    fit = {"words": 30, "iterations": 2, "progress": False}
    fit_codebook.fit_codebook(index / "store", tmp_path / "codebook", **fit)
    found = evaluate(made, index, model, local, *chosen, codebook=tmp_path / "codebook")
    rankings = {row.ranking for row in found.rows}
    assert rankings == {*kinds, "vlad+verification"}
    # As the original ranks, which compares each query with each photo.
    words = aggregation.load_words(tmp_path / "codebook")
    expected = [
        [similarity.vlad_similarity(q, image) for image in _vlads(found, words)]
        for q in _vlads(found, words, found.inputs.queries)
    ]
    np.testing.assert_allclose(found.inputs.aggregated["vlad"], expected, atol=1e-6)
    ranked = found.rankings["vlad"]["medium"]
    np.testing.assert_array_equal(ranked, ranking.top_k(np.array(expected)))
    again = evaluate(made, index, model, local, *chosen)
    assert [row.key for row in again.rows] == [row.key for row in found.rows]
    fit_codebook.fit_codebook(index / "store", tmp_path / "other", seed=1, **fit)
    other = evaluate(made, index, model, local, *chosen, codebook=tmp_path / "other")
    assert {r.key for r in other.rows}.isdisjoint(r.key for r in found.rows)


def _vlads(found, words, images=None):
    images = images or map(found.inputs.image, range(len(found.dataset.index)))
    return [aggregation.aggregate_vlad(each, words, True, "") for each in images]


def test_a_model_without_local_features_cannot_aggregate(made, global_model, tmp_path):
    model = model_folder.load_model(global_model)
    how = settings.settings_for(model)
    with pytest.raises(InputError, match="no local features to aggregate"):
        evaluate(made, tmp_path / "index", model, how, ("asmk",))


def test_features_without_global_descriptors_are_refused(made, model, how, tmp_path):
    local = how._replace(global_scales=())
    with pytest.raises(InputError, match="needs global descriptors"):
        evaluate(made, tmp_path / "index", model, local, ("global",))
    assert not (tmp_path / "index").exists()
