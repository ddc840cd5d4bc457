import re
import shutil

import pytest

from delf_jax import cli
from delf_jax.formats.delf import datum
from delf_jax.index import inverted_file
from tests.helpers.inverted_files import DIMENSION, IDS, WORDS, draw_words, fill_store
from tests.helpers.stores import announce

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
