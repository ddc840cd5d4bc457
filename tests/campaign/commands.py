"""Every command that writes: what it needs, and how it is called."""

import argparse
import functools
import http.server
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.campaign.material import ROOT, TRAINING

MODEL = "--model={given}/model"
TINY = f"--config={ROOT / 'configs' / 'tiny.py'}"


class Recipe(NamedTuple):
    """A command with its arguments; {given} is the folder of the material."""

    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """recipes that have written to the folder before"""
    slow: bool = False
    """left out where there is less time"""


def _recipe(line: str, *more: str, needs: str = "", slow: bool = False) -> Recipe:
    return Recipe((*line.split(), *more), tuple(needs.split()), slow)


RECIPES = {
    "match": _recipe(
        "match {given}/images/a/0.jpg {given}/images/a/1.jpg --out=match.png "
        "--json=match.json",
        MODEL,
    ),
    "extract": _recipe("extract {given}/images --out=store", MODEL),
    "extract --boxes": _recipe(
        "extract {given}/images --boxes={given}/boxes.csv --out=store_of_boxes", MODEL
    ),
    "extract --detect": _recipe(
        "extract {given}/images --detect={given}/detector --out=store_of_detections",
        "--config.extraction.box_threshold=0.01",
        MODEL,
    ),
    "extract --prune": _recipe(
        "extract {given}/images/a --out=store --prune", MODEL, needs="extract"
    ),
    "extract @LIST": _recipe("extract @{given}/list.txt --out=store", MODEL),
    "extract --part": _recipe(
        "extract {given}/images {given}/more --out=store --part=0/2",
        MODEL,
        needs="extract",
    ),
    **{
        f"detect --format={layout}": _recipe(
            f"detect {{given}}/images --out=detected_{layout} --format={layout} "
            "--threshold=0.01 --json=detected.json --model={given}/detector"
        )
        for layout in ("csv", "boxes", "coco")
    },
    "index": _recipe("index {given}/images --index=index", MODEL),
    "index --add": _recipe(
        "index --index=index --add {given}/more", MODEL, needs="index"
    ),
    "index --detect": _recipe(
        "index {given}/images --index=index_of_boxes --detect={given}/detector",
        "--config.extraction.box_threshold=0.01",
        MODEL,
    ),
    "index --global_model": _recipe(
        "index {given}/images --index=pair --global_model={given}/model", MODEL
    ),
    "index --root": _recipe("index --index=index --root={given}/copy", needs="index"),
    "index --remove": _recipe(
        "index --index=index --remove a/0.jpg b/1.jpg", needs="index"
    ),
    "fit codebook": _recipe(
        "fit codebook store --out=codebook --words=8", needs="extract"
    ),
    "fit pca": _recipe("fit pca store --out=pca --dimension=4", needs="extract"),
    "fit whitening": _recipe(
        "fit whitening store --out=whitening --pairs={given}/pairs.csv --dimension=2",
        needs="extract",
    ),
    "fit pairs": _recipe("fit pairs store --out=pairs.csv", needs="extract"),
    "fit reranker": _recipe(
        "fit reranker store --out=reranker --steps=1", needs="extract"
    ),
    "search": _recipe(
        "search {given}/images/a/0.jpg --index=index --json=found.json "
        "--html=found.html",
        MODEL,
        needs="index",
    ),
    "search of two models": _recipe(
        "search {given}/images/a/0.jpg --index=pair --json=found.json",
        needs="index_--global_model",
    ),
    "search --codebook": _recipe(
        "search {given}/images/a/0.jpg --index=index --codebook=codebook "
        "--json=found.json",
        MODEL,
        needs="extract fit_codebook index",
    ),
    "search --precision": _recipe(
        "search {given}/images/a/0.jpg --index=index --precision=int8 "
        "--json=found.json",
        MODEL,
        needs="index",
    ),
    "rerank": _recipe(
        "rerank {given}/candidates.json --index=index --out=reranked.json",
        needs="index",
    ),
    "rerank --reranker": _recipe(
        "rerank {given}/candidates.json --index=index --out=reranked.json "
        "--with=learned+verification --reranker=reranker",
        needs="extract fit_reranker index",
    ),
    "aggregate": _recipe(
        "aggregate store --codebook=codebook --idf --out=inverted",
        needs="extract fit_codebook",
    ),
    "aggregate --to=vlad": _recipe(
        "aggregate store --codebook=codebook --to=vlad --out=vlad",
        needs="extract fit_codebook",
    ),
    "aggregate --to=asmk": _recipe(
        "aggregate store --codebook=codebook --to=asmk --out=asmk",
        needs="extract fit_codebook",
    ),
    "aggregate --to=asmk_star": _recipe(
        "aggregate store --codebook=codebook --to=asmk_star --out=asmk_star",
        needs="extract fit_codebook",
    ),
    "features --to=delf": _recipe("features store delf --to=delf", needs="extract"),
    "features --to=delg": _recipe("features store delg --to=delg", needs="extract"),
    **{
        f"features --to={layout}": _recipe(
            f"features store {layout} --to={layout} {pairs}", needs="extract"
        )
        for layout, pairs in (
            ("hdf5", "--pairs={given}/pairs.txt"),
            ("colmap", "--pairs={given}/pairs.txt"),
            ("npz", ""),
            ("csv", ""),
        )
    },
    "features --from=delf": _recipe(
        "features delf read_store --from=delf", needs="extract features_--to=delf"
    ),
    "features --from=delg": _recipe(
        "features delg read_store --from=delg", needs="extract features_--to=delg"
    ),
    "evaluate": _recipe(
        "evaluate {given}/drawn/gnd_drawn.json --index=evaluated "
        "--rerank=global,verification --json=scores.json --metrics=metrics.txt "
        "--html=scores.html",
        MODEL,
    ),
    "evaluate --codebook": _recipe(
        "evaluate {given}/drawn/gnd_drawn.pkl --index=evaluated --rerank=asmk "
        "--codebook=codebook --distractors={given}/more --json=scores.json",
        MODEL,
        needs="extract fit_codebook",
    ),
    "prepare": _recipe(
        "prepare --dataset={given}/images --data=prepared --max_side=128"
    ),
    "prepare --to=array_record --part": _recipe(
        "prepare --dataset={given}/images --data=prepared --max_side=128 --part=0/2",
        "--to=array_record",
    ),
    "prepare --to=tfrecord": _recipe(
        "prepare --dataset={given}/images --data=records --to=tfrecord --shards=3"
    ),
    "train": _recipe(
        f"train {TINY} --workdir=run", *TRAINING, needs="prepare", slow=True
    ),
    "plot": _recipe("plot {given}/trained --out=curves.png"),
    "sweep": _recipe(
        "sweep --config={given}/sweep.py --workdir=sweep",
        *TRAINING,
        needs="prepare",
        slow=True,
    ),
    "convert": _recipe("convert {given}/weights/checkpoint --out=converted"),
    "export --format=stablehlo": _recipe(
        "export {given}/model --format=stablehlo --scales=1 --out=exported"
    ),
    "export --format=hub-folder": _recipe(
        "export {given}/model --format=hub-folder --out=hub"
    ),
    "gldv2 retrieve": _recipe(
        "gldv2 retrieve {given}/gldv2 --features=features --out=found.csv "
        "--solution={given}/gldv2/retrieval_solution_v2.1.csv",
        MODEL,
        slow=True,
    ),
    "gldv2 recognize": _recipe(
        "gldv2 recognize {given}/gldv2 --features=features --out=landmarks.csv",
        MODEL,
        slow=True,
    ),
    "gldv2 score": _recipe(
        "gldv2 score retrieval found.csv --json=score.json "
        "--solution={given}/gldv2/retrieval_solution_v2.1.csv",
        needs="gldv2_retrieve",
        slow=True,
    ),
    "download": _recipe("download campaign --yes --unpack --out=data"),
    "reproduce": _recipe(
        f"reproduce --config={ROOT}/configs/drawn.py --data={{given}} --out=reproduced",
        "--config.experiment.codebook.words=8",
        MODEL,
        slow=True,
    ),
    "demo": _recipe("demo --out=demo", MODEL, slow=True),
}
# Commands and kinds that write nothing by themselves, and what needs packages that are
# not here. `serve` does not end; tests/serve kills and restarts it. `calibrate` writes
# to the model alone, which all others are given; its index is that of `evaluate`.
WRITE_NOTHING = {"inspect", "serve", "calibrate"}
NOT_INSTALLED = {"export --format=savedmodel", "export --format=onnx"}
# Options whose values are other kinds of results.
KINDS = ("--to", "--from", "--format")
# Options that name what is written.
OUTPUTS = ("--out", "--json", "--html", "--metrics", "--index", "--workdir", "--data")


