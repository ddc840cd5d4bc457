import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest

from delf_jax import cli
from delf_jax.evaluation import reproduce
from delf_jax.evaluation.experiment import read_experiment_config
from delf_jax.extraction import model_folder, settings
from delf_jax.extraction.boxes import RegionBoxes
from delf_jax.files import InputError
from delf_jax.formats.datasets import revisited_metrics
from delf_jax.images import SizeBounds
from delf_jax.index import codebook, inverted_file
from delf_jax.retrieval.verification import VERIFICATION
from delf_jax.search import matching
from delf_jax.store import feature_store
from tests.evaluation.test_datasets import write_original
from tests.helpers import detectors

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "drawn.py"
WAYS = ("global", "superglobal", "verification", "asmk", "asmk+verification")
PROTOCOLS = ("easy", "medium", "hard")


def command(data, out, *options):
    asked = [f"--config={CONFIG}", f"--data={data}", f"--out={out}"]
    return cli.main(["reproduce", *asked, *map(str, options)])


@pytest.fixture(scope="module")
def done(drawn, tmp_path_factory):
    """What the bundled model makes of the drawn dataset."""
    out = tmp_path_factory.mktemp("out")
    assert command(drawn, out) == 0
    return out


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return model_folder.load_model(tiny_model)


def run(data, out, tiny, *overrides, **options):
    fields = [f"--config.{field}" for field in overrides]
    config = read_experiment_config(CONFIG, fields)
    how = settings.settings_for(tiny)
    sources = reproduce.ExperimentInputs(data, out, tiny, how)
    return reproduce.reproduce(config.experiment, sources, progress=False, **options)


ONE_WAY = "experiment.ways=('global',)"
WORDLESS = ONE_WAY, "experiment.codebook.words=0"


def own_copy(drawn, tmp_path):
    return pathlib.Path(shutil.copytree(drawn, tmp_path / "own"))


def test_a_drawn_dataset_runs_from_photos_to_the_table(done):
    found = json.loads((done / "reproduction.json").read_text())
    rows = {(row["dataset"], row["protocol"], row["ranking"]) for row in found}
    assert rows == {("drawn", p, way) for p in PROTOCOLS for way in WAYS}
    for row in found:
        assert row["published"] is row["difference"] is None
        low, high = row["interval"]
        assert 0 <= low <= row["mAP"] <= high <= 1
        assert len(row["settings"]) == 10 and len(row["ground_truth_sha256"]) == 64
    ranks, summaries = revisited_metrics.read_metrics(done / "drawn" / "metrics.txt")
    assert ranks == (1, 5, 10)
    assert {"hard", "hard_after_gv", "medium_after_gv"} <= summaries.keys()
    results = json.loads((done / "drawn" / "results.json").read_text())
    assert len(results["results"]) == len(rows)
    page = (done / "drawn" / "report.html").read_text()
    assert "Results on drawn" in page and page.count("<section ") == 6


def test_again_nothing_is_extracted_and_the_results_are_the_same(
    drawn, done, monkeypatch, capsys
):
    def refuse(*args, **kwargs):
        raise AssertionError("extracted again")

    before = (done / "reproduction.json").read_text()
    monkeypatch.setattr("delf_jax.extraction.engines._run_program", refuse)
    assert command(drawn, done) == 0
    assert (done / "reproduction.json").read_text() == before
    said = capsys.readouterr().out
    header = next(line for line in said.splitlines() if line.startswith("dataset"))
    assert header.split() == [
        *("dataset", "protocol", "ranking", "paper", "got", "difference"),
        *("95", "%", "settings", "ground", "truth"),
    ]


