import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image

from delf_jax import files
from delf_jax.evaluation import datasets
from delf_jax.files import InputError, write_json
from delf_jax.retrieval import metrics

QUERY = {"bbx": [1, 2, 30, 40], "easy": [0], "hard": [1], "junk": [2]}
LISTS = ("easy", "hard", "junk")


def write_photos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)
    return folder


def write_truth(path, gnd, index=("a_1", "a_2", "b_1"), queries=("a_3",)):
    content = {"imlist": list(index), "qimlist": list(queries), "gnd": gnd}
    write_json(path, content)
    return path


def test_published_names_are_found_with_their_endings_and_folders(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.jpg", "deep/a_2.jpg", "b_1.png", "a_3.jpg")
    dataset = datasets.read_dataset(write_truth(tmp_path / "gnd_own.json", [QUERY]))
    assert dataset.name == "own"
    assert [photo.name for photo in dataset.index] == ["a_1", "a_2", "b_1"]
    ids = ["a_1.jpg", "deep/a_2.jpg", "b_1.png"]
    assert [photo.id for photo in dataset.index] == ids
    assert [photo.path for photo in dataset.index] == [
        tmp_path / "jpg" / i for i in ids
    ]
    np.testing.assert_array_equal(dataset.boxes, [[2, 1, 40, 30]])
    assert dataset.landmarks is None
    assert datasets.missing_photos(dataset) == {}


def test_the_three_forms_of_a_ground_truth_are_one_dataset(tmp_path):
    content = {"imlist": ["a_1", "a_2", "b_1"], "qimlist": ["a_3"], "gnd": [QUERY]}
    write_json(tmp_path / "gnd_own.json", content)
    (tmp_path / "gnd_own.pkl").write_bytes(pickle.dumps(content))
    rows = [(QUERY["bbx"], *(np.array(QUERY[name]) + 1 for name in LISTS))]
    cells = {
        "gnd": np.array(rows, [(name, object) for name in ("bbx", *LISTS)]),
        **{n: np.array(content[n], object) for n in ("imlist", "qimlist")},
    }
    scipy.io.savemat(tmp_path / "gnd_own.mat", cells)
    first, *others = (
        datasets.read_dataset(tmp_path / f"gnd_own{suffix}")
        for suffix in (".json", ".pkl", ".mat")
    )
    for other in others:
        assert (first.name, first.index, first.queries) == other[:1] + other[2:4]
        np.testing.assert_array_equal(first.boxes, other.boxes)
        for name, lists in first.protocols.items():
            for one, two in zip(lists, other.protocols[name], strict=True):
                np.testing.assert_array_equal(one[0], two[0])


def test_the_protocols_are_those_of_the_benchmark(tmp_path):
    dataset = datasets.read_dataset(write_truth(tmp_path / "gnd.json", [QUERY]))
    expected = {
        "easy": ([0], [2, 1]),
        "medium": ([0, 1], [2]),
        "hard": ([1], [2, 0]),
    }
    assert list(dataset.protocols) == list(expected)
    for name, (positives, junk) in expected.items():
        np.testing.assert_array_equal(dataset.protocols[name].positives[0], positives)
        np.testing.assert_array_equal(dataset.protocols[name].junk[0], junk)


def test_without_hard_photos_there_is_one_protocol(tmp_path):
    truth = write_truth(tmp_path / "gnd.json", [{**QUERY, "hard": []}])
    assert list(datasets.read_dataset(truth).protocols) == ["all"]


def test_labels_beside_the_ground_truth_name_the_landmarks(tmp_path):
    truth = write_truth(tmp_path / "gnd.json", [QUERY])
    labels = tmp_path / "labels.csv"
    labels.write_text("image,landmark,more\na_3,castle,1\nb_1,,\n")
    assert datasets.read_dataset(truth).landmarks == ["castle"]
    labels.write_text("image,landmark\nb_1,castle\n")
    with pytest.raises(InputError, match="no landmark for query 'a_3'"):
        datasets.read_dataset(truth)
    labels.write_text("photo,place\nb_1,castle\n")
    with pytest.raises(InputError, match="has no column 'image'"):
        datasets.read_dataset(truth)


def test_missing_photos_are_named(tmp_path):
    write_photos(tmp_path / "elsewhere", "a_1.jpg")
    truth = write_truth(tmp_path / "gnd.json", [QUERY])
    dataset = datasets.read_dataset(truth, tmp_path / "elsewhere")
    missing = datasets.missing_photos(dataset)
    assert list(missing) == ["a_2", "b_1", "a_3"]
    assert datasets.format_missing(missing) == "3 photos missing (a_2, b_1, a_3)"
    many = datasets.format_missing([str(i) for i in range(7)])
    assert many == "7 photos missing (0, 1, 2, 3, 4 and 2 more)"


def test_what_is_missing_is_left_out_everywhere(tmp_path):
    gnd = [
        {"bbx": [0, 0, 9, 9], "easy": [0, 1], "hard": [3], "junk": [2]},
        {"bbx": [0, 0, 8, 8], "easy": [3], "hard": [0], "junk": []},
    ]
    truth = write_truth(tmp_path / "gnd.json", gnd, ("a", "b", "c", "d"), ("q", "r"))
    (tmp_path / "labels.csv").write_text("image,landmark\nq,A\nr,B\n")
    dataset = datasets.read_dataset(truth)
    left = datasets.drop_missing(dataset, {"b", "r"})
    assert [photo.name for photo in left.index] == ["a", "c", "d"]
    assert [photo.name for photo in left.queries] == ["q"]
    assert left.landmarks == ["A"] and len(left.boxes) == 1
    np.testing.assert_array_equal(left.protocols["medium"].positives[0], [0, 2])
    np.testing.assert_array_equal(left.protocols["hard"].junk[0], [1, 0])
    with pytest.raises(InputError, match="no query left"):
        datasets.drop_missing(dataset, {"q", "r"})
    with pytest.raises(InputError, match="no photo left"):
        datasets.drop_missing(dataset, {"a", "b", "c", "d"})


def test_a_name_of_two_photos_is_refused(tmp_path):
    write_photos(tmp_path / "jpg", "x/a_1.jpg", "y/a_1.jpg", "a_2.jpg")
    with pytest.raises(InputError, match="'a_1' is ambiguous"):
        datasets.read_dataset(write_truth(tmp_path / "gnd.json", [QUERY]))


def test_ground_truth_that_makes_no_sense_is_refused(tmp_path):
    twice = write_truth(tmp_path / "a.json", [QUERY], ("a_1", "a_1", "b_1"))
    with pytest.raises(InputError, match="lists a photo twice"):
        datasets.read_dataset(twice)
    with pytest.raises(InputError, match="no photos or no queries"):
        datasets.read_dataset(write_truth(tmp_path / "b.json", [], queries=()))
    with pytest.raises(InputError, match="no such file"):
        datasets.read_dataset(tmp_path / "c.json")
    with pytest.raises(InputError, match="no such folder of photos"):
        truth = write_truth(tmp_path / "d.json", [QUERY])
        datasets.read_dataset(truth, tmp_path / "nowhere")


def test_folders_of_photos_are_searched_leaving_one_out(tmp_path):
    write_photos(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "_other/9.jpg", "loose.jpg")
    dataset = datasets.read_dataset(tmp_path)
    assert [photo.name for photo in dataset.index] == [
        *("_other/9.jpg", "a/1.jpg", "a/2.jpg", "b/1.jpg", "loose.jpg")
    ]
    assert [photo.name for photo in dataset.queries] == [
        "a/1.jpg",
        "a/2.jpg",
        "b/1.jpg",
    ]
    assert dataset.landmarks == ["a", "a", "b"]
    (protocol,) = dataset.protocols.values()
    assert [ids.tolist() for ids in protocol.positives] == [[2], [1], []]
    assert [ids.tolist() for ids in protocol.junk] == [[1], [2], [3]]


def test_a_folder_without_folders_is_no_dataset(tmp_path):
    write_photos(tmp_path, "1.jpg")
    with pytest.raises(InputError, match="no photos in folders"):
        datasets.read_dataset(tmp_path)
    with pytest.raises(InputError, match="--images goes with a file"):
        datasets.read_dataset(tmp_path, tmp_path)


def test_an_empty_folder_of_photos_is_named(tmp_path):
    truth = write_truth(tmp_path / "gnd.json", [QUERY])
    (tmp_path / "empty").mkdir()
    for images in (tmp_path / "empty", None):
        with pytest.raises(InputError, match="empty: no images in this folder"):
            datasets.read_dataset(truth if images else tmp_path / "empty", images)


def test_ids_that_are_no_photo_of_the_index_are_named(tmp_path):
    truth = write_truth(tmp_path / "gnd.json", [{**QUERY, "easy": [3]}])
    with pytest.raises(InputError, match=r"gnd\[0\]\.easy: "):
        datasets.read_dataset(truth)


def test_the_version_changes_with_the_ground_truth(tmp_path):
    versions = set()
    for junk in ([], [2]):
        truth = write_truth(tmp_path / "gnd.json", [{**QUERY, "junk": junk}])
        versions.add(datasets.read_dataset(truth).version)
    assert len(versions) == 2


def test_the_real_photos_are_a_dataset_as_they_are(photos):
    dataset = datasets.read_dataset(photos / "ground_truth.json")
    assert datasets.missing_photos(dataset) == {}
    assert (len(dataset.index), len(dataset.queries)) == (260, 189)
    assert len(set(dataset.landmarks)) == 19
    assert list(dataset.protocols) == ["all"]


def write_original(folder, **queries):
    """Text files as of Oxford5k: name of a query to (photo and box, good, ok, junk)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in queries.items():
        for kind, text in zip(("query", "good", "ok", "junk"), parts, strict=True):
            (folder / f"{name}_{kind}.txt").write_text(text.replace(" | ", "\n"))
    return folder


def test_the_original_oxford_and_paris_are_datasets(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.jpg", "a_2.jpg", "deep/b_1.jpg", "z.jpg")
    truth = write_original(
        tmp_path / "gt_files",
        a_1=("oxc1_a_1 1 2 30 40", "a_1 | a_2", "b_1", "z"),
        a_2=("a_2 0 0 4 3", "a_1", "", ""),
    )
    dataset = datasets.read_dataset(truth)
    assert datasets.missing_photos(dataset) == {}
    assert [photo.name for photo in dataset.index] == ["a_1", "a_2", "b_1", "z"]
    assert dataset.index[2].id == "deep/b_1.jpg"
    assert [photo.name for photo in dataset.queries] == ["a_1", "a_2"]
    np.testing.assert_array_equal(dataset.boxes, [[2, 1, 40, 30], [0, 0, 3, 4]])
    (protocol,) = dataset.protocols.values()
    assert [ids.tolist() for ids in protocol.positives] == [[0, 1, 2], [0]]
    assert [ids.tolist() for ids in protocol.junk] == [[3], []]
    assert dataset.landmarks == ["a", "a"]
    other = datasets.read_dataset(truth, tmp_path / "jpg")
    assert other.version == dataset.version
    (truth / "a_2_ok.txt").write_text("z")
    assert datasets.read_dataset(truth).version != dataset.version


def test_photos_that_the_original_names_and_nobody_has_are_missing(tmp_path):
    write_photos(tmp_path / "gt" / "jpg", "a_1.jpg")
    lists = ("a_1 0 0 4 3", "a_1 | gone", "", "lost | paris_louvre_000136")
    dataset = datasets.read_dataset(write_original(tmp_path / "gt", a_1=lists))
    assert list(datasets.missing_photos(dataset)) == ["gone", "lost"]


def test_damaged_files_of_paris_are_not_in_its_index(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.jpg")
    (tmp_path / "jpg" / "paris_triomphe_000867.jpg").write_bytes(b"302 Found")
    truth = write_original(tmp_path, a_1=("a_1 0 0 4 3", "a_1", "", ""))
    dataset = datasets.read_dataset(truth)
    assert [photo.name for photo in dataset.index] == ["a_1"]
    assert len(datasets._DAMAGED) == 20


def compute_ap(ranking, right, ignored):
    """The original's protocol, photo by photo: trapezoids under precision over recall.

    http://www.robots.ox.ac.uk/~vgg/data/oxbuildings/compute_ap.cpp
    """
    area, hits, seen, recall, precision = 0.0, 0, 0, 0.0, 1.0
    for photo in ranking:
        if photo in ignored:
            continue
        hits, seen = hits + (photo in right), seen + 1
        now = hits / len(right), hits / seen
        area += (now[0] - recall) * (precision + now[1]) / 2
        recall, precision = now
    return area


def test_average_precision_is_that_of_the_original_protocol(rng):
    for _ in range(50):
        ranking = rng.permutation(40).astype(np.int32)
        marks = rng.integers(0, 4, 40)
        right, junk = np.flatnonzero(marks == 0), np.flatnonzero(marks == 1)
        found = metrics.average_precision(ranking, right, junk)
        expected = compute_ap(ranking.tolist(), set(right), set(junk))
        assert found == pytest.approx(expected, abs=1e-12)


def test_lists_of_oxford_may_say_jpg(tmp_path):
    names = ("a_1.jpg", "a_2.jpg", "deep/b_1.jpg", "z.JPG")
    write_photos(tmp_path / "jpg", *names)
    plain = ("oxc1_a_1 1 2 30 40", "a_1 | a_2", "b_1", "z | gone | paris_louvre_000136")
    say_jpg = [text.replace(" | ", ".jpg | ") + ".jpg" for text in plain[1:]]
    same = [
        datasets.read_dataset(write_original(tmp_path / folder, a_1=lists))
        for folder, lists in (
            ("plain", plain),
            ("suffix", ("oxc1_a_1.jpg 1 2 30 40", *say_jpg)),
            ("mixed", ("a_1.JPG 1 2 30 40", "A_1 | a_2.png", say_jpg[1], say_jpg[2])),
        )
    ]
    for dataset in same:
        assert [photo.name for photo in dataset.index] == [
            *("a_1", "a_2", "b_1", "gone", "z")
        ]
        assert list(datasets.missing_photos(dataset)) == ["gone"]
        assert dataset.queries[0].name == "a_1"
        (protocol,) = dataset.protocols.values()
        assert protocol.positives[0].tolist() == [0, 1, 2]
        assert protocol.junk[0].tolist() == [4, 3]


def test_a_photo_that_good_and_ok_list_counts_once(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.jpg", "a_2.jpg")
    lists = ("a_1 0 0 4 3", "a_1 | a_1.jpg | a_2", "a_2", "")
    dataset = datasets.read_dataset(write_original(tmp_path / "gt", a_1=lists))
    assert dataset.protocols["all"].positives[0].tolist() == [0, 1]


def test_a_ground_truth_may_name_folders_suffixes_and_case_otherwise(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.png", "deep/A_2.JPG", "b_1.jpg", "q/a_3.jpg")
    names, query = ("a_1.jpg", "a_2", "jpg/b_1.jpg"), "a_3.png"
    truth = write_truth(tmp_path / "gnd.json", [QUERY], names, [query])
    (tmp_path / "labels.csv").write_text("image,landmark\na_3,castle\n")
    dataset = datasets.read_dataset(truth)
    assert datasets.missing_photos(dataset) == {}
    ids = [photo.id for photo in dataset.index]
    assert ids == ["a_1.png", "deep/A_2.JPG", "b_1.jpg"]
    assert dataset.queries[0].id == "q/a_3.jpg" and dataset.landmarks == ["castle"]


def test_two_names_of_one_photo_are_refused(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.jpg")
    truth = write_truth(tmp_path / "gnd.json", [QUERY], ("a_1", "x", "a_1.jpg"))
    with pytest.raises(InputError, match="'a_1' and 'a_1.jpg' are one photo, a_1.jpg"):
        datasets.read_dataset(truth)


def compute_map(ranks, gnd, kappas):
    """The published evaluation, step by step: (AP, precisions at kappas) of a query.

    https://github.com/filipradenovic/revisitop, python/evaluate.py
    """
    positions = [place for place, photo in enumerate(ranks) if photo in gnd["ok"]]
    junk = [place for place, photo in enumerate(ranks) if photo in gnd["junk"]]
    passed = 0
    for number, position in enumerate(positions):
        while passed < len(junk) and position > junk[passed]:
            passed += 1
        positions[number] = position - passed
    average = 0.0
    for number, rank in enumerate(positions):
        before = 1.0 if rank == 0 else number / rank
        after = (number + 1) / (rank + 1)
        average += (before + after) / len(gnd["ok"]) / 2
    last = [min(max(positions) + 1, kappa) for kappa in kappas]
    counts = [sum(position + 1 <= kappa for position in positions) for kappa in last]
    return average, [count / kappa for count, kappa in zip(counts, last, strict=True)]


def test_files_that_are_read_score_as_by_the_published_evaluation(tmp_path, rng):
    """Also where a query is an image of its own lists, or junk is listed twice."""
    names, kappas = [f"p{number}" for number in range(14)], (1, 5, 10)
    for _ in range(20):
        marks = [rng.permutation(np.r_[0, 1, 2, rng.integers(0, 4, 11)]) for _ in "ab"]
        lists = [dict(zip(LISTS, _of(mark), strict=True)) for mark in marks]
        gnd = [{"bbx": [0, 0, 4, 3], **each} for each in lists]
        gnd[0]["junk"] = gnd[0]["junk"] * 2
        truth = write_truth(tmp_path / "gnd.json", gnd, names, names[:2])
        dataset = datasets.read_dataset(truth)
        ranking = np.stack([rng.permutation(14).astype(np.int32) for _ in gnd])
        for name, (positives, junk) in dataset.protocols.items():
            found = metrics.revisited_metrics(ranking, positives, junk, kappas)
            for query, each in enumerate(gnd):
                easy, hard, out = (each[kind] for kind in LISTS)
                right = {"easy": easy, "medium": easy + hard, "hard": hard}[name]
                left = {"easy": out + hard, "medium": out, "hard": out + easy}[name]
                average, precisions = compute_map(
                    ranking[query], {"ok": right, "junk": left}, kappas
                )
                assert found.average_precisions[query] == pytest.approx(average)
                np.testing.assert_allclose(found.precisions[query], precisions)


def _of(marks):
    return [np.flatnonzero(marks == kind).tolist() for kind in range(3)]


def test_lists_of_ok_photos_are_the_original_protocol(tmp_path):
    write_photos(tmp_path / "jpg", "a_1.jpg", "a_2.jpg", "b_1.jpg", "a_3.jpg")
    gnd = [{"bbx": [1, 2, 30, 40], "ok": [0, 1], "junk": [2]}]
    path = write_truth(tmp_path / "gnd_oxford5k.json", gnd)
    path.with_suffix(".pkl").write_bytes(pickle.dumps(files.read_json(path)))
    dataset = datasets.read_dataset(path.with_suffix(".pkl"))
    (protocol,) = dataset.protocols.values()
    assert dataset.name == "oxford5k" and datasets.missing_photos(dataset) == {}
    assert protocol.positives[0].tolist() == [0, 1]
    assert protocol.junk[0].tolist() == [2]
