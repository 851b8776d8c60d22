"""What holds for the repository as a whole: versions agree, layers hold, the lock fits, no host is named in it."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib

import pytest
from tests.support import REPO

from unsandbox._version import __version__

SRC = REPO / "src"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
LOCKED = (REPO / "requirements.lock").read_text()


def test_the_changelog_begins_with_this_version():
    text = (REPO / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == __version__


def test_changelog_fragments_have_a_known_type():
    known = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (REPO / "changes").glob("*.md"):
        assert path.suffixes[-2].removeprefix(".") in known, path.name
        assert path.read_text().strip(), path.name


def test_imports_point_downwards_only():
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


@functools.cache
def imported(path):
    """Return the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SRC.rglob("*.py")
}


def imported_at_once(path):
    """Yield the import statements that run when a module is imported: not those in functions, nor for types."""
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def needed_first(name):
    """Return the modules of this project that a module imports when it is imported, but for its own packages."""
    found = set()
    for node in imported_at_once(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{name}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = {one if one in MODULES else one.rpartition(".")[0] for one in found}
    return {one for one in found & MODULES.keys() if not f"{name}.".startswith(f"{one}.")}


def test_no_module_needs_itself_to_be_imported():
    graph = {name: needed_first(name) for name in MODULES}
    assert "unsandbox.sandbox.spec" in graph["unsandbox.sandbox.persistent_spec"]
    # Raises CycleError, which names the modules of a circle.
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= MODULES.keys()


@pytest.mark.parametrize(("module", "side"), [("un", "_sync"), ("un_async", "_async")])
def test_the_function_modules_stand_on_the_client_and_nothing_stands_on_them(module, side):
    allowed = {side, "_shared", "errors", "protocol"}
    ours = {name.split(".")[1] for name in imported(SRC / f"{module}.py") if name.startswith("unsandbox.")}
    assert ours <= allowed
    for path in (SRC / "unsandbox").rglob("*.py"):
        assert module not in imported(path), path


def names(requirements):
    return {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in requirements}


def test_every_dependency_is_locked():
    wanted = names(PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted |= names(extra)
    pinned = LOCKED + (REPO / "requirements-frameworks.txt").read_text()
    assert wanted - {"unsandbox"} <= names(re.findall(r"^[\w-]+(?===)", pinned, re.MULTILINE))


def test_the_lock_has_hashes_and_names_no_host():
    wanted = re.sub(r"\\\n", "", LOCKED)
    requirements = re.findall(r"^[a-zA-Z0-9].*", wanted, re.MULTILINE)
    assert len(requirements) > 50
    assert [line for line in requirements if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
    assert "://" not in LOCKED
    assert "--index" not in LOCKED


@pytest.mark.parametrize("script", ["scripts/bootstrap", ".ci/run"])
def test_shell_scripts_parse_and_may_be_executed(script):
    path = REPO / script
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_modules_of_the_wheel_are_typed():
    assert (REPO / "src" / "unsandbox" / "py.typed").exists()


def test_mypy_reads_every_folder_with_sources():
    assert {path.name for path in REPO.iterdir() if any(path.rglob("*.py")) and path.name[0] not in "._"} <= {
        *PROJECT["tool"]["mypy"]["files"],
        "build",
        "site",
        "dist",
    }