def find(name: str) -> Recipe:
    """The recipe of a name, in which blanks may be underscores."""
    return next(r for n, r in RECIPES.items() if n.replace(" ", "_") == name)


def written_by_the_program() -> Iterator[str]:
    """Every command, kind and form of result that --help knows."""
    from delf_jax import cli

    for name, parser in _subparsers(cli._parser()):
        kinds = list(_subparsers(parser)) or [("", parser)]
        for kind, own in kinds:
            whole = f"{name} {kind}".strip()
            forms = [
                f"{whole} {option}={choice}"
                for action in own._actions
                for option in action.option_strings[:1]  # The others are its aliases.
                if option in KINDS and action.choices
                for choice in action.choices
            ]
            yield from forms or [whole]


def outputs_of_the_program() -> Iterator[tuple[str, str]]:
    """(command, option) of every option that names what is written."""
    from delf_jax import cli

    writing = ((n, p) for n, p in _subparsers(cli._parser()) if n not in WRITE_NOTHING)
    for name, parser in writing:
        for _, own in list(_subparsers(parser)) or [("", parser)]:
            for action in own._actions:
                names = {*action.option_strings} & {*OUTPUTS}
                for option in names if action.metavar != "NAMES" else ():
                    yield name, option


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Any]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def offer_downloads(folder: pathlib.Path) -> None:
    """Serves the files of a folder, in a thread, as the dataset `campaign`."""
    from delf_jax.data import download, download_catalogue

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    files = tuple(
        download_catalogue.Files(
            f"{root}/{path.name}",
            path.name,
            unpack="unpacked" if ".tar" in path.name else "",
        )
        for path in sorted(folder.iterdir())
    )
    offered = download_catalogue.Download("drawn", "here", files)
    download_catalogue.DOWNLOADS["campaign"] = offered
    download._PAUSE = 0.0
