"""One API: whoever says it, and wherever the engine is, the answers are the same."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.congruence import scenarios
from tests.congruence.voices import FUNCTIONS, METHODS, Voice, as_text, plain, voices
from tests.support import Serve

import un
import un_async
import unsandbox
from unsandbox import AsyncClient, Client, local
from unsandbox.protocol.endpoints.jobs import BY_NAME
from unsandbox.protocol.endpoints.workspace import CONTEXTS, FILES, PORTS, PROCESSES, WATCHES

IN_SESSIONS = {endpoint.name for endpoint in PROCESSES + CONTEXTS + PORTS + FILES + WATCHES}
"""Operations on processes, contexts and files, which objects of a session have and no function does."""
OBJECTS = {
    "session_exec": ("LiveSession", "exec"),
    "start_process": ("LiveSession", "start"),
    "list_processes": ("LiveSession", "processes"),
    "get_process": ("LiveSession", "attach_process"),
    "process_output": ("LiveProcess", "read"),
    "write_process": ("LiveProcess", "write"),
    "signal_process": ("LiveProcess", "send_signal"),
    "resize_process": ("LiveProcess", "resize"),
    "end_process": ("LiveProcess", "kill"),
    "create_context": ("LiveSession", "context"),
    "list_contexts": ("LiveSession", "contexts"),
    "get_context": ("LiveSession", "attach_context"),
    "run_code": ("LiveContext", "run"),
    "run_output": ("LiveContext", "stream"),
    "interrupt_context": ("LiveContext", "interrupt"),
    "restart_context": ("LiveContext", "restart"),
    "context_variables": ("LiveContext", "variables"),
    "delete_context": ("LiveContext", "delete"),
    "file_abort": ("Files", "write"),
    "expose_port": ("Ports", "expose"),
    "list_ports": ("Ports", "list"),
    "close_port": ("Ports", "close"),
    "file_watch": ("FileWatch", "read"),
    "file_unwatch": ("FileWatch", "close"),
}


def said_in(scenario: Any) -> set[str]:
    """Return the operations that the source of a conversation names; that it uses them is seen when it is held."""
    return set(re.findall(r'"(\w+)"', inspect.getsource(scenario))) & set(BY_NAME)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home: no list of languages is kept in it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("UNSANDBOX_API_BASE", raising=False)
        yield folder


@pytest.fixture(scope="module")
def embedded(home: Path) -> Iterator[dict[str, Voice]]:
    """The engine inside this process."""
    engine = local.ensure_started()
    with voices(engine.url, engine.public_key, engine.secret_key, "local") as made:
        yield made


@pytest.fixture(scope="module")
def served(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Voice]]:
    """A server in a process of its own."""
    with Serve(tmp_path_factory.mktemp("data")) as server, voices(server.url, *server.keys()) as made:
        yield made


def transcript(voice: Voice, scenario: Any) -> list[Any]:
    """Have a conversation and return what was answered."""
    noted: list[Any] = []

    def note(answer: dict[str, Any]) -> dict[str, Any]:
        noted.append(plain(answer))
        return answer

    scenario(voice, note)
    assert voice.said >= said_in(scenario)
    return noted


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda scenario: scenario.__name__)
def test_all_voices_get_the_same_answers_everywhere(
    embedded: dict[str, Voice], served: dict[str, Voice], scenario: Any
) -> None:
    answers = {
        (place, name): as_text(transcript(voice, scenario))
        for place, voices_of_place in (("embedded", embedded), ("served", served))
        for name, voice in voices_of_place.items()
    }
    first = answers["embedded", "AsyncClient"]
    assert first.count("\n") > 5
    for who, answer in answers.items():
        assert answer == first, who


def test_the_conversations_use_every_operation() -> None:
    assert set(BY_NAME) - set().union(*map(said_in, scenarios.ALL)) == IN_SESSIONS


@pytest.mark.parametrize("operation", sorted(IN_SESSIONS))
def test_every_operation_in_a_session_has_a_method(operation: str) -> None:
    """Its answers are compared by `tests/_async/test_processes.py`, `test_session_files.py` and their twins."""
    kind, name = OBJECTS.get(operation, ("Files", operation.removeprefix("file_")))
    for prefix in ("Async", ""):
        method = getattr(getattr(unsandbox, f"{prefix}{kind}"), name)
        is_block = operation in {"create_context", "run_output"}  # Used by `with` and `for`.
        assert inspect.iscoroutinefunction(method) is (bool(prefix) and not is_block)
        assert inspect.getdoc(method)


@pytest.mark.parametrize("operation", sorted(set(BY_NAME) - IN_SESSIONS))
def test_every_operation_has_a_function_and_a_method(operation: str) -> None:
    for owner, names in ((AsyncClient, METHODS), (Client, METHODS), (un_async, FUNCTIONS), (un, FUNCTIONS)):
        name = names.get(operation, operation)
        call = getattr(owner, name, None)
        assert call is not None, f"{owner.__name__} has no {name}"
        asynchronous = owner in (AsyncClient, un_async)
        assert inspect.iscoroutinefunction(call) is asynchronous
        assert inspect.getdoc(call)
