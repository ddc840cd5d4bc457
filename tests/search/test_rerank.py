import json

import numpy as np
import pytest

from delf_jax import cli, files, manifests
from delf_jax.extraction import model_folder, settings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import SizeBounds
from delf_jax.index import photo_index
from delf_jax.retrieval import verification
from delf_jax.search import matching, rerank

DEFAULT = verification.VERIFICATION["default"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of coarse noise; a/0.png and a/1.png show the same, shifted."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a/0", "a/1", "b/2", "b/3"):
        if name != "a/1":
            small = rng.integers(0, 256, (16, 20, 3), np.uint8)
        wide = Image.fromarray(small).resize((200, 160), Image.Resampling.BICUBIC)
        box = (24, 16, 152, 112) if name == "a/1" else (40, 32, 168, 128)
        (folder / name).parent.mkdir(exist_ok=True)
        wide.crop(box).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def index(photos, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    model = model_folder.load_model(tiny_model)
    how = settings.settings_for(model)
    photo_index.make_index([photos], folder, model, how, progress=False)
    return folder


@pytest.fixture
def run(index, tiny_model, tmp_path, capsys):
    """Reranks lists: (status, rankings or None, output, errors)."""

    def run(lists, *options, suffix="json"):
        given, out = tmp_path / f"given.{suffix}", tmp_path / "out.json"
        given.write_text(lists if suffix == "csv" else json.dumps(lists))
        asked = ["rerank", str(given), f"--index={index}", f"--out={out}"]
        status = cli.main([*asked, *options, f"--model={tiny_model}"])
        said = capsys.readouterr()
        found = files.read_json(out) if out.exists() else None
        return status, found, said.out, said.err

    return run


def test_stores_with_global_descriptors_of_other_models_cannot_be_compared(index):
    images = rerank.open_features(index)
    other = {"name": "lite", "fingerprint": "a" * 64}
    manifest = images.manifest | {"global_model": other}
    paired = type(images)(images.path, manifest, images.records)
    rerank.check_same_model(paired, paired)
    for pair in ((images, paired), (paired, images)):
        with pytest.raises(InputError, match="cannot be compared with those of .*"):
            rerank.check_same_model(*pair)


def test_lists_are_permuted_and_names_stay_as_they_were(run, index):
    lists = {"a/0.png": ["b/2", "b/3.png", "a/1"], "b/3": ["a/1.png", "b/2.png"]}
    status, found, said, _ = run(lists)
    assert status == 0 and "2 queries reranked" in said
    assert list(found) == list(lists)
    for query, names in lists.items():
        assert sorted(found[query]) == sorted(names)
    images = rerank.open_features(index)
    asked = images[images.row("a/0.png")]
    scores = {}
    for name in ("b/2.png", "b/3.png", "a/1.png"):
        pair = matching.compare_features(
            asked, images[images.row(name)], SizeBounds(160)
        )
        scores[name] = pair.similarity + 2 * np.log2(1 + pair.inliers / 8)
    expected = sorted(scores, key=lambda name: -scores[name])
    assert [whole_id(name) for name in found["a/0.png"]] == expected


def whole_id(name):
    return name if name.endswith(".png") else f"{name}.png"


@pytest.mark.parametrize("steps", ["global", "superglobal", "alpha_qe+verification"])
def test_pipelines_of_evaluate_rerank_candidates(run, steps):
    lists = {"a/0": ["b/2", "b/3", "a/1"]}
    status, found, _, _ = run(lists, f"--with={steps}")
    assert status == 0 and sorted(found["a/0"]) == sorted(lists["a/0"])


def test_a_csv_of_gldv2_and_photos_of_queries_will_do(run, photos):
    text = "id,images\na/0,b/2 b/3 a/1\nb/2,a/1 b/3\n"
    by_id = run(text, suffix="csv")
    by_photo = run(text, f"--queries={photos}", suffix="csv")
    assert by_id[0] == by_photo[0] == 0
    assert by_id[1] == by_photo[1]


def test_only_the_first_are_reranked_if_asked(run):
    lists = {"a/0": ["b/2", "b/3", "a/1"]}
    _, found, _, _ = run(lists, "--first=2", "--with=global")
    assert found["a/0"][2] == "a/1" and set(found["a/0"][:2]) == {"b/2", "b/3"}


def test_with_the_settings_of_the_original_inliers_decide_and_then_the_order(
    run, index
):
    images, how = rerank.open_features(index), verification.VERIFICATION["d2r"]
    for given in (["b/3", "b/2", "a/1"], ["a/1", "b/2", "b/3"]):
        asked = images[images.row("a/0.png")]
        listed = (images[images.row(f"{name}.png")] for name in given)
        found = matching.verify_candidates(asked, listed, SizeBounds(160), how)
        inliers = dict(zip(given, (pair.inliers for pair in found), strict=True))
        expected = sorted(given, key=lambda name: -inliers[name])
        assert run({"a/0": given}, "--verification=d2r")[1]["a/0"] == expected


@pytest.mark.parametrize(
    ("lists", "options", "message"),
    [
        ({"a/0": ["b/2", "no"]}, [], "photo 'no' of query 'a/0' not found in"),
        ({"a/0": ["b/2", "b/2"]}, [], "query 'a/0' lists 'b/2' twice"),
        ({"a/0": ["b/2", "b/2.png"]}, [], "lists one photo by two names"),
        ({"who": ["b/2"]}, [], "query 'who' not found in"),
        ({"a/0": ["b/2"]}, ["--first=2"], "lists 1 candidates, fewer than --first=2"),
        ({"a/0": ["b/2"]}, ["--first=0"], "--first=0: use a positive number"),
        (
            {"a/0": ["b/2"]},
            ["--with=magic"],
            "--with: expected steps of global, average_qe",
        ),
        ({"a/0": ["b/2"]}, ["--with=global,diffusion"], "expected one pipeline"),
        (
            {"a/0": ["b/2"]},
            ["--verification=x"],
            "verification: expected one of default, delg, d2r",
        ),
        ({"a/0": "b/2"}, [], "expected a dict {query: [photo, ...]}"),
        (["a/0"], [], "expected a dict {query: [photo, ...]}"),
        ({"a/0": [2]}, [], "expected a dict {query: [photo, ...]}"),
    ],
)
def test_what_cannot_be_reranked_is_refused_in_a_sentence(run, lists, options, message):
    status, found, _, told = run(lists, *options)
    assert status == 2 and found is None
    assert told.count("\n") == 1 and message in told


def test_a_query_twice_in_a_csv_is_refused(run):
    status, _, _, told = run("id,images\na/0,b/2\na/0,b/3\n", suffix="csv")
    assert status == 2 and "duplicate query 'a/0'" in told


def test_features_of_another_model_are_refused(index, run, tmp_path):
    path = tmp_path / "other"
    source = rerank.open_features(index)
    write_copy(source, path, "another")
    status, _, _, told = run({"a/0": ["b/2"]}, f"--queries={path}")
    assert status == 2 and "cannot be compared" in told


def write_copy(source, path, fingerprint):
    manifest = {**source.manifest, "model": {"name": "x", "fingerprint": fingerprint}}
    manifests.write_manifest(path / "manifest.json", manifest)
    (path / "shards").symlink_to(source.path / "shards")


def test_a_broken_query_photo_keeps_its_list(index):
    images = rerank.open_features(index)
    good = images[images.row("a/0.png")]
    lists = {"good": ["b/2", "a/1"], "bad": ["b/3", "b/2"]}
    queries = {"good": good, "bad": InputError("bad.jpg: truncated")}
    found = rerank.rerank(lists, images, queries, ("global",), DEFAULT, progress=False)
    assert found.rankings["bad"] == ["b/3", "b/2"]
    assert found.failed == {"bad": "bad.jpg: truncated"}
    assert sorted(found.rankings["good"]) == ["a/1", "b/2"]


def test_verification_needs_local_features(index):
    images = rerank.open_features(index)
    bare = Features(None, images[0].global_descriptor, (96, 128))
    with pytest.raises(InputError, match="verification needs local features"):
        rerank.rerank({"q": ["b/2"]}, images, {"q": bare}, ("verification",), DEFAULT)


def test_no_lists_make_no_rankings(index):
    images = rerank.open_features(index)
    for steps in (("verification",), ("superglobal",)):
        found = rerank.rerank({}, images, {}, steps, DEFAULT, progress=False)
        assert found == rerank.Reranked({}, {})


def test_names_may_have_other_suffixes_folders_and_case(run):
    plain = run({"a/0": ["b/2", "b/3", "a/1"]})[1]["a/0"]
    status, found, _, _ = run({"0.JPG": ["2.jpg", "x/b/3", "A/1.PNG"]})
    assert status == 0
    names = {"b/2": "2.jpg", "b/3": "x/b/3", "a/1": "A/1.PNG"}
    assert found["0.JPG"] == [names[name] for name in plain]


def test_a_ranking_can_be_scored(run, photos, tmp_path, capsys):
    names = ["a/0", "a/1", "b/2", "b/3"]
    truth = {
        "imlist": [f"{n}.png" for n in names],
        "qimlist": ["a/0.png"],
        "gnd": [{"bbx": [0, 0, 128, 96], "easy": [1], "hard": [], "junk": [0]}],
    }
    files.write_json(tmp_path / "ground_truth.json", truth)
    run({"a/0.png": [f"{n}.png" for n in reversed(names)]})
    asked = ["evaluate", str(tmp_path / "ground_truth.json"), f"--images={photos}"]
    assert cli.main([*asked, f"--ranking={tmp_path / 'out.json'}"]) == 0
    assert "mAP" in capsys.readouterr().out
