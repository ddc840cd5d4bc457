"""The arrows of the house: who may import whom, and what the pure core may not do."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CORE = ("models", "losses", "retrieval")

# The house: a wing may import those to its right, its own modules and the ground; the
# core only its own folder, ops and features.
ARROWS = {
    "cli": "commands",
    "commands": "every wing",
    "demo": "search index store extraction synthetic report retrieval",
    "serve": "search index extraction report",
    "inspection": "training conversion index store extraction formats",
    "training": "evaluation detection data extraction report synthetic formats losses "
    "models retrieval",
    "gldv2": "evaluation search index store extraction formats retrieval",
    "evaluation": "search index store extraction report formats retrieval",
    "search": "index store extraction report formats models retrieval",
    "index": "store cluster extraction formats retrieval",
    "detection": "store cluster extraction report formats models",
    "store": "cluster extraction formats",
    "export": "extraction models",
    "conversion": "extraction formats models",
    "data": "cluster extraction formats losses models",
    "cluster": "",
    "extraction": "formats models",
    "report": "retrieval",
    "formats": "",
    "synthetic": "",
    "models": "",
    "losses": "",
    "retrieval": "",
}
# What every wing stands on: it imports nothing of the house but itself.
GROUND = (
    *("ops", "features", "files", "manifests", "names", "images", "image_files"),
    *("jpeg", "progress", "runtime", "config", "extras"),
)
CORE_GROUND = ("ops", "features")
MOST_MODULES = 15  # in a folder.

# What the core may import of others. Nothing here touches files, devices, the clock,
# or random state that the caller did not hand in.
PURE = {
    *("collections", "dataclasses", "enum", "functools", "itertools", "math"),
    *("numbers", "operator", "types", "typing", "zlib"),
    *("jax", "flax", "optax", "numpy", "scipy", "jaxtyping"),
}
# What is there for TensorFlow alone, and imported only when it is asked for.
TENSORFLOW = (
    "delf_jax.detection.saved_model",
    "delf_jax.export.savedmodel",
    "delf_jax.export.tf_extraction",
)
FORBIDDEN_CALLS = {
    *("open", "print", "input", "exec", "eval", "breakpoint"),
    *("np.load", "np.save", "np.savez", "np.loadtxt", "np.savetxt", "np.fromfile"),
    *("jax.pmap", "jax.device_put", "jax.config.update", "jax.debug.print"),
}
# Generators that the caller seeds are fine; numpy's hidden global one is not.
PURE_RANDOM = ("np.random.Generator", "np.random.default_rng")


def _modules() -> dict[str, pathlib.Path]:
    files = [*(ROOT / "delf_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
    names = (".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files)
    return {
        name.removesuffix(".__init__"): file
        for name, file in zip(names, files, strict=True)
    }


MODULES = _modules()


def _imports(tree: ast.AST, module: str) -> Iterator[str]:
    """The absolute names that a module imports, functions' own imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _room(name: str) -> str:
    """The wing, or module of the ground, that a name of the house lies in."""
    return name.split(".")[1] if "." in name else ""


def _is_pure(module: str) -> bool:
    return _room(module) in (*CORE, *CORE_GROUND)


def _allowed(name: str, module: str) -> bool:
    """Whether the house lets `module` import `name`."""
    top, room = name.split(".")[0], _room(module)
    if module.startswith("configs."):
        return top == "ml_collections" or name.startswith("configs")
    if top != "delf_jax":
        outside = {"configs", "tests", "benchmarks", "main", *CORE}
        if module not in TENSORFLOW:
            outside.add("tensorflow")
        return top in PURE if _is_pure(module) else top not in outside
    if name == "delf_jax.__version__" or room in ("", "__main__"):
        return True
    target = _room(name)
    if target == room:
        return True
    if room in GROUND:
        return target in (CORE_GROUND if room in CORE_GROUND else GROUND)
    if target in (CORE_GROUND if room in CORE else GROUND):
        return True
    allowed = ARROWS[room].split()
    return target in allowed or (room == "commands" and target != "cli")


def _forbidden(tree: ast.AST) -> Iterator[str]:
    """Names that a pure module mentions and must not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            yield ast.unparse(node.func)
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node).replace("numpy.", "np.")
            if name.startswith("np.random.") and not name.startswith(PURE_RANDOM):
                yield name
        if isinstance(node, ast.Global):
            yield "global"


def broken_arrows(source: str, module: str) -> list[str]:
    """The imports and calls of `module` that the house does not allow."""
    tree = ast.parse(source)
    broken = [name for name in _imports(tree, module) if not _allowed(name, module)]
    return broken + (list(_forbidden(tree)) if _is_pure(module) else [])


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The circles among modules, each as the path that closes it."""
    found, done = [], set()

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(imports.get(module, ())):
                follow(target, [*path, module])
            done.add(module)

    for module in sorted(imports):
        follow(module, [])
    return found


