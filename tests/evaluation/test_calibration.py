import shutil

import numpy as np
import pytest

from delf_jax import cli, images
from delf_jax.evaluation import calibration
from delf_jax.evaluation.calibration import Pairs, Searched
from delf_jax.extraction.model_folder import load_model
from delf_jax.files import InputError, read_json, write_json
from delf_jax.search.calibration import calibration_of
from delf_jax.search.matching import verification_settings
from delf_jax.synthetic.landmarks import HELD_OUT, draw_landmark, draw_view

LANDMARKS, VIEWS = 4, 3


def searched(rng, related, told, count=40, alike=0.05):
    """A query's candidates: the first are related, of which some can be told."""
    inliers = rng.poisson(7, count)
    inliers[:told] = 30 + rng.poisson(30, told)
    similarities = rng.normal(0.5, 0.05, count)
    similarities[:related] += alike
    order = np.argsort(-similarities)
    are_related = np.arange(count) < related
    return Searched(order, *(x[order] for x in (similarities, inliers, are_related)))


def make_pairs(rng, told=3, alike=0.05, queries=30):
    candidates = [searched(rng, 4, told, alike=alike) for _ in range(queries)]
    nothing = Searched(*(np.zeros(0, x.dtype) for x in candidates[0]))
    unrelated = [Searched(*(x[~each.related] for x in each)) for each in candidates]
    return Pairs(candidates, [nothing] * queries, unrelated)


def landmarks(queries=30):
    return [f"place{query % 5}" for query in range(queries)]


def test_the_share_that_inliers_tell_is_found(rng):
    shares = [
        calibration.fit(make_pairs(rng, told), landmarks()).share for told in (1, 2, 3)
    ]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75], atol=0.08)


def test_similarities_that_say_more_weigh_more(rng):
    weights = [
        calibration.fit(make_pairs(rng, alike=alike), landmarks()).similarity
        for alike in (0.0, 0.05, 0.15)
    ]
    assert weights == sorted(weights) and weights[0] < 0.3 < weights[2]


def test_what_one_in_a_hundred_exceeds_is_that_of_the_unrelated(rng):
    pairs = make_pairs(rng)
    found = calibration.fit(pairs, landmarks())
    chance = np.concatenate([each.inliers for each in pairs.unrelated])
    pair, search = found.by_chance
    assert np.mean(chance > pair) <= 0.01 < np.mean(chance > pair - 2)
    assert search >= pair and found.surprise[1] >= found.surprise[0] > 0
    assert found.background == tuple(sorted(found.background))


def test_answers_are_right_where_the_odds_are_high(rng):
    pairs = make_pairs(rng)
    found = calibration.fit(pairs, landmarks())
    odds, right = calibration.answers(pairs.candidates, found)
    absent, wrong = calibration.answers(pairs.unrelated, found)
    assert right.all() and not wrong.any()
    assert odds.min() > absent.max()


def test_too_few_pairs_are_refused(rng):
    with pytest.raises(InputError, match="3 of different ones: expected at least"):
        few = [Searched(*(x[:3] for x in searched(rng, 0, 0)))]
        calibration.fit(Pairs(few, few, few), ["place"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of a folder for each landmark."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(LANDMARKS):
        landmark = draw_landmark(HELD_OUT + number)
        for view in range(VIEWS):
            path = folder / f"place{number}" / f"{view}.jpg"
            path.parent.mkdir(exist_ok=True)
            drawn = draw_view(landmark, view, (96, 128))
            path.write_bytes(images.encode_jpeg(drawn.image, 92))
    return folder


def test_calibrate_writes_to_the_model_and_search_takes_it(
    photos, tiny_model, tmp_path, capsys
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    before = load_model(model)
    assert verification_settings(model=before).calibration is None
    asked = [str(photos), f"--index={tmp_path / 'index'}", f"--model={model}"]
    assert cli.main(["index", *asked]) == 0
    assert cli.main(["calibrate", *asked]) == 0
    printed = capsys.readouterr().out
    assert "24 pairs of one place, 108 of different ones" in printed
    after = load_model(model)
    assert after.fingerprint == before.fingerprint  # Indexes stay valid.
    found = verification_settings(model=after)
    assert found.calibration == calibration_of(after)
    assert found.by_chance == found.calibration.by_chance
    # The original's numbers are not touched.
    assert verification_settings("delg", after).calibration is None
    query = str(photos / "place0" / "0.jpg")
    out = tmp_path / "found.json"
    options = [f"--index={tmp_path / 'index'}", f"--model={model}", f"--json={out}"]
    assert cli.main(["search", query, *options]) == 0
    (answer,) = read_json(out)["queries"]
    for result in answer["results"]:
        more = result["inliers"] > answer["inliers_by_chance"]
        assert result["confident"] is more
    assert answer["results"][0]["image"] == "place0/0.jpg"


def test_calibrate_says_what_it_needs(photos, tiny_model, tmp_path, capsys):
    asked = ["calibrate", str(photos), f"--index={tmp_path / 'index'}"]
    assert cli.main(asked) == 2
    assert "--model: name the folder of the model" in capsys.readouterr().err
    asked += [f"--model={tiny_model}", "--landmarks=place0,nowhere"]
    assert cli.main(asked) == 2
    assert "no query shows the landmark 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("share", 1.5, "share.*: expected a number between 0 and 1"),
        ("background", ["7"], r"background\[0\].*: expected an integer of at least 0"),
        ("by_chance", [3], "by_chance: expected two numbers"),
        ("middle", None, "middle.*: expected a finite number"),
    ],
)
def test_a_damaged_calibration_is_refused(tiny_model, tmp_path, field, value, message):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    inliers = {
        **{"share": 0.7, "slope": 1.0, "middle": 2.0, "most": 8.0},
        **{"background": [5, 7], "by_chance": [9, 12], "surprise": [3.0, 5.0]},
        field: value,
    }
    config = read_json(model / "config.json")
    config.pop("checksum", None)
    write_json(model / "config.json", {**config, "calibration": {"inliers": inliers}})
    with pytest.raises(InputError, match=message):
        calibration_of(load_model(model))