def test_published_figures_stand_beside_those_got(drawn, tmp_path, tiny, capsys):
    paper = "experiment.paper=(('drawn','global',50.0,25.0),('drawn+r1m','global',1,1))"
    compared = run(drawn, tmp_path, tiny, *WORDLESS, paper)
    published = {each.row.protocol: each.published for each in compared}
    assert published == {"easy": None, "medium": 0.5, "hard": 0.25}
    said = capsys.readouterr().out.splitlines()
    medium = next(x.split() for x in said if x.startswith("drawn    medium"))
    got = 100 * compared[1].row.mean.value
    assert medium[3:6] == ["50.00", f"{got:.2f}", f"{got - 50:+.2f}"]
    assert medium[-1] == compared[1].version[:10]


def test_other_collections_are_not_compared_with_the_paper(drawn, tmp_path, tiny):
    paper = "experiment.paper=(('drawn','global',50.0,25.0),)"
    others = {"others": drawn / "training"}
    compared = run(drawn, tmp_path, tiny, *WORDLESS, paper, **others)
    assert {each.published for each in compared} == {None}
    data = own_copy(drawn, tmp_path)
    (data / "drawn" / "jpg" / "other0.jpg").unlink()
    compared = run(data, tmp_path / "o", tiny, *WORDLESS, paper, partial=True)
    assert {each.published for each in compared} == {None}


def test_queries_seen_in_training_are_left_out_beside(drawn, tmp_path, tiny):
    seen = tmp_path / "seen.txt"
    seen.write_text("place0_0\nplace0_1\n")
    compared = run(drawn, tmp_path / "out", tiny, *WORDLESS, seen=seen)
    protocols = [each.row.protocol for each in compared]
    assert protocols == [x for p in PROTOCOLS for x in (p, f"{p}_unseen")]
    seen.write_text("nobody\n")
    with pytest.raises(InputError, match="'nobody' not found among queries"):
        run(drawn, tmp_path / "out", tiny, *WORDLESS, seen=seen)


def test_datasets_are_found_in_one_folder_or_in_folders_of_their_names(drawn, tmp_path):
    assert reproduce.find_dataset(drawn, "drawn") == (
        drawn / "drawn" / "gnd_drawn.json"
    )
    assert reproduce.find_dataset(drawn, "roxford5k") is None
    (tmp_path / "gnd_rparis6k.pkl").write_bytes(b"")
    (tmp_path / "gnd_roxford5k.mat").write_bytes(b"")
    for name in ("gnd_rparis6k.pkl", "gnd_roxford5k.mat"):
        dataset = name.split("_")[1].split(".")[0]
        assert reproduce.find_dataset(tmp_path, dataset) == tmp_path / name
    write_original(tmp_path / "oxford5k", a_1=("a 0 0 1 1", "a", "", ""))
    assert reproduce.find_dataset(tmp_path, "oxford5k") == tmp_path / "oxford5k"


def test_the_original_oxford_runs_through(drawn, tmp_path, tiny):
    data = tmp_path / "oxford5k"
    shutil.copytree(drawn / "drawn" / "jpg", data / "jpg")
    first = ("oxc1_place0_0 8 10 180 138", "place0_0\nplace0_1", "place0_2", "other0")
    write_original(data, a_1=first, b_1=("place1_0 0 0 192 144", "place1_1", "", ""))
    datasets = "experiment.datasets=('oxford5k',)"
    (row,) = run(tmp_path, tmp_path / "out", tiny, *WORDLESS, datasets)
    assert (row.dataset, row.row.protocol) == ("oxford5k", "all")
    # The photo of a query is one of those it should find, and of two landmarks each.
    assert 0 < row.row.mean.value <= 1 and row.row.macro is not None
    results = json.loads((tmp_path / "out" / "oxford5k" / "results.json").read_text())
    assert results["photos"] == 22 and results["landmarks"] == ["a", "b"]


