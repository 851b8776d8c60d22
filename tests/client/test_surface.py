"""What is public: names, both clients alike, cheap to import, importable where Linux is not."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import operator
import os
import pickle
import pkgutil
import pydoc
import re
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support import REPO

import un
import un_async
import unsandbox
from unsandbox import (
    AsyncClient,
    AsyncLiveService,
    AsyncLiveSession,
    AsyncTerminal,
    Client,
    LiveService,
    LiveSession,
    Terminal,
)
from unsandbox.errors import with_base

LINUX_ONLY = ("fcntl", "pwd", "grp", "resource", "termios")


def load_unasync() -> ModuleType:
    """Load the generator."""
    spec = importlib.util.spec_from_file_location("unasync", REPO / "scripts" / "unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(code: str, *options: str, **variables: str) -> str:
    """Run code in a fresh interpreter and return its output."""
    command = [sys.executable, *options, "-c", code]
    env = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=env).stdout.strip()


def members(owner: Any) -> dict[str, Any]:
    found = inspect.getmembers(owner, lambda value: inspect.isfunction(value) or inspect.ismethod(value))
    return {name: value for name, value in found if not name.startswith("_") or name == "__init__"}


def as_text(value: Any, names: dict[str, str]) -> str:
    """Return the signature with the names of the sync side."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(inspect.signature(value)))


@pytest.mark.parametrize(
    ("source", "twin"),
    [
        (AsyncClient, Client),
        (un_async, un),
        (AsyncLiveSession, LiveSession),
        (AsyncLiveService, LiveService),
        (AsyncTerminal, Terminal),
    ],
)
def test_both_sides_have_the_same_names_and_arguments(source: Any, twin: Any) -> None:
    theirs = {name.replace("AsyncClient", "Client"): value for name, value in members(source).items()}
    assert set(theirs) == set(members(twin))
    unasync = load_unasync()
    for name, ours in members(twin).items():
        assert as_text(theirs[name], unasync.NAMES) == as_text(ours, unasync.NAMES), name
        assert not inspect.iscoroutinefunction(ours), name
        assert inspect.getdoc(theirs[name]) or name == "__init__", name
        expected = inspect.getdoc(theirs[name]) or ""
        for pattern, replacement in unasync.TEXTS:
            expected = re.sub(pattern, replacement, expected)
        assert inspect.getdoc(ours) == (expected or None), name
        assert not re.search(r"\b(await|asyncio|aiohttp|AsyncClient)\b", inspect.getdoc(ours) or ""), name


def test_the_seeds_functions_have_the_seeds_arguments() -> None:
    first = {
        "execute_code": ["language", "code", "public_key", "secret_key"],
        "execute_async": ["language", "code", "public_key", "secret_key"],
        "get_job": ["job_id", "public_key", "secret_key"],
        "wait_for_job": ["job_id", "public_key", "secret_key", "timeout"],
        "cancel_job": ["job_id", "public_key", "secret_key"],
        "list_jobs": ["public_key", "secret_key"],
        "get_languages": ["public_key", "secret_key"],
        "validate_keys": ["public_key", "secret_key"],
        "health_check": [],
        "detect_language": ["filename"],
    }
    for module in (un, un_async):
        for name, expected in first.items():
            parameters = inspect.signature(getattr(module, name)).parameters.values()
            assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == expected, name
        assert issubclass(module.CredentialsError, Exception)
        assert set(first) < set(module.__all__)
        assert module.__all__ == sorted(module.__all__)


