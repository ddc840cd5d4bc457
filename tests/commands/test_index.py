import json
import re
import shutil

import pytest

from delf_jax import cli
from delf_jax.formats.delf import datum
from delf_jax.index import inverted_file
from delf_jax.store.feature_store import open_store
from tests.helpers.inverted_files import DIMENSION, IDS, WORDS, draw_words, fill_store
from tests.helpers.stores import announce
from tests.helpers.vectors import use_file_engine

CONFIG = f"""codebook_size: {WORDS}
feature_dimensionality: {DIMENSION}
codebook_path: "codebook"
aggregation_type: ASMK_STAR
num_assignments: 2
alpha: 2.0
"""


def test_an_index_is_made_grown_and_shrunk(run, photos, index, tmp_path):
    new = tmp_path / "new.png"
    new.write_bytes((photos / "2.png").read_bytes())
    assert "1 extracted, 4 unchanged" in run("index", index, "--add", new)[1]
    assert "2 removed, 3 left" in run("index", index, "--remove", "0.png", "new.png")[1]
    assert "1 extracted, 3 unchanged" in run("index", photos, index)[1]


def test_an_index_goes_on_with_another_engine(run, photos, index):
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    status, printed = run("index", photos, index, "--engine=openvino")
    assert status == 0 and "0 extracted, 4 unchanged\n" in printed


def test_an_index_does_not_go_on_in_another_precision(run, photos, index):
    query, reduced = photos / "0.png", "--config.extraction.precision=bfloat16"
    assert run("search", query, index, "--engine=jax")[0] == 0
    assert run("search", query, index, reduced)[0] == 2
    with pytest.raises(SystemExit, match="2"):
        run("search", query, index, "--engine=onnx")


@pytest.fixture
def drive(run, photos, tmp_path):
    """A folder of four photos, and the option that names its index."""
    shutil.copytree(photos, tmp_path / "drive", copy_function=shutil.copy2)
    option = f"--index={tmp_path / 'ix'}"
    assert run("index", tmp_path / "drive", option)[0] == 0
    return tmp_path / "drive", option


def test_absent_photos_are_counted_and_forgotten_once_that_is_asked_for(run, drive):
    folder, index = drive
    (folder / "3.png").unlink()
    status, printed = run("index", folder, index)
    assert status == 0 and "0 extracted, 3 unchanged, 1 absent\n" in printed
    assert "1 photo, such as 3.png: not found, kept; --prune forgets them" in printed
    said, last = run("index", folder, index, "--prune")[1].splitlines()[-2:]
    assert "1 photo, such as 3.png: not found, forgetting them" in said
    assert "0 extracted, 3 unchanged, 1 removed" in last
    (folder / "2.png").unlink()
    said, last = run("index", index, "--prune", model=False)[1].splitlines()
    assert "such as 2.png" in said and "1 removed, 2 left" in last
    assert "0 removed, 2 left" in run("index", index, "--prune", model=False)[1]