def test_evaluation_has_the_options_of_the_experiment(drawn, tmp_path, tiny):
    boxes = RegionBoxes(tmp_path / "boxes.csv", {})
    how = settings.settings_for(tiny)
    sources = reproduce.ExperimentInputs(drawn, tmp_path, tiny, how)
    expected = {
        "r50delg_gld": {"verification": VERIFICATION["delg"]},
        "rn101_af_gldv2clean": {},
        "d2r_asmk": {"verification": VERIFICATION["d2r"], "boxes": boxes},
    }
    for name, options in expected.items():
        path = CONFIG.with_name(f"{name}.py")
        by_name = {"roxford5k": boxes} if name == "d2r_asmk" else {}
        experiment = runpy.run_path(str(path))["get_config"]().experiment
        found = reproduce._options(
            experiment,
            "roxford5k",
            {},
            sources._replace(boxes=by_name),
            partial=False,
            progress=False,
        )
        assert found == options


def test_what_is_missing_is_named_before_anything_is_extracted(
    drawn, tmp_path, tiny, capsys
):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such folder of datasets"):
        run(tmp_path / "nowhere", out, tiny)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"put gnd_drawn\.pkl with jpg/ there"):
        run(tmp_path / "empty", out, tiny)
    data = own_copy(drawn, tmp_path)
    (data / "drawn" / "jpg" / "place0_2.jpg").unlink()
    with pytest.raises(InputError, match=r"drawn: 1 photo missing \(place0_2\)"):
        run(data, out, tiny)
    both = "experiment.datasets=('other','drawn')"
    capsys.readouterr()
    with pytest.raises(InputError, match="1 photo missing"):
        run(data, out, tiny, both)
    assert "other: left out; " in capsys.readouterr().out
    assert not out.exists()


def test_a_codebook_is_learned_on_what_is_named(drawn, tmp_path, tiny):
    fields = [f"--config.experiment.codebook.{x}" for x in ("words=8", "iterations=3")]
    experiment = read_experiment_config(CONFIG, fields).experiment
    sources = reproduce.ExperimentInputs(
        drawn, tmp_path, tiny, settings.settings_for(tiny)
    )
    found = reproduce._read_datasets(("drawn",), drawn)
    learned_on = reproduce._learned_on(experiment, found, drawn, False)
    assert learned_on == {"drawn": "training"}
    options = reproduce._options(experiment, "drawn", learned_on, sources, False, False)
    assert list(options) == ["codebook"]
    book = codebook.load_codebook(options["codebook"])
    assert book.path == tmp_path / "codebooks" / "training"
    assert book.centroids.shape == (8, 16) and book.info["images"] == 3
    again = reproduce._options(experiment, "drawn", learned_on, sources, False, False)
    assert again == options


def test_a_codebook_may_be_there_already_and_needs_photos_otherwise(
    drawn, tmp_path, tiny
):
    words = "experiment.codebook.words=8"
    here = read_experiment_config(
        CONFIG, [f"--config.{words}", "--config.experiment.codebook.path=a/{}_8/ckpt"]
    ).experiment
    sources = reproduce.ExperimentInputs(
        drawn, tmp_path, tiny, settings.settings_for(tiny)
    )
    options = reproduce._options(
        here, "drawn", {"drawn": "training"}, sources, False, False
    )
    assert options == {"codebook": pathlib.Path("a/training_8/ckpt")}
    data = own_copy(drawn, tmp_path)
    shutil.rmtree(data / "training")
    with pytest.raises(InputError, match=r"gnd_training\.pkl or folder training"):
        run(data, tmp_path / "out", tiny, words)
    nothing = "experiment.codebook.learned_on=()"
    with pytest.raises(InputError, match="learned_on: no entry for drawn"):
        run(data, tmp_path / "out", tiny, words, nothing)


@pytest.fixture
def with_boxes(drawn, tmp_path):
    """The drawn datasets; each photo of the index and each distractor has a box."""
    data = own_copy(drawn, tmp_path)
    for folder in (data / "drawn" / "jpg", data / "training"):
        rows = [f"{path.stem},20,24,120,160" for path in folder.glob("*.jpg")]
        header = "image,y_min,x_min,y_max,x_max"
        place = folder.parent if folder.name == "jpg" else folder
        (place / "boxes.csv").write_text("\n".join([header, *rows]))
    return data


