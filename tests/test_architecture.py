"""The arrows of the house: who may import whom, and what the pure core may not do."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CORE = ("models", "losses", "retrieval")

# What the core may import besides delf_jax.ops and its own folder. Nothing here touches
# files, devices, the clock, or random state that the caller did not hand in.
PURE = {
    *("collections", "dataclasses", "enum", "functools", "itertools", "math"),
    *("operator", "types", "typing", "zlib"),
    *("jax", "flax", "optax", "numpy", "scipy", "jaxtyping"),
}
# What is there for TensorFlow alone, and imported only when it is asked for.
TENSORFLOW = ("delf_jax.export_tensorflow", "delf_jax.tensorflow_extraction")
FORBIDDEN_CALLS = {
    *("open", "print", "input", "exec", "eval", "breakpoint"),
    *("np.load", "np.save", "np.savez", "np.loadtxt", "np.savetxt", "np.fromfile"),
    *("jax.pmap", "jax.device_put", "jax.config.update", "jax.debug.print"),
}
# Generators that the caller seeds are fine; numpy's hidden global one is not.
PURE_RANDOM = ("np.random.Generator", "np.random.default_rng")


def _imports(tree: ast.AST, module: str) -> Iterator[str]:
    """The absolute names that a module imports, functions' own imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _is_under(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def _allowed(name: str, module: str) -> bool:
    """Whether the house lets `module` import `name`."""
    top, folder = name.split(".")[0], module.split(".")[1:2]
    if module.startswith("configs."):
        return _is_under(name, ("ml_collections", "configs"))
    if top != "delf_jax":
        outside = {"configs", "tests", "benchmarks", "main", *CORE}
        if module not in TENSORFLOW:
            outside.add("tensorflow")
        pure = module == "delf_jax.ops" or folder[0] in CORE
        return top in PURE if pure else top not in outside
    if module == "delf_jax.ops":
        return False
    if folder[0] in CORE:
        return _is_under(name, ("delf_jax.ops", f"delf_jax.{folder[0]}"))
    return True


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
    if module == "delf_jax.ops" or module.split(".")[1] in CORE:
        broken += _forbidden(tree)
    return broken


def _modules() -> dict[str, pathlib.Path]:
    files = [*(ROOT / "delf_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}


@pytest.mark.parametrize("module", sorted(_modules()))
def test_imports_point_downwards(module):
    assert broken_arrows(_modules()[module].read_text("utf-8"), module) == []


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
        ("delf_jax.search", "import tensorflow as tf"),
        ("delf_jax.search", "from models import delg"),
        ("delf_jax.train", "from configs import common"),
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
        ("delf_jax.search", "from delf_jax.retrieval import ranking, verification"),
        ("configs.delg_tiny", "from ml_collections import config_dict"),
    ],
)
def test_a_sound_arrow_is_not(module, source):
    assert broken_arrows(source, module) == []


# Who may divide work: training wraps its step; search divides the rows of an index.
PARALLEL = {
    "jax.pmap": ("delf_jax.train",),
    "jax.shard_map": ("delf_jax.train",),
    "jax.sharding.Mesh": ("delf_jax.train", "delf_jax.pieces"),
}


@pytest.mark.parametrize("module", sorted(_modules()))
def test_parallelism_lives_in_training_and_in_pieces_of_an_index(module):
    forbidden = {name for name, allowed in PARALLEL.items() if module not in allowed}
    tree = ast.parse(_modules()[module].read_text("utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    assert not forbidden.intersection(map(ast.unparse, nodes))


def test_the_links_at_the_root_show_the_core():
    for name in CORE:
        link = ROOT / name
        # A checkout without symbolic links holds a file with the target's path.
        target = link.readlink() if link.is_symlink() else link.read_text().strip()
        assert str(target) == f"delf_jax/{name}"
