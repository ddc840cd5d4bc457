import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

from delf_jax import cli
from delf_jax.conversion import weight_files
from delf_jax.files import InputError
from delf_jax.formats.delf import boxes, datum
from delf_jax.formats.delf.features import DelfFeatures, write_delf_features
from delf_jax.index import codebook
from delf_jax.inspection import describe, model_files
from tests import test_bad_input
from tests.helpers.inverted_files import IDS, build, draw_words, fill_store
from tests.helpers.tensorflow_files import frozen_graph
from tests.inspection import test_model_files

training = test_model_files.training
NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def totals(text):
    """{module: numbers} of the table of modules, which ends the summary."""
    rows = [re.split(r"\s*\|\s*", line) for line in text.split("\n\n")[-1].splitlines()]
    return {r[1]: [int(n.replace(",", "")) for n in r[2:5]] for r in rows[3:-1]}


def test_a_model_has_architecture_settings_origin_and_parameters(tiny_model):
    text = describe.format_contents(tiny_model)
    assert text.startswith(f"{tiny_model}: model folder\n")
    for line in (
        "architecture:\n  name: delg",
        "  depth: 18",
        "  layout: v1.5",
        "extraction:\n  image_scales: [0.5, 1.0]",
        "  max_features: 200",
        "provenance:\n  note: random",
    ):
        assert f"\n{line}\n" in text
    assert "conv1/kernel" not in text
    stored = safetensors.numpy.load_file(tiny_model / "model.safetensors")
    size = sum(tensor.size for tensor in stored.values())
    size_in_bytes = sum(tensor.nbytes for tensor in stored.values())
    *modules, total = totals(text).values()
    assert total == [len(stored), size, size_in_bytes]
    assert np.sum(modules, axis=0).tolist() == total


def test_everything_lists_the_tensors_below_the_summary(tiny_model):
    text = describe.format_contents(tiny_model, everything=True)
    summary, blank, tables = text.partition("\n\nbackbone/block1_unit1\n+--")
    assert blank and summary == describe.format_contents(tiny_model)
    assert "| conv1/kernel | (3, 3, 8, 8) | float16 | 576  |" in tables
    assert "\n\nbackbone/block1_unit2\n+--" in tables


def test_300_parameters_are_grouped_by_module(tmp_path):
    path = tmp_path / "resnet101.safetensors"
    names = [f"layer{i}.{j}.conv{k}.weight" for i in (1, 2, 3) for j in range(10)
             for k in range(10)]  # fmt: skip
    safetensors.numpy.save_file(dict.fromkeys(names, NUMBERS), path)
    found = totals(describe.format_contents(path))
    assert len(found) == 31
    assert found["layer3.9"] == [10, 60, 240]
    assert found["total"] == [300, 1800, 7200]
    text = describe.format_contents(path, everything=True)
    assert "\nlayer1.0\n" in text and "| conv0.weight | (2, 3) | float32 | 6 " in text
    assert max(map(len, text.splitlines()[1:])) <= 88
    assert len(text.splitlines()) < 600


def test_large_modules_are_split(tmp_path):
    path = tmp_path / "slim.safetensors"
    names = [f"net/block3/unit_{i}/conv{k}" for i in range(23) for k in range(5)]
    safetensors.numpy.save_file(dict.fromkeys([*names, "step"], NUMBERS), path)
    found = totals(describe.format_contents(path))
    assert len(found) == 25
    assert found["net/block3/unit_22"] == [5, 30, 120]
    assert found["(top)"] == [1, 6, 24]


def test_a_training_has_its_step_and_averaged_parameters(training, monkeypatch):
    tensors = {
        "step": np.array(7, np.int32),
        "params/model/conv1/kernel": NUMBERS,
        "ema/params/conv1/kernel": NUMBERS,
        "ema/batch_stats/conv1/mean": NUMBERS[0],
    }
    source = weight_files.WeightFile("training", training, tensors, {})
    monkeypatch.setattr(model_files, "read", lambda path: source)
    text = describe.format_contents(training)
    assert f"{training}: training state\nstep: 7\n" in text
    assert totals(text) == {"conv1": [2, 9, 36], "total": [2, 9, 36]}


def test_a_training_of_ours_is_read(training):
    assert "checkpoints: training state\nstep: 2\n" in describe.format_contents(
        training
    )


@pytest.mark.golden
def test_a_codebook_has_its_number_of_words(golden):
    for name in ("codebook", "tf1_model.ckpt-33"):
        text = describe.format_contents(golden / "tfbundle" / name)
        assert "\na codebook of 12 visual words of 5 dimensions\n" in text
        assert "TensorFlow checkpoint\n" in text


@pytest.mark.golden
def test_a_saved_model_has_its_signatures(golden):
    text = describe.format_contents(golden / "tfbundle" / "saved_model")
    assert re.search(r"saved_model: SavedModel\ngraph: \d+ nodes\n", text)
    assert "\nsignature serving_default:\n  inputs: " in text
    assert totals(text)["total"] == [25, 20785, 83140]