def test_an_experiment_with_boxes_ranks_by_regional_aggregation(
    with_boxes, tmp_path, tiny, monkeypatch
):
    data, out = with_boxes, tmp_path / "out"
    fields = (
        "experiment.ways=('asmk','asmk+verification')",
        "experiment.boxes=boxes.csv",
        "experiment.codebook.words=16",
        "experiment.codebook.learned_on=(('drawn','drawn'),)",
    )
    others = data / "training"
    compared = run(data, out, tiny, *fields, others=others)
    assert len(compared) == 2 * len(PROTOCOLS)
    images = feature_store.open_store(out / "drawn" / "store")
    assert {len(each.regions.counts) for each in images} == {2}
    index = inverted_file.open_inverted_file(out / "drawn" / "asmk")
    assert index.info["regional"] and len(index.ids) == len(images) + 3
    queries = feature_store.open_store(out / "drawn" / "queries")
    assert all(query.regions is None for query in queries)
    # A query that is compared with a photo's whole finds there what it would without.
    plain = run(data, tmp_path / "plain", tiny, *fields[:1], *fields[2:])
    whole = feature_store.open_store(tmp_path / "plain" / "drawn" / "store")
    for ours, theirs in zip(images, whole, strict=True):
        pair = [
            matching.compare_features(queries[0], each, SizeBounds(160)).pair
            for each in (ours, theirs)
        ]
        np.testing.assert_array_equal(pair[0].matches, pair[1].matches)
    assert {a.row.key for a in compared}.isdisjoint(b.row.key for b in plain)

    def refuse(*args, **kwargs):
        raise AssertionError("extracted again")

    monkeypatch.setattr("delf_jax.extraction.engines._run_program", refuse)
    features = out / "distractors"
    for again in (others, features):
        rows = run(data, out, tiny, *fields, others=again)
        assert [each.row.key for each in rows] == [each.row.key for each in compared]


@pytest.mark.slow
def test_an_experiment_may_name_a_detector_that_finds_the_boxes(
    drawn, tmp_path, tiny_model
):
    detector, out = detectors.save_random(tmp_path / "ssd"), tmp_path / "out"
    fields = (
        f"experiment.detector={detector}",
        "experiment.ways=('asmk',)",
        "experiment.codebook.words=16",
        "experiment.codebook.learned_on=(('drawn','drawn'),)",
        "extraction.box_threshold=0.01",
        "extraction.max_boxes=2",
    )
    overrides = [f"--config.{field}" for field in fields]
    asked = f"--model={tiny_model}", f"--distractors={drawn / 'training'}"
    assert command(drawn, out, *asked, *overrides) == 0
    for name, store in (("drawn", "drawn/store"), ("distractors", "distractors")):
        known = json.loads((out / name / "boxes" / "detections.json").read_text())
        images = feature_store.open_store(out / store)
        assert set(known["images"]) == set(images.ids)
        assert {len(each.regions.counts) for each in images} == {3}


def test_boxes_are_found_or_read_not_both():
    fields = [f"--config.experiment.{x}=y" for x in ("boxes", "detector")]
    with pytest.raises(InputError, match=r"boxes, experiment\.detector: use one of"):
        read_experiment_config(CONFIG, fields)


def test_boxes_that_are_not_there_are_told_before_anything_is_extracted(
    with_boxes, tmp_path, tiny
):
    fields = *WORDLESS, "experiment.boxes=boxes.csv"
    others = with_boxes / "training"
    (others / "boxes.csv").unlink()
    with pytest.raises(InputError, match=r"training/boxes\.csv"):
        run(with_boxes, tmp_path / "out", tiny, *fields, others=others)
    (with_boxes / "drawn" / "boxes.csv").unlink()
    with pytest.raises(InputError, match=r"drawn/boxes\.csv"):
        run(with_boxes, tmp_path / "out", tiny, *fields)
    assert not (tmp_path / "out").exists()
