"""Where commands print: results to standard output, with --quiet nothing else."""

import html
import json
import os
import re

import pytest

from delf_jax import cli, files
from delf_jax.formats.datasets import gldv2

# In this order: each finds what those before it have written.
QUIET = {
    "extract {photos} --out=store": "store: 4 extracted, 0 unchanged\n",
    "index {photos} --index=index": "index: 4 extracted, 0 unchanged\n",
    "index --index=index --remove 3.png": "index: 1 removed, 3 left\n",
    "match {photos}/0.png {photos}/0.png --json=m.json": r"\d+ inliers of .*\n",
    "search {photos}/0.png --index=index --top=2 --html=s.html --json=s.json": (
        r"\n.*0.png\n +inliers +similarity +image\n +1 .* 0.png\n +2 .*\n"
    ),
    "rerank lists.json --index=store --out=r.json": "r.json: 1 query reranked\n",
    "features store files --to=delf": "files: 4 written, 0 unchanged\n",
    "fit codebook store --out=words --words=4 --iterations=1": (
        r"words: 4 words of 16 dimensions, from \d+ descriptors of 4 images in 1 "
        r"iteration\n"
    ),
    "fit pca store --out=pca --dimension=1": (
        r"pca: 1 component, .* of the variance\nto extract with it:\n(  --config.*\n)+"
    ),
    "aggregate store --codebook=words --out=asmk": (
        "asmk: 4 aggregated, 0 unchanged\n"
    ),
    "inspect index": r"index: index of 3 photos\n(.*\n)*",
    "evaluate folders --index=scored --rerank=global --html=e.html": (
        r"folders: 4 queries, 4 photos, (.*\n)+"
    ),
    "prepare --dataset=folders --data=data": "data: 4 of 4 images ready\n",
    "download": r"(\w+ +.*\n)+",
}
WITHOUT_MODEL = ("features", "fit", "aggregate", "inspect", "prepare", "download")


