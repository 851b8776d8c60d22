"""Nothing grows beyond what one reads in a sitting: files in a folder, lines of a class, parameters of a function.

Each exception has a reason. Remove it when it is no longer needed.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from tests.support import REPO, SOURCE

MOST_FILES, MOST_LINES, MOST_PARAMETERS = 20, 300, 7

FOLDERS = {
    "src/unsandbox/cli": "one module for each command",
    "src/unsandbox/protocol": "one module for each part of the wire",
}
CLASSES = {
    "sandbox/host/running_job.py:SandboxJob": "the states of a job, which one reads together",
}
PARAMETERS = {
    "_async/server_connection.py:ServerConnection.__init__": "the options of a client, made in one place",
    "sandbox/host/stream_capture.py:StreamCapture.__init__": "keyword-only, and made in one place",
    "sandbox/languages/table.py:Language.build_spec": "keyword-only: what a request may say",
}
PUBLIC = (
    "_async/functions/",
    "_async/methods/",
    "_async/objects/session.py",
    "_async/client.py",
    "cli/",
    "integrations/",
)
"""The public API has the parameters of the historical functions; click passes each option as one. Frameworks
give the parameters of their methods."""

SOURCES = [
    path
    for path in sorted((SOURCE / "unsandbox").rglob("*.py"))
    if "_sync" not in path.parts  # generated from _async
]


def definitions(tree: ast.AST, above: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield the classes and functions of a module, with their names, from the outside in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{above}.{node.name}" if above else node.name
            yield name, node
            yield from definitions(node, name)
        else:
            yield from definitions(node, above)


def everywhere() -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        place = path.relative_to(SOURCE / "unsandbox").as_posix()
        for name, node in definitions(ast.parse(path.read_text())):
            yield f"{place}:{name}", node


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def test_a_folder_has_few_files():
    counted = Counter(path.parent.relative_to(REPO).as_posix() for path in SOURCES)
    for path in (REPO / "tests").rglob("*.py"):
        folder = path.parent.relative_to(REPO).as_posix()
        if folder != "tests/_sync":
            counted[folder] += 1
    assert {folder for folder, files in counted.items() if files > MOST_FILES} == FOLDERS.keys()


def test_a_class_has_few_lines():
    large = {
        place
        for place, node in everywhere()
        if isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= MOST_LINES
    }
    assert large == CLASSES.keys()


def test_a_function_has_few_parameters():
    many = {
        place
        for place, node in everywhere()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and parameters(node) > MOST_PARAMETERS
    }
    assert {place for place in many if not place.startswith(PUBLIC)} == PARAMETERS.keys()
