import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from delf_jax.features import LocalFeatures
from delf_jax.files import InputError
from delf_jax.report.figures import draw_matches, write_figure
from delf_jax.retrieval.verification import PairMatch

GREY_A = np.full((60, 80, 3), 90, np.uint8)
GREY_B = np.full((90, 60, 3), 160, np.uint8)


def features(rng, count: int, size: tuple[int, int]) -> LocalFeatures:
    return LocalFeatures(
        locations=rng.uniform(0, size, (count, 2)).astype(np.float32),
        scales=np.ones(count, np.float32),
        descriptors=np.zeros((count, 4), np.float32),
        attention=np.ones(count, np.float32),
    )


def pair(inliers: int, matches: int) -> PairMatch:
    ids = np.arange(matches, dtype=np.int32)
    return PairMatch(np.stack([ids, ids], 1), np.eye(2, 3), ids < inliers)


def draw(rng, tmp_path, inliers: int, count=150, title="two photos") -> np.ndarray:
    path = tmp_path / f"{inliers}.png"
    figure = draw_matches(
        GREY_A,
        GREY_B,
        features(rng, count, (60, 80)),
        features(rng, count, (90, 60)),
        pair(inliers, count),
        title,
    )
    write_figure(figure, path, dpi=60)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def colourful(picture: np.ndarray) -> int:
    return int((picture.max(axis=2) - picture.min(axis=2) > 60).sum())


def test_both_photos_stand_side_by_side_at_one_height(rng, tmp_path):
    picture = draw(rng, tmp_path, 0, count=0, title="")
    for shade, ratio in ((90, 80 / 60), (160, 60 / 90)):
        rows, columns = np.nonzero((np.abs(picture - shade) < 3).all(axis=2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert width / height == pytest.approx(ratio, rel=0.06)
        assert rows.max() == len(picture) - 1
    assert colourful(picture) == 0


def test_every_inlier_adds_colour_and_outliers_add_none(rng, tmp_path):
    few, more = (colourful(draw(rng, tmp_path, count)) for count in (1, 12))
    assert 20 < few < more / 3


def test_more_inliers_than_lines_are_drawn(rng, tmp_path):
    assert colourful(draw(rng, tmp_path, 150, title=("one", "another"))) > 0


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(InputError, match=r"out\.xyz: the name must end in .*png"):
        write_figure(Figure(), tmp_path / "out.xyz")
    assert not list(tmp_path.iterdir())
