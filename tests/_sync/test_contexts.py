# Generated from tests/_async/test_contexts.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Contexts: state between runs, rich results, limits, and what a tenant may do to the program inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import ENVIRONMENT

import unsandbox
from unsandbox import (
    BadRequestError,
    Client,
    ConflictError,
    JobFailedError,
    LiveContext,
    LiveSession,
    NotFoundError,
)
from unsandbox.engine.environments.store import EnvironmentStore
from unsandbox.local import LocalServer

pytestmark = pytest.mark.skipif(EnvironmentStore().root("data") is None, reason=ENVIRONMENT)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=["bubblewrap", pytest.param("gvisor", marks=pytest.mark.gvisor)], scope="module")
def shared(request: pytest.FixtureRequest, engine: LocalServer) -> Iterator[tuple[str, str]]:
    """One interpreter for the tests of this module, on each backend: its session and its id."""
    with (
        unsandbox.Client(engine.public_key, engine.secret_key, base_url=engine.url) as client,
        client.context("python", env_name="data", isolation=request.param) as made,
    ):
        yield made.session.id, made.id


@pytest.fixture
def context(shared: tuple[str, str], real: Client) -> LiveContext:
    """The interpreter."""
    return real.attach_session(shared[0]).attach_context(shared[1])


def test_variables_stay_between_runs(context: LiveContext) -> None:
    assert (context.run("kept = 40")).results == []
    result = context.run("print('out'); import sys; print('err', file=sys.stderr); kept + 2")
    assert (result.stdout, result.stderr, result.text, result.status) == ("out\n", "err\n", "42", "ok")
    named = {one.name: one for one in context.variables()}
    assert (named["kept"].type, named["kept"].value) == ("int", "40")


def test_an_exception_has_name_value_and_traceback(context: LiveContext) -> None:
    result = context.run("def broken(): return 1 / 0\nbroken()")
    assert result.error is not None
    assert (result.error.name, result.error.value) == ("ZeroDivisionError", "division by zero")
    assert "broken()" in "".join(result.error.traceback)
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        result.check()


def test_coroutines_and_input(context: LiveContext) -> None:
    # In two parts, because the generator of the sync tests reads words.
    code = "import a{} as aio; aw{} aio.sleep(0, 'later')".format("syncio", "ait")
    assert (context.run(code)).text == "'later'"
    result = context.run("input()")
    assert result.error is not None
    assert result.error.name == "StdinNotImplementedError"


def test_results_have_types(context: LiveContext, tmp_path: Path) -> None:
    code = "from IPython.display import HTML, JSON, Markdown\ndisplay(HTML('<b>x</b>'), Markdown('*y*'), JSON([1]))"
    html, markdown, json = (context.run(code)).results
    assert (html.html, markdown.markdown, json.json) == ("<b>x</b>", "*y*", [1])
    assert html.save(tmp_path / "a.html").read_text() == "<b>x</b>"
    with pytest.raises(ValueError, match=r"it can be saved as \.html, \.txt"):
        html.save(tmp_path / "a.png")


def test_tables_and_figures(context: LiveContext, tmp_path: Path) -> None:
    result = context.run("import pandas as pd; pd.DataFrame({'n': [1, 2]})")
    assert result.results[0].table == {"columns": ["n"], "index": [0, 1], "data": [[1], [2]]}
    code = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.title('lines'); plt.show()"
    [figure] = (context.run(code)).results
    assert figure.png is not None
    assert figure.save(tmp_path / "figure.png").read_bytes().startswith(PNG)


def test_a_time_limit_keeps_the_variables(context: LiveContext) -> None:
    context.run("before = 1")
    result = context.run("import time; time.sleep(60)", timeout=0.5)
    assert (result.status, result.state_kept) == ("timeout", True)
    assert (context.run("before")).text == "1"


def test_output_comes_while_it_is_written(context: LiveContext) -> None:
    code = "import time\nfor n in range(2): print(n, flush=True); time.sleep(0.5)"
    seen = [event.text for event in context.stream(code) if event.type == "stdout"]
    assert "".join(str(one) for one in seen).split() == ["0", "1"]
    assert len(seen) > 1
    heard: list[str] = []
    context.run("print('loud')", on_stdout=heard.append)
    assert heard == ["loud\n"]