@pytest.mark.slow  # `make lint` tells it as well.
def test_the_generated_files_are_what_would_be_generated() -> None:
    done = subprocess.run(
        [sys.executable, str(REPO / "scripts" / "unasync.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_sees_a_changed_a_longer_a_missing_and_a_left_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unasync = load_unasync()
    source, target = tmp_path / "_async", tmp_path / "_sync"
    source.mkdir()
    (source / "one.py").write_text('"""One."""\n\nasync def f() -> None:\n    await f()\n')
    for name, value in {
        "ROOT": tmp_path,
        "FILES": (),
        "TREES": (("_async", "_sync"),),
        "NAMES": {},
        "TEXTS": (),
    }.items():
        monkeypatch.setattr(unasync, name, value)
    monkeypatch.setattr(unasync, "LINES", ())
    assert unasync.main([]) == 0
    generated = target / "one.py"
    assert "\n    f()\n" in generated.read_text()
    assert unasync.main(["--check"]) == 0
    good = generated.read_text()
    for bad in (good.replace("f()", "g()"), good + "x = 1\n", None):
        generated.write_text(bad) if bad is not None else generated.unlink()
        assert unasync.main(["--check"]) == 1
    unasync.main([])
    (target / "extra.py").write_text("")
    assert unasync.main(["--check"]) == 1
    assert "has no source any more" in capsys.readouterr().out
    monkeypatch.setattr(unasync, "NAMES", {"NobodyUsesThis": "x"})
    with pytest.raises(SystemExit, match="NobodyUsesThis"):
        unasync.main(["--check"])


def test_all_names_of_the_package_are_there() -> None:
    assert len(unsandbox.__all__) == len(set(unsandbox.__all__))
    for name in unsandbox.__all__:
        assert getattr(unsandbox, name) is not None
        assert name in dir(unsandbox)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = unsandbox.no_such_name


def test_classes_and_errors_are_named_as_programs_name_them() -> None:
    for made in (AsyncClient, Client, AsyncLiveSession, LiveSession, unsandbox.Map, unsandbox.JobStream):
        assert made.__module__ == "unsandbox"
        assert pickle.loads(pickle.dumps(made)) is made
    error = with_base(unsandbox.NotFoundError, "requests")("gone", status=404)
    assert traceback.format_exception_only(error) == ["unsandbox.NotFoundError: gone\n"]
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.status) == (type(error), 404)


def undocumented(owner: Any, name: str) -> list[str]:
    """Return what has no text of its own in a class: methods, properties, fields, the class itself."""
    missing = [] if inspect.getdoc(owner) else [name]
    bases = [base for base in inspect.getmro(owner) if is_ours(base)]
    sources = "\n".join(map(source_of, bases))
    lists = "\n".join((base.__doc__ or "").partition("Attributes:")[2] for base in bases)
    for member, value in inspect.getmembers(owner):
        (home,) = [base for base in inspect.getmro(owner) if member in vars(base)][:1] or [object]
        if member.startswith("_") or not is_ours(home):
            continue
        if inspect.isroutine(value) or isinstance(vars(home)[member], property):
            documented = bool(inspect.getdoc(vars(home)[member]))
        else:
            # A field or a class variable: a text below it, or a line of `Attributes:`.
            below = re.search(rf"^    {member}: .*\n    r?\"\"\"", sources, re.MULTILINE)
            listed = re.search(rf"^\s+{member}: ", lists, re.MULTILINE)
            documented = bool(below or listed or member.isupper())
        if not documented:
            missing.append(f"{name}.{member}")
    return missing


def is_ours(owner: type) -> bool:
    return owner.__module__.partition(".")[0] == "unsandbox"


@functools.cache
def source_of(owner: type) -> str:
    return inspect.getsource(sys.modules[home_of(owner)])


def home_of(value: Any) -> str:
    """Name the module that holds an object: many are called by the package's name."""
    module: str = getattr(value, "__module__", "")
    # The table by which the package loads them: their `__module__` is the package itself.
    homes = unsandbox._HOME  # noqa: SLF001 - it is no part of the public API
    return f"unsandbox.{homes.get(value.__name__, 'errors')}" if module == "unsandbox" else module


def public() -> list[tuple[str, Any]]:
    """Name every public object: those of the package and of both modules of functions."""
    found = [(f"unsandbox.{name}", getattr(unsandbox, name)) for name in unsandbox.__all__]
    for module in (un, un_async):
        found += [(f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__]
    return found


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for name, value in public():
        if inspect.isclass(value) and is_ours(value):
            missing += undocumented(value, name)
        elif inspect.isroutine(value) and not inspect.getdoc(value):
            missing.append(name)
    assert missing == []


def test_every_public_name_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in (REPO / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))
    hidden = [
        name
        for name, value in public()
        if not {name, name.partition(".")[0], home_of(value)} & shown and name != "unsandbox.__version__"
    ]
    assert hidden == []


def test_help_is_enough_to_begin() -> None:
    """Its example runs as it is, and every name that it mentions or that is public is there."""
    text = unsandbox.__doc__ or ""
    (example,) = re.findall(r"^    .+\n(?:(?:    .*)?\n)*", text, re.MULTILINE)
    assert python(textwrap.dedent(example), UNSANDBOX_API_BASE="local") == "42"
    mentioned = re.findall(r"`([A-Z]\w*(?:\.\w+)*)`", text)
    assert len(mentioned) > 5
    for path in mentioned:
        assert operator.attrgetter(path)(unsandbox)
    shown = pydoc.plain(pydoc.render_doc(unsandbox))
    public = {*unsandbox.__all__} - {"__version__"}
    assert {name for name in public if not re.search(rf"\b{name}\b", shown)} == set()
    assert unsandbox.__version__ in shown


@pytest.mark.parametrize("module", ["un_async", "un", "unsandbox"])
def test_importing_loads_neither_transport_nor_server(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = set(python(code).split())
    for heavy in (
        "aiohttp",
        "requests",
        "msgspec",
        "unsandbox.server",
        "unsandbox.engine",
        "unsandbox.local",
        "sqlalchemy",
    ):
        assert heavy not in loaded


def test_the_embedded_engine_loads_no_database() -> None:
    loaded = set(python("import sys, unsandbox.local.thread, unsandbox.server; print(*sys.modules)").split())
    assert "unsandbox.engine.engine" in loaded
    assert not loaded & {"sqlalchemy", "alembic"}


def test_commands_on_a_data_folder_load_no_engine() -> None:
    code = "import sys, unsandbox.cli.audit, unsandbox.cli.backup, unsandbox.cli.keys; print(*sys.modules)"
    assert not set(python(code).split()) & {"aiohttp", "unsandbox.engine.engine", "unsandbox.sandbox"}


def test_a_client_of_a_server_elsewhere_never_loads_the_serving_side() -> None:
    code = """
import asyncio, sys, un, un_async
from unsandbox import AsyncClient, Client
async def main():
    for call in (un_async.health_check(), AsyncClient(base_url='http://127.0.0.1:1').close()):
        await call
un.API_BASE = un_async.API_BASE = 'http://127.0.0.1:1'
asyncio.run(main())
un.health_check()
Client(base_url='http://127.0.0.1:1').close()
print(*sys.modules)
"""
    loaded = set(python(code).split())
    assert {"aiohttp", "requests"} <= loaded
    for name in ("local", "server", "engine", "sandbox", "cli"):
        assert f"unsandbox.{name}" not in loaded


def test_the_client_side_imports_where_linux_is_not() -> None:
    code = f"""
import sys, importlib
for name in {LINUX_ONLY!r}:
    sys.modules[name] = None
import un, un_async
names = {client_modules()!r}
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    assert int(python(code)) > 20


def client_modules() -> list[str]:
    """Name every module of the client side."""
    names = ["unsandbox.credentials", "unsandbox.errors", "unsandbox.local"]
    for package in ("_async", "_sync", "_shared", "_transports", "_compat", "protocol"):
        folder = REPO / "src" / "unsandbox" / package
        found = pkgutil.walk_packages([str(folder)], f"unsandbox.{package}.")
        names += [module.name for module in found]
    return names


@pytest.mark.slow
def test_each_module_imports_alone() -> None:
    # Forks of a process that has what others wrote: an interpreter for each module takes a minute.
    code = f"""
import importlib, os, sys, traceback
import aiohttp, msgspec, requests
assert not [name for name in sys.modules if name.startswith("unsandbox")]
for name in {client_modules()!r}:
    if not os.fork():
        try:
            importlib.import_module(name)
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
        finally:
            os._exit(0)
    os.wait()
"""
    assert python(code) == ""


def test_importing_costs_little_beside_asyncio() -> None:
    def best(code: str) -> int:
        clock = "import time; b = time.perf_counter_ns(); {}; print(time.perf_counter_ns() - b)"
        return min(int(python(clock.format(code))) for _ in range(5))

    assert best("import un_async") < 1.5 * best("import asyncio")


def test_making_a_client_does_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for made in (AsyncClient, Client):
        client = made(base_url="https://example.org")
        assert repr(client) == f"<{made.__name__} https://example.org>"
    assert list(tmp_path.iterdir()) == []
    asyncio.run(AsyncClient().close())
