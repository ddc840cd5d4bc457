"""What a notebook promises before it runs; `make notebooks` runs each of them."""

import ast
import json
import pathlib
import re

import pytest

from delf_jax.report.runs import read_runs
from delf_jax.training import sweep

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLAB = "https://colab.research.google.com/github/delf-jax/delf_jax/blob/main/notebooks"
# Of a person's or machine's own folders.
OWN_PATHS = re.compile(r"/(root|home|work|Users|content)/|site-packages")
MOST_BYTES = 400_000

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    content = json.loads(path.read_text("utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


@each_notebook
def test_a_notebook_opens_on_colab_and_installs_the_package_where_it_is_absent(path):
    assert f"({COLAB}/{path.name})" in source(cells(path, "markdown")[0])
    first = source(cells(path, "code")[0])
    absent = 'if importlib.util.find_spec("delf_jax") is None:\n    %pip install'
    assert absent in first and "delf_jax[notebooks]" in first


@each_notebook
def test_a_notebook_calls_the_public_face_alone(path):
    """And the drawn landmarks, where photos of the kind do not come with packages."""
    for cell in cells(path, "code"):
        if source(cell).startswith("%%"):
            continue
        # What IPython alone understands stands where a statement may.
        of_ipython = r"^(\s*)[%!](?:.*\\\n)*.*$"
        code = re.sub(of_ipython, r"\1pass", source(cell), flags=re.M)
        for node in ast.walk(ast.parse(code)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            ours = {name for name in names if name.startswith("delf_jax.")}
            assert ours <= {"delf_jax.synthetic"}


@each_notebook
def test_a_notebook_shows_what_one_run_from_top_to_bottom_gave(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == [*range(1, len(counts) + 1)]
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    assert any("image/" in kind for each in outputs for kind in each.get("data", ()))
    assert not [each for each in outputs if each["output_type"] == "error"]
    assert not [each for each in outputs if each.get("name") == "stderr"]


@each_notebook
def test_a_notebook_is_small_and_names_no_folder_of_its_author(path):
    assert path.stat().st_size < MOST_BYTES
    assert not OWN_PATHS.search(path.read_text("utf-8"))


def test_the_readme_names_each_notebook():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert not [p.name for p in NOTEBOOKS if f"(notebooks/{p.name})" not in readme]


def within(old, new):
    """Whether all that one has is in the other, whatever else is there."""
    if not isinstance(old, dict):
        return old == new
    return all(name in new and within(value, new[name]) for name, value in old.items())


def test_the_sweep_of_the_ablation_is_that_of_its_config(tmp_path):
    (config,) = (
        source(cell).removeprefix("%%writefile crops.py\n")
        for cell in cells(ROOT / "notebooks/ablation.ipynb", "code")
        if source(cell).startswith("%%writefile crops.py")
    )
    (tmp_path / "crops.py").write_text(config)
    trials = sweep.plan(tmp_path / "crops.py", tmp_path / "runs")
    runs = read_runs(ROOT / "notebooks/ablation")
    assert sorted(trial.name for trial in trials) == [run.name for run in runs]
    for trial in trials:
        left = ROOT / "notebooks/ablation" / trial.name / "config.json"
        # A later version may have more fields.
        assert within(json.loads(left.read_text()), json.loads(trial.config))
    assert {len(run.curves["validation/mAP"][1]) for run in runs} == {1}
