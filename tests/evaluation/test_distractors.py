import shutil

import numpy as np
import pytest

from delf_jax import cli
from delf_jax.evaluation import datasets, distractors, evaluation, report
from delf_jax.extraction import settings
from delf_jax.files import InputError
from delf_jax.store import feature_store
from tests.helpers.stores import announce


@pytest.fixture(scope="module")
def how(model):
    return settings.settings_for(model)


def open_them(path, out, model, how, **options):
    return distractors.open_distractors(
        path, out, model, how, progress=False, **options
    )


def evaluate(drawn, folder, model, how, wrong):
    dataset = datasets.read_dataset(drawn / "drawn" / "gnd_drawn.json")
    pipelines = [("global",), ("verification",)]
    return evaluation.evaluate(
        dataset, folder, model, how, pipelines, distractors=wrong, progress=False
    )


def test_distractors_are_searched_too_and_never_right(drawn, tmp_path, model, how):
    wrong = open_them(drawn / "training", tmp_path / "others", model, how)
    with_them = evaluate(drawn, tmp_path / "index", model, how, wrong)
    alone = evaluate(drawn, tmp_path / "index", model, how, None)
    assert (alone.distractors, with_them.distractors) == (0, 3)
    for one, two in zip(alone.rows, with_them.rows, strict=True):
        assert one.key != two.key
    for query in range(len(alone.dataset.queries)):
        ranking = with_them.rankings["global"]["medium"][query]
        assert sorted(ranking) == list(range(len(alone.dataset.index) + 3))
        kept = ranking[ranking < len(alone.dataset.index)]
        np.testing.assert_array_equal(kept, alone.rankings["global"]["medium"][query])
    line = next(report.table(with_them))
    assert "16 photos and 3 distractors" in line
    assert report.to_json(with_them)["distractors"] == 3


def test_a_store_of_them_serves_as_well_and_is_not_extracted_again(
    drawn, tmp_path, model, how, monkeypatch
):
    photos = open_them(drawn / "training", tmp_path / "others", model, how)
    first = evaluate(drawn, tmp_path / "index", model, how, photos)

    def refuse(*args, **kwargs):
        raise AssertionError("extracted again")

    monkeypatch.setattr("delf_jax.extraction.engines._run_program", refuse)
    given = open_them(tmp_path / "others", tmp_path / "unused", model, how)
    again = evaluate(drawn, tmp_path / "index", model, how, given)
    assert [row.key for row in first.rows] == [row.key for row in again.rows]
    assert not (tmp_path / "unused").exists()
    assert all(photo.path is None for photo in given.photos)


def test_features_of_other_settings_are_refused(drawn, tmp_path, model, how):
    other = how._replace(max_features=7)
    open_them(drawn / "training", tmp_path / "others", model, other)
    with pytest.raises(InputError, match="model or settings do not match"):
        open_them(tmp_path / "others", tmp_path / "unused", model, how)


def test_damaged_distractors_are_named_unless_a_part_is_asked_for(
    drawn, tmp_path, model, how
):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.jpg").write_bytes((drawn / "training" / "0.jpg").read_bytes())
    (folder / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(
        InputError, match=r"1 distractors cannot be used, first bad.jpg"
    ):
        open_them(folder, tmp_path / "others", model, how)
    found = open_them(folder, tmp_path / "others", model, how, partial=True)
    assert [photo.id for photo in found.photos] == ["good.jpg"]


def test_absent_distractors_are_kept_and_not_searched(
    drawn, tmp_path, model, how, capsys
):
    folder, out = tmp_path / "photos", tmp_path / "others"
    shutil.copytree(drawn / "training", folder, copy_function=shutil.copy2)
    (folder / "bad.jpg").write_bytes(b"no photo")
    open_them(folder, out, model, how, partial=True)
    (folder / "bad.jpg").unlink()
    (folder / "0.jpg").unlink()
    found = distractors.open_distractors(folder, out, model, how)
    assert [photo.id for photo in found.photos] == ["1.jpg", "2.jpg"]
    assert f"{folder}: 1 distractor of earlier runs absent" in capsys.readouterr().out
    assert len(feature_store.open_store(out)) == 3


def test_an_incomplete_store_of_them_is_refused_unless_a_part_is_asked_for(
    drawn, tmp_path, model, how
):
    open_them(drawn / "training", tmp_path / "others", model, how)
    announce(tmp_path / "others", ["late.jpg"])
    with pytest.raises(InputError, match="others: incomplete, 1 of 4 images"):
        open_them(tmp_path / "others", tmp_path / "unused", model, how)
    found = open_them(
        tmp_path / "others", tmp_path / "unused", model, how, partial=True
    )
    assert len(found.photos) == 3


def test_an_empty_folder_and_ids_of_the_dataset_are_refused(
    drawn, tmp_path, model, how
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in this folder"):
        open_them(tmp_path / "empty", tmp_path / "others", model, how)
    same = open_them(drawn / "drawn" / "jpg", tmp_path / "same", model, how)
    with pytest.raises(InputError, match=r"'other0.jpg' is the id of another image"):
        evaluate(drawn, tmp_path / "index", model, how, same)


def test_evaluate_takes_them_by_option(drawn, tmp_path, tiny_model, capsys):
    asked = ["evaluate", str(drawn / "drawn" / "gnd_drawn.json")]
    asked += [f"--index={tmp_path / 'index'}", "--rerank=global"]
    asked += [f"--distractors={drawn / 'training'}", f"--model={tiny_model}"]
    assert cli.main(asked) == 0
    assert "16 photos and 3 distractors" in capsys.readouterr().out
    assert len(feature_store.open_store(tmp_path / "index" / "distractors")) == 3
    ranking = [*asked[:2], "--ranking=x.json", "--distractors=y"]
    assert cli.main(ranking) == 2
    assert "--distractors goes with --index" in capsys.readouterr().err
