"""What `import delf_jax` gives, used as people use it first."""

import ast
import io
import pathlib
import pydoc
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import delf_jax
from delf_jax.extraction.one_call import as_list, check_errors, open_model
from delf_jax.formats.delf.features import DelfFeatures, write_delf_features
from delf_jax.search import matching
from tests.helpers.indexed_photos import NAMES, draw_photo
from tests.helpers.stores import announce

ROOT = pathlib.Path(delf_jax.__file__).parent
NAMES_OF_THE_FACE = [name for name in dir(delf_jax) if name != "__version__"]
IMPORTANT = {"extract", "match", "build_index", "open_index", "load_model", "evaluate"}
SETTINGS = {"max_features": 50}


@pytest.fixture(scope="module")
def model(tiny_model):
    return delf_jax.load_model(tiny_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos/: four of noise, one that is no image."""
    folder = tmp_path_factory.mktemp("public")
    for seed, name in enumerate(NAMES):
        draw_photo(folder / "photos" / name, seed)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    return folder


@pytest.fixture
def photo(folder):
    """One that a file holds without loss."""
    return folder / "photos" / "b/c/3.png"


def build(*args, **kwargs):
    with pytest.warns(UserWarning, match="left out, see .failed; first: "):
        return delf_jax.build_index(*args, progress=False, **SETTINGS, **kwargs)


def assert_same(found, expected):
    for a, b in zip(found.local, expected.local, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(found.global_descriptor, expected.global_descriptor)


def test_the_names_are_there_and_documented():
    assert IMPORTANT < set(NAMES_OF_THE_FACE) and len(NAMES_OF_THE_FACE) <= 14
    for name in NAMES_OF_THE_FACE:
        assert getattr(delf_jax, name).__doc__
        assert not (ROOT / name).exists(), f"{name} is a wing, too"
    with pytest.raises(AttributeError, match="no attribute 'extracts'"):
        delf_jax.extracts  # noqa: B018


def test_a_type_checker_sees_the_same_names():
    (block,) = (
        node
        for node in ast.parse((ROOT / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )
    seen = {
        alias.asname: node.module.removeprefix("delf_jax.")
        for node in block.body
        for alias in node.names
    }
    assert seen == delf_jax._MODULES


def test_importing_imports_nothing_else():
    code = "import sys, delf_jax; print({'jax', 'numpy', 'PIL'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_help_is_a_screen_with_a_line_for_each_name():
    lines = pydoc.render_doc(delf_jax, renderer=pydoc.plaintext).splitlines()
    page = lines[: lines.index("PACKAGE CONTENTS")]
    assert len(page) <= 26 and max(map(len, page)) <= 96
    for name in NAMES_OF_THE_FACE:
        (line,) = (line for line in page if line.startswith(f"        {name}"))
        assert len(line.split("  ")[-1]) > 20
    # What pydoc adds is the list of packages, one a line, and no page of a class.
    assert len(lines) - len(page) <= 44


KINDS = {
    "str": str,
    "PIL.Image": Image.open,
    "uint8": lambda path: delf_jax.read_image(path),
    "float": lambda path: delf_jax.read_image(path) / 255,
    "float32": lambda path: np.float32(delf_jax.read_image(path)) / 255,
    "jax": lambda path: jnp.asarray(delf_jax.read_image(path)),
    "bytes": lambda path: path.read_bytes(),
    "file": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_all_kinds_have_the_features_of_the_file(kind, photo, model):
    expected = delf_jax.extract(photo, model, **SETTINGS)
    assert_same(delf_jax.extract(KINDS[kind](photo), model, **SETTINGS), expected)


def test_a_grey_array_is_an_image(photo, model):
    grey = delf_jax.read_image(photo)[..., 0]
    expected = delf_jax.extract(np.stack([grey] * 3, axis=-1), model, **SETTINGS)
    assert_same(delf_jax.extract(grey, model, **SETTINGS), expected)


def test_one_image_gives_one_and_several_give_a_list(photo, model):
    one = delf_jax.extract(str(photo), model, **SETTINGS)
    pixels = delf_jax.read_image(photo)
    for several in ([photo], (path for path in [photo]), {photo}, pixels[None]):
        (found,) = delf_jax.extract(several, model, **SETTINGS)
        assert_same(found, one)
    assert delf_jax.extract([], model) == []


def test_features_know_their_image_and_print_in_a_line(photo, model):
    found = delf_jax.extract([photo, delf_jax.read_image(photo)], model, **SETTINGS)
    assert [each.image for each in found] == [str(photo), "image 2"]
    text = "image 2: 50 local features of 16 dimensions, global descriptor of 32"
    assert repr(found[1]) == text


def test_a_model_may_be_its_folder_and_the_bundled_one_is_kept(photo, tiny_model):
    assert_same(
        delf_jax.extract(photo, str(tiny_model), **SETTINGS),
        delf_jax.extract(photo, delf_jax.load_model(tiny_model), **SETTINGS),
    )
    assert open_model(None) is open_model(None)
    assert open_model(None).name == "delg_tiny"


def test_an_unusable_image_raises_or_is_returned_with_its_name(photo, model):
    images = [photo, "gone.jpg", np.zeros((40, 40), np.int64), photo]
    with pytest.raises(delf_jax.InputError, match="gone.jpg: no such file") as caught:
        delf_jax.extract(images, model)
    assert caught.value.image == "gone.jpg"
    found = delf_jax.extract(images, model, errors="return", **SETTINGS)
    assert_same(found[0], found[3])
    assert [error.image for error in found[1:3]] == ["gone.jpg", "image 3"]
    assert all(isinstance(error, delf_jax.InputError) for error in found[1:3])
    # Taken as an image, so that the error says what an image may be.
    assert as_list(None) == [None]
    with pytest.raises(delf_jax.InputError, match="errors='ignore'"):
        check_errors("ignore")
    with pytest.raises(delf_jax.InputError, match="max_feature: no such setting"):
        delf_jax.extract(images, model, max_feature=3)


def test_match_is_the_comparison_of_two_photos(folder, model):
    paths = [folder / "photos" / name for name in NAMES[:2]]
    for a, b in ((paths[0], paths[0]), paths):
        found = delf_jax.match(a, b, model, **SETTINGS)
        settings = delf_jax.settings_for(model, **SETTINGS)
        expected = matching.compare_photos(a, b, model, settings)
        np.testing.assert_array_equal(found.matches, expected.pair.matches)
        np.testing.assert_array_equal(found.inliers, expected.pair.inliers)
        assert found.similarity == expected.similarity
        assert len(found.lines) == found.inliers.sum()
    found = delf_jax.match(paths[0], paths[0], model, **SETTINGS)
    np.testing.assert_allclose(found.affine, np.eye(2, 3), atol=1e-3)
    count = found.inliers.sum()
    assert (
        repr(found)
        == f"{count} inliers of {len(found.matches)} matches, similarity 1.000"
    )


def test_images_without_a_common_map_have_none(photo, model):
    found = delf_jax.match(photo, photo, model, attention_threshold=1e9)
    assert len(found.matches) == 0 and found.affine is None
    assert found.lines.shape == (0, 4)
    assert found.draw().axes


def test_features_are_matched_as_their_images_are(folder, model):
    paths = [str(folder / "photos" / name) for name in NAMES[:2]]
    a, b = delf_jax.extract(paths, model, **SETTINGS)
    expected = delf_jax.match(*paths, model, **SETTINGS)
    for one, other in ((a, b), (a, paths[1]), (paths[0], b)):
        found = delf_jax.match(one, other, model, **SETTINGS)
        np.testing.assert_array_equal(found.lines, expected.lines)
        assert found.draw().axes


def test_what_cannot_be_matched_is_named(folder, photo, model):
    with pytest.raises(delf_jax.InputError, match="broken.jpg: not an image"):
        delf_jax.match(photo, folder / "photos" / "broken.jpg", model)
    bare = delf_jax.extract(photo, model, max_features=0)
    with open(__file__) as text, pytest.raises(delf_jax.InputError, match="mode 'rb'"):
        delf_jax.match(text, photo, model)
    with pytest.raises(delf_jax.InputError, match="3.png: no local features"):
        delf_jax.match(bare, photo, model)


def test_a_match_and_its_figure_show_in_a_notebook(photo, model, tmp_path):
    formatters = pytest.importorskip("IPython.core.formatters")
    display = formatters.DisplayFormatter()
    pixels = delf_jax.read_image(photo)
    found = delf_jax.match(pixels, io.BytesIO(photo.read_bytes()), model, **SETTINGS)
    pair, (a, b) = found.comparison.pair, found.features
    figure = delf_jax.draw_matches(pixels, pixels, a.local, b.local, pair)
    for shown in (found, found.draw(), figure):
        data, _ = display.format(shown)
        assert Image.open(io.BytesIO(data["image/jpeg"])).size[0] == 840
    found.draw(tmp_path / "matches.svg")
    assert "<svg" in (tmp_path / "matches.svg").read_text()
    with pytest.raises(delf_jax.InputError, match="matches.doc"):
        found.draw(tmp_path / "matches.doc")


def test_a_match_is_confident_beyond_chance(folder, photo, model):
    same = delf_jax.match(photo, photo, model, **SETTINGS)
    assert same.confident
    noise = np.random.default_rng(7).integers(0, 256, (96, 128, 3), np.uint8)
    other = delf_jax.match(photo, noise, model, **SETTINGS)
    assert not other.confident and "no confident match" in repr(other)
    delg = delf_jax.match(photo, photo, model, verification="delg", **SETTINGS)
    assert delg.comparison.by_chance > same.comparison.by_chance
    with pytest.raises(delf_jax.InputError, match="expected one of default, delg"):
        delf_jax.match(photo, photo, model, verification="sift")


def test_files_of_features_are_matched_and_drawn(folder, model, tmp_path):
    paths = [folder / "photos" / name for name in NAMES[:2]]
    features = delf_jax.extract(paths, model, **SETTINGS)
    files = [tmp_path / f"{number}.delf" for number in range(2)]
    for file, each in zip(files, features, strict=True):
        write_delf_features(file, DelfFeatures(*map(np.asarray, each.local)))
    found = delf_jax.match(*files, model, **SETTINGS)
    expected = delf_jax.match(*paths, model, **SETTINGS)
    np.testing.assert_array_equal(found.matches, expected.matches)
    assert found.similarity is None
    assert found.draw().axes and found._repr_jpeg_()


def test_features_alone_show_as_text(photo, model):
    a = delf_jax.extract(delf_jax.read_image(photo), model, **SETTINGS)
    found = delf_jax.match(a, a, model, **SETTINGS)
    assert found._repr_jpeg_() is None and "inliers" in repr(found)


def test_an_index_in_memory_finds_what_one_in_a_folder_finds(folder, model, tmp_path):
    in_memory = build(folder / "photos", model=model)
    on_disk = build(folder / "photos", tmp_path / "index", model)
    opened = delf_jax.open_index(tmp_path / "index", model)
    assert in_memory.ids == on_disk.ids == opened.ids == sorted(NAMES)
    reasons = in_memory.failed, on_disk.failed, opened.failed
    assert [list(each) for each in reasons] == [["broken.jpg"]] * 3
    other = np.random.default_rng(5).integers(0, 256, (96, 128, 3), np.uint8)
    for query in (folder / "photos" / "a/1.jpg", other):
        expected, *others = (
            index.search(query, top=0) for index in (in_memory, on_disk, opened)
        )
        assert len(expected) == len(NAMES)
        for found in others:
            for a, b in zip(found, expected, strict=True):
                assert a[:3] == b[:3]
                np.testing.assert_array_equal(a.lines, b.lines)
    assert repr(opened) == f"{tmp_path / 'index'}: 4 images, 1 failed"


def test_an_index_in_memory_takes_images_of_any_kind(folder, photo, model):
    pixels = delf_jax.read_image(photo)
    index = delf_jax.build_index([], model=model, progress=False, **SETTINGS)
    assert len(index) == 0 and index.search(photo) == []
    with pytest.raises(delf_jax.InputError, match="nowhere: no such file or folder"):
        delf_jax.build_index("nowhere", model=model)
    index.add(photo, progress=False)
    index.add([pixels, io.BytesIO(photo.read_bytes())], progress=False)
    index.add(folder / "photos" / "a", progress=False)
    assert index.ids == ["1.jpg", "2.jpg", "3.png", "image 2", "image 3"]
    found = index.search(pixels, top=3)
    assert {result.image for result in found} == {"3.png", "image 2", "image 3"}
    assert {round(result.similarity, 5) for result in found} == {1}
    index.remove("image 2")
    index.remove(["1.jpg", "3.png"])
    assert index.ids == ["2.jpg", "image 3"] and len(index) == 2
    with pytest.raises(delf_jax.InputError, match="index in memory: no image '1.jpg'"):
        index.remove(["2.jpg", "1.jpg"])
    assert len(index) == 2


def test_files_of_one_name_in_two_folders_are_two_images(tmp_path, model):
    for number, name in enumerate("xy"):
        draw_photo(tmp_path / name / "1.png", number)
    index = delf_jax.build_index(tmp_path / "x", model=model, progress=False)
    index.add(tmp_path / "x" / "1.png", progress=False)
    assert index.ids == ["1.png"]
    index.add([tmp_path / "y" / "1.png"], progress=False)
    assert len(index) == 2 and index.file(index.ids[0]).samefile(
        tmp_path / "y" / "1.png"
    )


def test_an_index_in_a_folder_grows_shrinks_and_remembers(folder, model, tmp_path):
    index = delf_jax.build_index(
        folder / "photos" / "a", tmp_path / "index", model, progress=False, **SETTINGS
    )
    with pytest.warns(UserWarning, match="1 image left out, .*gone.png: no such file"):
        index.add([folder / "photos" / "b", "gone.png"], progress=False)
    assert len(index) == 4 and list(index.failed) == ["gone.png"]
    with pytest.raises(delf_jax.InputError, match="gone.png") as caught:
        index.add("gone.png", errors="raise", progress=False)
    assert caught.value.image == "gone.png"
    index.remove("1.jpg")
    assert delf_jax.open_index(tmp_path / "index", model).ids == index.ids
    assert delf_jax.open_index(tmp_path / "index", model).settings.max_features == 50
    with pytest.raises(delf_jax.InputError, match="takes image files"):
        index.add(np.zeros((96, 128, 3), np.uint8))
    with pytest.raises(delf_jax.InputError, match="was indexed by model tiny"):
        delf_jax.open_index(tmp_path / "index")


def test_an_index_by_two_models_is_opened_without_naming_them(
    folder, photo, tiny_model, global_model, tmp_path
):
    photos, path = folder / "photos", tmp_path / "index"
    pair = delf_jax.load_model(tiny_model, global_model)
    index = build(photos, path, pair)
    in_memory = build(photos, model=pair)
    opened = delf_jax.open_index(path)
    assert (
        opened.ids == index.ids == in_memory.ids and opened.settings.max_features == 50
    )
    expected = list(index.search(photo, top=3))
    assert expected[0].image == "b/c/3.png" and expected[0].inliers > 3
    for other in (opened, in_memory, delf_jax.open_index(path, tiny_model)):
        found = other.search(photo, top=3)
        assert [each[:3] for each in found] == [each[:3] for each in expected]
    (features,) = delf_jax.extract([photo], pair, **SETTINGS)
    assert [each[:3] for each in opened.search(features, 3)] == [
        each[:3] for each in expected
    ]
    assert build(photos, path).search(photo, top=3)[0].image == "b/c/3.png"
    opened.remove("b/c/3.png")
    assert len(delf_jax.open_index(path)) == len(NAMES) - 1
    with pytest.raises(delf_jax.InputError, match="of model global .*, not of tiny"):
        delf_jax.open_index(path, delf_jax.load_model(tiny_model))


def test_an_index_in_a_folder_forgets_what_is_gone_when_told_to(model, tmp_path):
    for number, name in enumerate(("x/1.png", "x/2.png", "y/3.png")):
        draw_photo(tmp_path / name, number)
    index = delf_jax.build_index(
        tmp_path / "x", tmp_path / "index", model, progress=False, **SETTINGS
    )
    (tmp_path / "x/1.png").unlink()
    index.add(tmp_path / "y/3.png", progress=False)
    assert index.ids == ["1.png", "2.png", "3.png"]
    assert index.prune() == ["1.png"] and index.ids == ["2.png", "3.png"]
    assert index.prune() == []
    assert delf_jax.build_index([], model=model, progress=False).prune() == []


def test_an_incomplete_index_prints_so_and_its_results_do(model, tmp_path):
    draw_photo(tmp_path / "x/1.png", 1)
    draw_photo(tmp_path / "y/2.png", 2)
    index = delf_jax.build_index(
        tmp_path / "x", tmp_path / "index", model, progress=False, **SETTINGS
    )
    assert index.search(tmp_path / "x/1.png").notes == []
    index.add(tmp_path / "y/2.png", progress=False)
    announce(tmp_path / "index/store", ["9.png"])
    index = delf_jax.open_index(tmp_path / "index", model)
    said = "incomplete, 1 of 3 images are not extracted yet"
    assert said in repr(index)
    found = index.search(tmp_path / "x/1.png")
    assert said in repr(found) and said in found._repr_html_()
    assert f"from outside of {tmp_path / 'x'}: {tmp_path / 'y/2.png'}" in (
        found._repr_html_()
    )


def test_many_files_of_one_name_have_a_number_each(model, photo):
    data = photo.read_bytes()
    opened = [io.BytesIO(data) for _ in range(3)]
    for each in opened:
        each.name = "upload.png"
    index = delf_jax.build_index(opened, model=model, progress=False, **SETTINGS)
    index.add(opened[0].getvalue(), progress=False)
    again = io.BytesIO(data)
    again.name = "upload.png"
    index.add(again, progress=False)
    names = ["upload.png", *(f"upload.png ({number})" for number in (2, 3, 4))]
    assert index.ids == ["image 4", *names]


def test_a_query_is_of_any_kind_and_may_be_several(folder, photo, model):
    index = build(folder / "photos", model=model)
    (best,) = index.search(photo, top=1)
    assert best.image == "b/c/3.png" and best.similarity == pytest.approx(1, abs=1e-5)
    features = delf_jax.extract(photo, model, **SETTINGS)
    queries = [photo, delf_jax.read_image(photo), features]
    assert [each[0] for each in index.search(queries, top=1)]
    with pytest.raises(delf_jax.InputError, match="gone.jpg: no such file"):
        index.search(["gone.jpg", photo])
    error, found = index.search(["gone.jpg", photo], errors="return")
    assert error.image == "gone.jpg" and found[0].image == best.image


def test_results_print_as_a_table_and_show_as_pictures(tmp_path, model):
    name = "<b>&.png"
    draw_photo(tmp_path / "photos" / name, 0)
    index = delf_jax.build_index(
        [tmp_path / "photos" / name, np.zeros((96, 128, 3), np.uint8)],
        model=model,
        progress=False,
    )
    found = index.search(tmp_path / "photos" / name)
    header, first, second = str(found).splitlines()[1:]
    assert header.split() == ["rank", "image", "similarity", "inliers"]
    assert first.split()[:3] == ["1", name, "1.000"] and second.split()[0] == "2"
    page = found._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "&lt;b&gt;&amp;.png" in page and name not in page
    (tmp_path / "photos" / name).unlink()
    assert found._repr_html_().count("not found") == 2


def test_an_evaluation_prints_as_its_table(drawn, tiny_model, tmp_path):
    found = delf_jax.evaluate(
        drawn / "drawn" / "gnd_drawn.json",
        tmp_path,
        tiny_model,
        pipelines="global",
        progress=False,
    )
    assert "medium" in repr(found) and "global" in repr(found)
    assert found.to_json()["dataset"] == found.evaluation.dataset.name
