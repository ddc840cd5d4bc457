import jax
import numpy as np
import PIL.Image
import pytest

from delf_jax import demo
from delf_jax.extraction import model_folder
from delf_jax.search import query
from delf_jax.synthetic import correspondence, landmarks
from delf_jax.synthetic import village as drawing

WORLD = drawing.World(landmarks=2, queries=1, views=2, distractors=1, size=(96, 128))


@pytest.fixture(scope="module")
def village(tmp_path_factory):
    """A folder with a small village."""
    folder = tmp_path_factory.mktemp("village")
    drawing.draw(folder, WORLD)
    return folder


def _answer(folder, path, images):
    results = [query.Result(i, s, 0, np.zeros((0, 4))) for i, s in images]
    return query.Answer(str(path), folder / path, results)


def test_the_demo_writes_photos_a_figure_and_a_page(
    tiny_model, village, tmp_path, capsys
):
    model = model_folder.load_model(tiny_model)
    outcome = demo.run(tmp_path, model, village, progress=False)
    photos = sorted(p.relative_to(tmp_path) for p in tmp_path.glob("photos/*/*.jpg"))
    assert len(photos) == 5
    assert len(list(tmp_path.glob("queries/*/*.jpg"))) == 2
    assert (tmp_path / "matches.png").stat().st_size > 10_000
    assert (tmp_path / "search.html").read_text().count("<li>") == 10
    assert 0 < outcome.before <= 1 and 0 < outcome.after <= 1
    printed = capsys.readouterr().out
    assert f"{outcome.before:.3f}" in printed and f"{outcome.after:.3f}" in printed
    assert str(tmp_path / "search.html") in printed


def test_a_model_without_local_features_has_its_demo(
    global_model, village, tmp_path, capsys
):
    model = model_folder.load_model(global_model)
    outcome = demo.run(tmp_path, model, village, progress=False)
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
    there, known = correspondence.project(a, b, points)
    # Far outside of the second picture its pixels are small in the first.
    near = known & (there > -10).all(1) & (there < (100, 130)).all(1)
    lines = np.concatenate([points, there], 1)[near]
    assert len(lines) > 20
    assert demo.true_inliers(a, b, lines).all()
    assert not demo.true_inliers(a, b, lines + (0, 0, 9, 0)).any()


def test_views_are_read_as_they_were_saved(tmp_path):
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT)
    views = [landmarks.draw_view(landmark, i, (30, 40)) for i in (0, 1)]
    correspondence.save_views(tmp_path / "views.npz", views)
    read = correspondence.load_views(tmp_path / "views.npz")
    for view, again in zip(views, read, strict=True):
        jax.tree.map(np.testing.assert_array_equal, view[1:], again[1:])
        assert np.abs(view.image.astype(int) - again.image).mean() < 5
        assert again.camera.size == view.camera.size


@pytest.mark.parametrize("number", [0, 35])
def test_the_village_of_the_package_is_what_is_drawn_today(number):
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT + number)
    side, size = "queries" if number < 12 else "photos", drawing.WORLD.size
    path = demo.VILLAGE / side / f"landmark-{number:02d}" / "view-0.jpg"
    drawn = landmarks.draw_view(landmark, 0, size).image
    stored = np.asarray(PIL.Image.open(path)).astype(int)
    assert np.abs(stored - drawn).mean() < 4  # As a small JPEG keeps it.


def test_the_village_of_the_package_is_whole():
    counts = {"queries": 24, "photos": 36 + 24}
    for side, count in counts.items():
        assert len(list(demo.VILLAGE.glob(f"{side}/*/*.jpg"))) == count
    a, b = correspondence.load_views(demo.VILLAGE / "pair.npz")
    assert a.camera.size == b.camera.size == drawing.WORLD.size