def test_nothing_is_forgotten_while_the_folder_is_away(run, drive, tmp_path):
    folder, index = drive
    (tmp_path / "new.png").write_bytes((folder / "2.png").read_bytes())
    folder.rename(tmp_path / "moved")
    status, printed = run("index", index, "--add", tmp_path / "new.png", "--prune")
    assert status == 0 and "1 extracted, 0 unchanged, 4 absent\n" in printed
    assert "4 photos, such as 0.png: kept, as their folder is absent" in printed
    root = f"--root={tmp_path / 'moved'}"
    assert "4 of 4 photos found in" in run("index", index, root, model=False)[1]
    assert "0 extracted, 5 unchanged\n" in run("index", tmp_path / "moved", index)[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give photos to index, or --add, --remove, --root or --prune"),
        (["a.png", "--root=b"], "give photos to index, or --add, --remove, --root"),
        (["--prune", "--remove=a.png"], "--prune: use it alone, with photos to index"),
    ],
)
def test_changes_of_an_index_that_exclude_each_other(capsys, arguments, reason):
    assert cli.main(["index", "--index=ix", *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.fixture
def aggregate(tmp_path, monkeypatch, capsys):
    """Runs aggregate on a store: (status, output, error)."""
    fill_store(tmp_path / "store", IDS)
    draw_words(tmp_path / "codebook")
    monkeypatch.chdir(tmp_path)

    def aggregate(*arguments):
        status = cli.main(["aggregate", "store", *arguments])
        return status, *capsys.readouterr()

    return aggregate


def test_an_inverted_file_is_built_and_kept(aggregate):
    status, out, _ = aggregate("--codebook=codebook", "--out=out")
    assert (status, out) == (0, "out: 12 aggregated, 0 unchanged\n")
    status, out, _ = aggregate("--codebook=codebook", "--out=out")
    assert (status, out) == (0, "out: 0 aggregated, 12 unchanged\n")
    assert inverted_file.open_inverted_file("out").info["binary"]


def test_what_is_made_of_an_incomplete_store_says_so(aggregate, tmp_path):
    announce(tmp_path / "store", ["z.jpg"])
    said = "store: incomplete, 1 of 13 images are not extracted yet; run the com"
    assert said in aggregate("--codebook=codebook", "--out=out")[1]
    assert cli.main(["fit", "codebook", "store", "--out=words", "--words=4"]) == 0
    assert said in aggregate("--codebook=words", "--out=again")[1]


def test_options_choose_the_inverted_file(aggregate):
    options = "--float", "--idf", "--assignments=3"
    assert aggregate("--codebook=codebook", "--out=out", *options)[0] == 0
    index = inverted_file.open_inverted_file("out")
    assert (index.info["binary"], index.info["assignments"]) == (False, 3)
    assert index.rule.idf


def test_a_config_of_the_original_sets_the_same(aggregate, tmp_path):
    (tmp_path / "a.pbtxt").write_text(CONFIG)
    assert aggregate("--config=a.pbtxt", "--out=out")[0] == 0
    index = inverted_file.open_inverted_file("out")
    assert (index.info["binary"], index.info["assignments"]) == (True, 2)
    assert (index.rule.alpha, index.rule.tau, index.rule.normalize) == (2, 0, True)
    assert aggregate("--config=a.pbtxt", "--out=files", "--to=asmk_star")[0] == 0
    residuals, words = datum.read_datum_pair(tmp_path / "files" / "a.asmk_star")
    assert residuals.shape == (2 * len(words),)


@pytest.mark.parametrize("by", ["option", "config"])
def test_regions_are_aggregated_where_a_word_asks_for_it(aggregate, tmp_path, by):
    shutil.rmtree(tmp_path / "store")
    fill_store(tmp_path / "store", IDS, boxes=True)
    options = "--codebook=codebook", "--regional"
    if by == "config":
        options = ("--config=a.pbtxt",)
        lines = "use_regional_aggregation: true", "use_l2_normalization: false"
        (tmp_path / "a.pbtxt").write_text("\n".join([CONFIG, *lines]))
    assert aggregate("--out=out", *options)[0] == 0
    index = inverted_file.open_inverted_file("out")
    assert index.info["regional"] and not index.rule.normalize
    to = "asmk_star" if by == "config" else "vlad"
    assert aggregate("--out=files", f"--to={to}", *options)[0] == 0
    assert len(list((tmp_path / "files").glob(f"*.r{to}"))) == len(IDS)


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ("", ["--to=vlad"], "aggregation_type is ASMK_STAR, but --to is VLAD"),
        ("aggregation_type: VLAD", [], "no inverted file; write files with --to=vlad"),
        ("codebook_size: 31", [], "codebook_size 31 .* do not match the codebook"),
        ("use_regional_aggregation: true", [], "needs features of regions"),
        ("", ["--regional"], "use_regional_aggregation is false: leave out"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    aggregate, tmp_path, change, options, reason
):
    field = change.partition(":")[0]
    kept = [line for line in CONFIG.splitlines() if not field or field not in line]
    (tmp_path / "a.pbtxt").write_text("\n".join([*kept, change]))
    status, _, error = aggregate("--config=a.pbtxt", "--out=out", *options)
    assert status == 2
    assert len(error.splitlines()) == 1
    assert re.search(reason, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "name a codebook with --codebook"),
        (["--codebook=codebook", "--to=asmk", "--idf"], "only of an inverted file"),
        (["--codebook=codebook", "--assignments=31"], "has 30 words"),
        (["--codebook=nowhere"], "nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused(aggregate, options, reason):
    status, _, error = aggregate("--out=out", *options)
    assert status == 2
    assert reason in error


@pytest.fixture
def paired(run, photos, global_model, tmp_path):
    """The option of an index by two models; the folder of the global one."""
    folder = tmp_path / "global"
    shutil.copytree(global_model, folder)
    option = f"--index={tmp_path / 'ix'}"
    status, printed = run("index", photos, option, f"--global_model={folder}")
    assert status == 0 and "4 extracted, 0 unchanged\n" in printed
    return option, folder


def test_an_index_by_two_models_is_used_without_naming_them(
    run, photos, paired, tmp_path
):
    def do(*arguments):
        status, printed = run(*arguments, model=False)
        assert status == 0
        return printed

    index, _ = paired
    found, lists = tmp_path / "found.json", tmp_path / "lists.json"
    do("search", photos / "1.png", index, f"--json={found}")
    best = json.loads(found.read_text())["queries"][0]["results"][0]
    assert (best["image"], best["similarity"]) == ("1.png", pytest.approx(1, abs=1e-5))
    assert best["inliers"] > 3
    assert "0 extracted, 4 unchanged\n" in do("index", photos, index)
    new = tmp_path / "new.png"
    new.write_bytes((photos / "2.png").read_bytes())
    assert "1 extracted, 4 unchanged" in do("index", index, "--add", new)
    assert "1 removed, 4 left" in do("index", index, "--remove", "3.png")
    lists.write_text(json.dumps({"0.png": ["1.png", "2.png"]}))
    options = f"--queries={photos}", f"--out={tmp_path / 'reranked.json'}"
    assert "1 query reranked" in do("rerank", lists, index, *options)
    shown = do("inspect", tmp_path / "ix")
    assert "global_model:" in shown and "name: global" in shown


def test_folders_of_photos_are_scored_by_two_models(
    run, photos, global_model, tmp_path
):
    for place in ("one", "two"):
        shutil.copytree(photos, tmp_path / "places" / place)
    page = tmp_path / "scores.html"
    arguments = "evaluate", tmp_path / "places", f"--index={tmp_path / 'ix'}"
    status, printed = run(*arguments, f"--global_model={global_model}")
    assert status == 0 and "global" in printed
    again = run(*arguments, f"--html={page}", model=False)[1]
    assert [line for line in printed.splitlines() if "mAP" in line] == [
        line for line in again.splitlines() if "mAP" in line
    ]
    assert "<dt>global model</dt><dd>global</dd>" in page.read_text()


def test_global_descriptors_of_another_model_are_whitened(
    run, photos, paired, tmp_path
):
    index, folder = paired
    out = f"--out={tmp_path / 'pca'}"
    fit = "fit", "pca", tmp_path / "ix" / "store", out, "--of=global", "--dimension=2"
    assert cli.main([*map(str, fit), "--whiten", "--half_whiten"]) == 2
    status, printed = run(*fit, "--half_whiten", model=False)
    assert status == 0
    fields = [line.strip() for line in printed.splitlines() if "--config" in line]
    assert len(fields) == 2 and "variances" not in printed
    new = f"--index={tmp_path / 'white'}", f"--global_model={folder}", *fields
    assert run("index", photos, *new)[0] == 0
    store = open_store(tmp_path / "white" / "store")
    assert store.global_descriptors.shape == (4, 2)
    assert run("search", photos / "0.png", new[0], *fields, model=False)[0] == 0
    # To the local model's own descriptors it does not belong.
    own = f"--index={tmp_path / 'own'}"
    assert run("index", photos, own, *fields)[0] == 2
    assert run("search", photos / "0.png", new[0], model=False)[0] == 2


def test_a_store_by_two_models_resumes_without_naming_them(
    run, photos, global_model, tmp_path
):
    out = f"--out={tmp_path / 'store'}"
    named = f"--global_model={global_model}"
    assert "4 extracted" in run("extract", photos, out, named)[1]
    assert "0 extracted, 4 unchanged" in run("extract", photos, out, model=False)[1]


def test_of_a_global_model_that_has_moved_the_search_says_so(
    run, photos, paired, tmp_path, capsys
):
    index, folder = paired
    folder.rename(tmp_path / "elsewhere")
    for command in ("search", "index", "index --add"):
        name, *more = command.split()
        assert cli.main([name, index, *more, str(photos)]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert f"not in {folder} any more; name its folder with --global_model" in error
    moved = f"--global_model={tmp_path / 'elsewhere'}"
    assert run("search", photos / "0.png", index, moved, model=False)[0] == 0
    # An update notes it down.
    assert run("index", photos, index, moved, model=False)[0] == 0
    assert run("search", photos / "0.png", index, model=False)[0] == 0


@pytest.mark.parametrize("command", ["search", "index", "extract", "match"])
def test_models_that_do_not_go_together_are_refused_in_a_sentence(
    photos, index, tiny_model, global_model, tmp_path, capsys, command
):
    arguments = {
        "search": [photos, index],
        "index": [photos, f"--index={tmp_path / 'ix'}"],
        "extract": [photos, f"--out={tmp_path / 'out'}"],
        "match": [photos / "0.png", photos / "1.png"],
    }
    arguments = [command, *map(str, arguments[command])]
    for options, reason in (
        (
            [f"--model={global_model}", f"--global_model={tiny_model}"],
            "no local branch",
        ),
        (["--global_model=gone"], "gone: no such model folder"),
        ([f"--global_model={tmp_path}"], "config.json: no such file"),
    ):
        assert cli.main([*arguments, *options]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and reason in error
    assert not (tmp_path / "ix").exists()


def test_an_index_with_a_table_is_searched_as_one_without(
    run, photos, index, tmp_path, monkeypatch
):
    use_file_engine(monkeypatch)
    query, found = photos / "0.png", [tmp_path / name for name in ("exact", "table")]
    assert run("search", query, index, f"--json={found[0]}")[0] == 0
    *_, said, last = run("index", photos, index, "--vectors=file")[1].splitlines()
    assert "index/vectors: 4 photos in file, version 1; finds 100.00% of the 3 " in said
    assert last.endswith("index: 0 extracted, 4 unchanged")
    assert run("search", query, index, f"--json={found[1]}")[0] == 0
    assert json.loads(found[0].read_text()) == json.loads(found[1].read_text())
    assert (
        "vectors: 3 photos in" in run("index", index, "--remove=3.png", model=False)[1]
    )
    where = "--where=id = '2.png'"
    assert run("search", query, index, where, f"--json={found[1]}")[0] == 0
    (answer,) = json.loads(found[1].read_text())["queries"]
    assert [result["image"] for result in answer["results"]] == ["2.png"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["a", "--vectors=faiss"],
            "--vectors=faiss: expected one of lancedb, lancedb:U",
        ),
        (
            ["--prune", "--vectors=lancedb"],
            "--vectors goes with photos to index, or wit",
        ),
        (["a", "--recall=0.5"], "--recall goes with --vectors"),
    ],
)
def test_tables_that_cannot_be_wanted(capsys, arguments, reason):
    assert cli.main(["index", "--index=ix", *arguments]) == 2
    assert reason in capsys.readouterr().err
