"""Every example runs on the embedded engine as it is shipped; each checks its own output."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from tests.support import REPO

EXAMPLES = sorted((REPO / "examples").glob("*.py"))
QUICK = {"hello_world", "hello_world_async", "grader"}
"""Those that `make test` runs."""


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem not in QUICK))
        for path in EXAMPLES
    ],
)
def test_example(example, forks, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNSANDBOX_")}
    environment |= {"UNSANDBOX_API_BASE": "local", "HOME": str(tmp_path)}
    result = forks.run(example.read_text(), str(example), environment, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert result.stdout
    assert "\033" not in result.stdout, "colours only where a person looks"


@pytest.mark.slow
def test_the_notebook(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("UNSANDBOX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UNSANDBOX_API_BASE", "local")
    notebook = nbformat.read(REPO / "examples" / "notebook.ipynb", as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells), (
        "outputs are not kept in the repository"
    )
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    written = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert written == "all is well\n"


def test_the_makefile_runs_all_of_them():
    listed = re.search(r"EXAMPLES := (.*?)\n\n", (REPO / "Makefile").read_text(), re.DOTALL)[1]
    assert set(listed.replace("\\", " ").split()) == {path.stem for path in EXAMPLES} - {"demo"}