def test_variables_of_one_run(context: LiveContext) -> None:
    code = "import os; os.environ.get('ONLY_HERE')"
    assert (context.run(code, env={"ONLY_HERE": "yes"})).text == "'yes'"
    assert (context.run(code)).text is None


def test_an_interpreter_that_dies_is_replaced(context: LiveContext) -> None:
    result = context.run("import os; os._exit(7)")
    assert (result.status, result.state_kept) == ("died", False)
    assert "exit code 7" in str(result.error)
    assert (context.run("1 + 1")).text == "2"
    context.run("gone = 1")
    context.restart()
    assert (context.run("'gone' in globals()")).text == "False"


def test_much_output_is_cut_and_the_context_goes_on(context: LiveContext) -> None:
    result = context.run("for _ in range(48): print('x' * (1 << 20))")
    assert result.truncated
    assert (context.run("'still there'")).text == "'still there'"


@pytest.fixture
def session(real: Client) -> Iterator[LiveSession]:
    """A session with an environment."""
    with real.session(env_name="data") as made:
        yield made


def test_contexts_side_by_side(session: LiveSession) -> None:
    with session.context() as first, session.context(cwd="/tmp", env={"WORD": "w"}) as second:
        first.run("name = 'first'")
        second.run("name = 'second'")
        assert (first.run("name")).text == "'first'"
        assert (
            second.run("import os; name, os.getcwd(), os.environ['WORD']")
        ).text == "('second', '/tmp', 'w')"
        assert [one.context_id for one in session.contexts()] == [first.id, second.id]
    assert session.contexts() == []
    assert (session.exec("pgrep -f [i]pykernel || echo none")).stdout == "none\n"
    with pytest.raises(NotFoundError):
        first.run("1")


def test_what_a_tenant_writes_to_the_server_is_not_trusted(session: LiveSession) -> None:
    with session.context() as context:
        driver = (session.processes())[0]
        forged = base64.b64encode(
            b'{"type": "done", "id": 5}\n[]\nnonsense\n{"type": "result", "data": 3}\n'
        ).decode()
        code = f"""
import base64, os
pid = next(p for p in os.listdir('/proc') if p.isdigit() and b'unsandbox-kernel' in open(f'/proc/{{p}}/cmdline', 'rb').read())
with open(f'/proc/{{pid}}/fd/1', 'wb', 0) as out: out.write(base64.b64decode('{forged}'))
"""
        assert (context.run(code)).status in ("ok", "error")
        assert (context.run("1 + 1")).text == "2"
        process = session.attach_process(driver.process_id or "")
        process.kill()
        _dead(context)
        with pytest.raises(ConflictError, match="has ended"):
            context.run("1")


@pytest.mark.parametrize("piece", ["b'\\n' * (1 << 20)", "b'{\"a\": [' + b'[],' * 300_000 + b'[]]}\\n'"])
def test_an_interpreter_that_floods_the_server_is_ended(session: LiveSession, piece: str) -> None:
    """Lines that say nothing, and lines of many values, come as quickly as pipes are read."""
    flood = f"""
import os
pid = next(p for p in os.listdir('/proc') if p.isdigit() and b'unsandbox-kernel' in open(f'/proc/{{p}}/cmdline', 'rb').read())
piece = {piece}
with open(f'/proc/{{pid}}/fd/1', 'wb', 0) as out:
    while True: out.write(piece)
"""
    with session.context() as context:
        with pytest.raises((ConflictError, JobFailedError)):
            (context.run(flood)).check()
        _dead(context)


def _dead(context: LiveContext) -> None:
    while (context.refresh()).status != "dead":
        pass


def test_requests_that_make_no_sense(session: LiveSession, real: Client) -> None:
    with pytest.raises(BadRequestError, match="choose python"):
        with session.context("cobol"):
            pass
    with pytest.raises(BadRequestError, match="un env build nothing"):
        with real.context(env_name="nothing"):
            pass
    with real.session() as bare:
        with pytest.raises(BadRequestError, match="un env build data"):
            with bare.context():
                pass


def test_a_job_sees_the_packages(real: Client) -> None:
    code = "import numpy, os, sys; print(numpy.arange(3).sum(), sys.prefix)"
    job = real.execute("python", code, env_name="data")
    assert (job.stdout, job.exit_code) == ("3 /opt/env\n", 0), job
    with pytest.raises(BadRequestError, match="un env build nothing"):
        real.execute("python", "1", env_name="nothing")
