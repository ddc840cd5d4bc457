import numpy as np
import pytest

from delf_jax import demo
from delf_jax.extraction import model_folder
from delf_jax.search import query
from delf_jax.synthetic import landmarks

WORLD = demo.World(landmarks=2, queries=1, views=2, distractors=1, size=(96, 128))


def _answer(folder, path, images):
    results = [query.Result(i, s, 0, np.zeros((0, 4))) for i, s in images]
    return query.Answer(str(path), folder / path, results)


def test_the_demo_writes_photos_a_figure_and_a_page(tiny_model, tmp_path, capsys):
    model = model_folder.load_model(tiny_model)
    outcome = demo.run(tmp_path, model, WORLD, progress=False)
    photos = sorted(p.relative_to(tmp_path) for p in tmp_path.glob("photos/*/*.jpg"))
    assert len(photos) == 5
    assert len(list(tmp_path.glob("queries/*/*.jpg"))) == 2
    assert (tmp_path / "matches.png").stat().st_size > 10_000
    assert (tmp_path / "search.html").read_text().count("<li>") == 10
    assert 0 < outcome.before <= 1 and 0 < outcome.after <= 1
    printed = capsys.readouterr().out
    assert f"{outcome.before:.3f}" in printed and f"{outcome.after:.3f}" in printed
    assert str(tmp_path / "search.html") in printed


def test_a_model_without_local_features_has_its_demo(global_model, tmp_path, capsys):
    model = model_folder.load_model(global_model)
    outcome = demo.run(tmp_path, model, WORLD, progress=False)
    assert outcome.before == outcome.after > 0
    assert not (tmp_path / "matches.png").exists()
    assert (tmp_path / "search.html").read_text().count("<li>") == 10
    printed = capsys.readouterr().out
    assert "global has no local features" in printed
    assert "figure" not in printed and "after reranking" not in printed


def test_precision_is_measured_by_the_folder_of_a_photo(tmp_path):
    ids = ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    found = [("a/2.jpg", 0.1), ("b/1.jpg", 0.9), ("a/1.jpg", 0.5)]
    answer = _answer(tmp_path, "a/0.jpg", found)
    # Reranked a b a; by similarity b a a.
    after = demo.mean_average_precision([answer], ids, True)
    before = demo.mean_average_precision([answer], ids, False)
    assert after == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert before == pytest.approx(((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_inliers_are_right_where_the_drawing_says_so():
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT + 4)
    a, b = (landmarks.draw_view(landmark, i, (90, 120), clean=True) for i in (0, 1))
    rows, columns = np.nonzero(a.surface >= 0)
    points = np.stack([rows, columns], -1).astype(float)[::97]
    there, known = landmarks.project(a, b, points)
    # Far outside of the second picture its pixels are small in the first.
    near = known & (there > -10).all(1) & (there < (100, 130)).all(1)
    lines = np.concatenate([points, there], 1)[near]
    assert len(lines) > 20
    assert demo.true_inliers(a, b, lines).all()
    assert not demo.true_inliers(a, b, lines + (0, 0, 9, 0)).any()