@pytest.fixture
def here(photos, tmp_path, monkeypatch):
    """The current folder, with a dataset of two landmarks and a list to rerank."""
    for number in range(4):
        folder = tmp_path / "folders" / "ab"[number // 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes((photos / f"{number}.png").read_bytes())
    (tmp_path / "lists.json").write_text('{"0.png": ["1.png", "2.png"]}')
    monkeypatch.chdir(tmp_path)


def test_quiet_commands_print_their_results_alone(here, photos, tiny_model, capfd):
    for command, expected in QUIET.items():
        words = command.format(photos=photos).split()
        if words[0] not in WITHOUT_MODEL:
            words.append(f"--model={tiny_model}")
        assert cli.main([*words, "--quiet"]) == 0
        out, err = capfd.readouterr()
        assert err == "", command
        assert re.fullmatch(expected, out), (command, out)


def test_a_quiet_command_prints_errors(here, photos, tiny_model, tmp_path, capsys):
    (tmp_path / "folders" / "a" / "broken.jpg").write_bytes(b"not an image")
    words = ["extract", "folders", "--out=store", f"--model={tiny_model}", "-q"]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out == "store: 4 extracted, 0 unchanged, 1 failed\n"
    assert err.startswith("failed: ") and err.count("\n") == 1
    assert cli.main(["-q", "extract", "nothing", "--out=store"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("nothing: no such file or folder\n")


@pytest.mark.parametrize(
    ("option", "start"),
    [
        ("--json=/dev/stdout", "{"),
        ("--html=-", "<!doctype html>"),
        ("--html=/dev/stdout", "<!doctype html>"),
    ],
)
def test_any_file_goes_to_standard_output(
    here, photos, tiny_model, capfd, option, start
):
    model = f"--model={tiny_model}"
    words = ["evaluate", "folders", "--index=scored", "--rerank=global", model]
    assert cli.main([*words, option]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(start) and "mAP" in err
    assert "JSON:" not in err and "page:" not in err


def test_figures_and_rankings_go_to_standard_output(
    here, photos, tiny_model, capfdbinary
):
    pair = [str(photos / name) for name in ("0.png", "1.png")]
    for path in ("-", "/dev/stdout"):
        assert cli.main(["match", *pair, f"--out={path}", f"--model={tiny_model}"]) == 0
        out, err = capfdbinary.readouterr()
        assert out.startswith(b"\x89PNG") and b"inliers of" in err
    assert (
        cli.main(["extract", str(photos), "--out=store", f"--model={tiny_model}"]) == 0
    )
    capfdbinary.readouterr()
    assert cli.main(["rerank", "lists.json", "--index=store", "--out=-"]) == 0
    out, err = capfdbinary.readouterr()
    assert [*json.loads(out)] == ["0.png"] and b"1 query reranked" in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("search q --index=i --json=- --html=-", "--json and --html: only one can be"),
        ("extract q --out=-", "--out=-: name a folder"),
        (
            "gldv2 retrieve q --features=f --out=- --solution=s",
            "--solution: scores a file; name one with --out",
        ),
    ],
)
def test_what_standard_output_cannot_take_is_named_at_once(capsys, command, words):
    assert cli.main(command.split()) == 2
    assert words in capsys.readouterr().err


def test_names_of_any_bytes_go_through_all_commands(
    photos, tiny_model, tmp_path, capfd
):
    """They are not UTF-8, have line feeds and what steers a terminal."""
    names = [b"caf\xe9.png", b"a\n\x1b]0;b.png", b"<b>\r.png", "grün.png".encode()]
    shown = [r"caf\xe9.png", r"a\n\x1b]0;b.png", r"<b>\r.png", "grün.png"]
    folder = tmp_path / os.fsdecode(b"K\xf6ln")
    for number, name in enumerate(names):
        path = folder / ("ab"[number // 2]) / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((photos / f"{number}.png").read_bytes())
    (folder / "b" / os.fsdecode(b"broken\x1b\xff.png")).write_bytes(b"")
    model, out = f"--model={tiny_model}", tmp_path / "out"
    for command in (
        ["index", folder, f"--index={out}/index", model],
        ["search", folder / "a", folder / "b", f"--index={out}/index", model]
        + [f"--json={out}/s.json", f"--html={out}/s.html"],
        ["prepare", f"--dataset={folder}", f"--data={out}/data"],
        ["features", f"{out}/index/store", f"{out}/delf", "--to=delf"],
        ["features", f"{out}/delf", f"{out}/again", "--from=delf"],
        ["inspect", f"{out}/index"],
        ["index", f"--index={out}/index", "--remove", os.fsdecode(b"a/" + names[0])],
    ):
        assert cli.main([str(word) for word in command]) == 0
    printed = "".join(capfd.readouterr())
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", printed)
    assert r"broken\x1b\xff.png" in printed
    found = files.read_json(out / "s.json")
    ids = [
        os.fsencode(result["image"])[2:] for result in found["queries"][0]["results"]
    ]
    assert {*ids} == {*names}
    page = (out / "s.html").read_text(encoding="utf-8")
    for name in shown:
        assert name in printed
        assert html.escape(name).replace(r"\n", "\n") in page


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("match {photos}/0.png {photos}/1.png --model={model}", "inliers of"),
        ("search {photos} --index=index --model={model}", "similarity  image"),
        ("evaluate folders --index=scored --model={model}", "gain: on the first"),
        ("gldv2 score recognition p.csv --solution=s.csv", "GAP"),
    ],
)
def test_json_goes_to_standard_output_alone(
    here, photos, tiny_model, capfd, command, result
):
    truth = gldv2.Solution({"0" * 16: [1], "1" * 16: [2]}, {"2" * 16: [1]}, [])
    gldv2.write_solution("s.csv", truth, "recognition")
    rows = "".join(f"{name * 16},1 0.5\n" for name in "012")
    with open("p.csv", "w") as file:
        file.write(f"id,landmarks\n{rows}")
    model = f"--model={tiny_model}"
    assert cli.main(["index", str(photos), "--index=index", model]) == 0
    words = command.format(photos=photos, model=tiny_model).split()
    assert cli.main([*words, "--json=found.json"]) == 0
    out, _ = capfd.readouterr()
    assert result in out and "JSON: found.json" in out
    with open("found.json") as file:
        found = file.read()
    assert cli.main([*words, "--json=-"]) == 0
    out, err = capfd.readouterr()
    assert (out, json.loads(out)) == (found, json.loads(found))
    assert result in err and "JSON" not in err
    assert cli.main([*words, "--json", "-", "-q"]) == 0
    assert capfd.readouterr() == (found, "")