def _imports_of_the_house() -> dict[str, set[str]]:
    imports = {}
    for module, file in MODULES.items():
        names = _imports(ast.parse(file.read_text("utf-8")), module)
        # `from package import name` means the module of that name, if there is one.
        targets = {n if n in MODULES else n.rpartition(".")[0] for n in names}
        imports[module] = targets & MODULES.keys()
    return imports


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_arrows(module):
    assert broken_arrows(MODULES[module].read_text("utf-8"), module) == []


def test_no_imports_go_in_a_circle():
    assert circles(_imports_of_the_house()) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


def test_every_room_is_in_the_picture():
    rooms = {_room(m) for m in MODULES if m.startswith("delf_jax.")}
    assert rooms - {"__main__"} == {*ARROWS, *GROUND}
    known = {*ARROWS, "every", "wing"}
    assert {w for wings in ARROWS.values() for w in wings.split()} <= known


def test_no_folder_is_a_hall():
    folders: dict[pathlib.Path, int] = {}
    for file in MODULES.values():
        if file.name != "__init__.py" and not file.stem.endswith("_pb2"):
            folders[file.parent] = folders.get(file.parent, 0) + 1
    del folders[ROOT / "configs"]  # data, one file for each experiment.
    assert {str(f): n for f, n in folders.items() if n > MOST_MODULES} == {}


@pytest.mark.parametrize("wing", sorted({*ARROWS} - {"cli", "demo"}))
def test_the_face_of_a_wing_is_a_page_and_imports_nothing(wing):
    tree = ast.parse(MODULES[f"delf_jax.{wing}"].read_text("utf-8"))
    (docstring,) = tree.body
    lines = ast.get_docstring(tree).splitlines()
    assert isinstance(docstring, ast.Expr) and 5 <= len(lines) <= 14


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("delf_jax.models.resnet", "from delf_jax.losses import classification"),
        ("delf_jax.models.resnet", "from ..losses import classification"),
        ("delf_jax.models.resnet", "from delf_jax import files"),
        ("delf_jax.losses.classification", "import delf_jax.models.pooling"),
        ("delf_jax.retrieval.ranking", "from ml_collections import ConfigDict"),
        ("delf_jax.retrieval.ranking", "def f():\n    import logging"),
        ("delf_jax.retrieval.ranking", "import pathlib"),
        ("delf_jax.retrieval.ranking", "print('ranked')"),
        ("delf_jax.retrieval.ranking", "text = open('x').read()"),
        ("delf_jax.retrieval.verification", "i = np.random.permutation(5)"),
        ("delf_jax.retrieval.verification", "i = numpy.random.rand()"),
        ("delf_jax.models.delg", "step = jax.pmap(f)"),
        ("delf_jax.ops", "from delf_jax import files"),
        ("delf_jax.features", "from delf_jax import images"),
        ("delf_jax.images", "from delf_jax.extraction import extract"),
        ("delf_jax.search.query", "import tensorflow as tf"),
        ("delf_jax.search.query", "from models import delg"),
        ("delf_jax.search.query", "from delf_jax.evaluation import datasets"),
        ("delf_jax.data.loader", "def f():\n    from delf_jax.training import train"),
        ("delf_jax.conversion.convert", "from delf_jax.training import checkpoints"),
        ("delf_jax.index.codebook", "from delf_jax.commands import options"),
        ("delf_jax.training.train", "from configs import common"),
        ("configs.delg_tiny", "import jax"),
    ],
)
def test_a_broken_arrow_is_found(module, source):
    assert broken_arrows(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("delf_jax.models.delg", "from delf_jax import ops\nfrom . import resnet"),
        ("delf_jax.retrieval.verification", "np.random.default_rng(s).random()"),
        ("delf_jax.search.query", "from delf_jax.retrieval import ranking"),
        ("delf_jax.search.query", "from delf_jax.features import Features"),
        ("delf_jax.search.query", "from delf_jax.index import photo_index"),
        ("configs.delg_tiny", "from ml_collections import config_dict"),
    ],
)
def test_a_sound_arrow_is_not(module, source):
    assert broken_arrows(source, module) == []


# Who may divide work: training its step; search the rows of an index.
PARALLEL = {
    "jax.pmap": ("delf_jax.training.parallel",),
    "jax.shard_map": ("delf_jax.training.parallel",),
    "jax.sharding.Mesh": (
        "delf_jax.training.parallel",
        "delf_jax.index.device_chunks",
    ),
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_work_is_divided_in_two_rooms_alone(module):
    forbidden = {name for name, allowed in PARALLEL.items() if module not in allowed}
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    assert not forbidden.intersection(map(ast.unparse, nodes))


def test_the_links_at_the_root_show_the_core():
    for name in CORE:
        link = ROOT / name
        # A checkout without symbolic links holds a file with the target's path.
        target = link.readlink() if link.is_symlink() else link.read_text().strip()
        assert str(target) == f"delf_jax/{name}"