def test_a_frozen_graph_is_counted(tmp_path):
    path = tmp_path / "frozen.pb"
    path.write_bytes(frozen_graph(np.ones((2, 3), np.float32)))
    text = describe.format_contents(path)
    assert f"{path}: frozen TensorFlow graph\ngraph: 2 nodes\n" in text
    assert totals(text) == {"net/conv1": [1, 6, 24], "total": [1, 6, 24]}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, tiny_model):
    """An index of three photos and one that failed."""
    folder = tmp_path_factory.mktemp("indexed")
    for seed in range(3):
        test_bad_input.write_photo(folder / "photos" / f"{seed}.jpg", seed)
    (folder / "photos" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    arguments = [str(folder / "photos"), f"--index={folder / 'index'}"]
    assert cli.main(["index", *arguments, f"--model={tiny_model}"]) == 0
    return folder / "index"


def test_a_store_has_model_settings_images_failures_and_bytes(indexed):
    text = describe.format_contents(indexed / "store")
    assert text.startswith(f"{indexed / 'store'}: feature store\n")
    size = sum(f.stat().st_size for f in (indexed / "store").rglob("*") if f.is_file())
    assert f"\nimages: 3, failed: 1, bytes: {size:,}\n" in text
    assert "\nmodel:\n  name: tiny\n" in text
    assert "\nsettings:\n  image_scales: [0.5, 1.0]\n" in text
    assert re.search(r"\nlocal features: \d+, 16 dimensions\n", text)
    assert "\nglobal descriptors: 32 dimensions\n" in text
    assert "\nfailed: bad.jpg: " in text


def test_an_inverted_file_has_its_size_and_settings(tmp_path):
    images = fill_store(tmp_path / "store", IDS)
    build(images, draw_words(tmp_path / "codebook"), tmp_path / "out")
    text = describe.format_contents(tmp_path / "out")
    assert text.startswith(f"{tmp_path / 'out'}: inverted file of ASMK*\nimages: 12, ")
    assert "codebook: 30 visual words of 12 dimensions, 1 for each" in text
    assert "alpha: 3.0" in text and "name: drawn" in text


def test_a_codebook_of_ours_has_its_words_and_its_model(tmp_path):
    provenance = {"model": {"name": "tiny", "fingerprint": "f"}, "seed": 3}
    codebook.save_codebook(tmp_path, np.zeros((5, 2), np.float32), provenance)
    text = describe.format_contents(tmp_path)
    assert text.startswith(f"{tmp_path}: codebook\na codebook of 5 visual words of 2 d")
    assert "\nmodel:\n  name: tiny\n" in text and "\nseed: 3" in text


def test_an_index_has_the_place_of_its_photos_and_its_store(indexed):
    text = describe.format_contents(indexed)
    assert text.startswith(f"{indexed}: index of 3 photos\nphotos in: ")
    assert str(indexed.parent / "photos") in text
    assert describe.format_contents(indexed / "store") in text


def test_files_of_the_original_are_formatted(tmp_path):
    datum.write_datum(tmp_path / "a.datum", NUMBERS)
    text = describe.format_contents(tmp_path / "a.datum")
    assert text == f"{tmp_path}/a.datum: array of [2, 3] float32, 0 to 5"
    words = np.array([4, 700], np.uint32)
    datum.write_datum_pair(tmp_path / "a.asmk", NUMBERS, words)
    text = describe.format_contents(tmp_path / "a.asmk")
    assert "descriptors: [2, 3] float32" in text
    assert "visual words: [2] uint32, 4 to 700" in text
    features = DelfFeatures(NUMBERS[:, :2], NUMBERS[:, 0], NUMBERS, NUMBERS[:, 1])
    for name in ("a.delf", "a.delg_local"):
        write_delf_features(tmp_path / name, features)
        text = describe.format_contents(tmp_path / name)
        assert f"{name}: 2 local features\nlocations: [2, 2] float32, 0 to 4" in text
        assert "attention: [2] float32, 1 to 4" in text
    boxes.write_boxes(tmp_path / "a.boxes", NUMBERS[:, [0, 0, 1, 1]], *NUMBERS.T[:2])
    text = describe.format_contents(tmp_path / "a.boxes")
    assert "a.boxes: 2 boxes\n" in text and "class_indices: [2] int32, 1 to 4" in text


@pytest.mark.golden
def test_every_golden_file_is_formatted_or_refused_in_one_sentence(golden):
    for path in sorted((golden / "formats").iterdir()):
        if path.name.startswith("bad_") or path.suffix in (".json", ".npz"):
            with pytest.raises(InputError, match=re.escape(str(path))):
                describe.format_contents(path)
        else:
            assert describe.format_contents(path).startswith(f"{path}: ")


def test_configs_are_formatted_by_their_kind(tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text("max_image_size: 512")
    assert describe.format_contents(path) == f"{path}: DelfConfig\nmax_image_size: 512"
    path.write_text("codebook_size: 7")
    assert (
        describe.format_contents(path) == f"{path}: AggregationConfig\ncodebook_size: 7"
    )
    path.write_text("")
    assert describe.format_contents(path).endswith("all fields have their defaults")
    path.write_text("max_size: 512")
    with pytest.raises(InputError, match="max_size"):
        describe.format_contents(path)


def test_the_command_prints_it_and_refuses_in_one_sentence(
    tiny_model, tmp_path, capsys
):
    assert cli.main(["inspect", str(tiny_model)]) == 0
    assert capsys.readouterr().out == describe.format_contents(tiny_model) + "\n"
    assert cli.main(["inspect", str(tiny_model), "--all"]) == 0
    everything = describe.format_contents(tiny_model, everything=True)
    assert capsys.readouterr().out == everything + "\n"
    cut = tmp_path / "cut"
    shutil.copytree(tiny_model, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "cut.delf").write_bytes(b"\x0a\xff")
    cases = {
        tmp_path / "none": "no such file",
        tmp_path / "text.pth": "of no kind that is known",
        tmp_path / "cut.delf": "damaged",
        cut: "model.safetensors: not the file",
        tmp_path: "a folder of no kind",
    }
    for path, words in cases.items():
        line = test_bad_input.refuse(capsys, "inspect", path)
        assert str(path) in line and words in line
