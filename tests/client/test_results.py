"""What results can do by themselves: check, save, show, iterate; and where files for a program come from."""

from __future__ import annotations

import base64
import io
import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fastapi
import pydantic
import pytest
from fastapi.testclient import TestClient

from unsandbox import (
    Artifact,
    CommandResult,
    EndedJobs,
    Image,
    ImageList,
    InputFile,
    InvalidRequestError,
    InvalidResponseError,
    Job,
    JobFailedError,
    JobList,
    Languages,
    LogLine,
    LogPage,
    Service,
    ServiceList,
    Session,
    SessionList,
    Snapshot,
    SnapshotList,
    VaultExport,
)
from unsandbox._shared.files import encode_files

PNG = base64.b64encode(b"\x89PNG\r\n").decode()


def artifact(name: str, data: bytes = b"x") -> Artifact:
    return Artifact(filename=name, content_base64=base64.b64encode(data).decode())


def test_check_returns_what_ended_well_and_raises_what_did_not() -> None:
    good = Job(job_id="j1", status="completed", exit_code=0, stdout="out")
    assert good.check() is good
    assert (good.text, Job().text) == ("out", "")
    for bad, words in (
        (Job(job_id="j2", status="completed", exit_code=3, stdout="private"), "exit code 3"),
        (Job(job_id="j2", status="timeout", exit_code=124, error="the time limit was reached"), "time limit"),
        (CommandResult(exit_code=2, stdout="private"), "exit code 2"),
    ):
        with pytest.raises(JobFailedError, match=words) as failed:
            bad.check()
        assert "private" not in str(failed.value)
        copied = pickle.loads(pickle.dumps(failed.value))
        assert copied.result == bad == failed.value.result
    assert CommandResult(exit_code=0).check().ok


def test_artifacts_are_saved_under_their_names_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    path = artifact("../../etc/data.txt", b"text").save(folder)
    assert path == folder / "data.txt"
    assert path.read_bytes() == b"text"
    assert path.stat().st_mode & 0o777 == 0o644
    assert artifact("run", b"#!/bin/sh\n").save(folder).stat().st_mode & 0o111
    assert artifact("x", "é".encode()).text == "é"
    assert artifact("plots/2024/a.png", b"p").save(folder) == folder / "plots" / "2024" / "a.png"
    assert artifact("..\\plots\\a.png", b"p").save(folder) == folder / "a.png"
    (folder / "link").symlink_to(tmp_path)
    for name in ("", "..", "/", "a\0b", "link/a", "x" * 256, "a/" * 33 + "b"):
        with pytest.raises(InvalidResponseError):
            artifact(name).save(folder)
    assert {item.name for item in folder.iterdir()} == {"data.txt", "run", "a.png", "plots", "link"}


def test_saving_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data").symlink_to(outside)
    artifact("data", b"new").save(tmp_path / "out")
    assert outside.read_text() == "precious"
    assert (tmp_path / "out" / "data").read_bytes() == b"new"


def test_repr_shows_what_there_is_in_short_and_no_secrets() -> None:
    assert repr(Job(job_id="j1", exit_code=0)) == "Job(job_id='j1', exit_code=0)"
    assert len(repr(Job(stdout="x" * 1000))) < 120
    assert "TOKEN" not in repr(VaultExport(env="TOKEN=secret"))


def test_notebooks_show_text_as_text_and_pictures_as_pictures() -> None:
    job = Job(
        status="completed",
        language="python",
        exit_code=0,
        stdout="<script>alert(1)</script>",
        stderr="\ud800 & odd",
        artifacts=[
            Artifact(filename="a.PNG", content_base64=PNG),
            Artifact(filename='<b>".txt', content_base64="eA=="),
        ],
    )
    shown = job._repr_html_()
    assert "<script>" not in shown
    assert f'src="data:image/png;base64,{PNG}"' in shown
    assert "<b>&quot;" not in shown
    assert "&lt;b&gt;" in shown
    assert "? &amp; odd" in shown
    assert len(Job(stdout="x" * 10**6)._repr_html_()) < 50_000
    command = CommandResult(exit_code=2, stdout="<b>out</b>", stderr="<i>odd</i>")._repr_html_()
    assert "&lt;b&gt;out" in command
    assert "&lt;i&gt;odd" in command
    assert "failed" in command
    assert "exit code 2" in command


def test_results_are_frozen() -> None:
    for result in (Job(job_id="a"), CommandResult(exit_code=0), artifact("a"), JobList(jobs=[])):
        with pytest.raises(AttributeError):
            setattr(result, "exit_code", 1)  # noqa: B010 - a type checker refuses the assignment


def test_lists_are_iterable() -> None:
    jobs = JobList(jobs=[Job(job_id="a"), Job(job_id="b")])
    assert [job.job_id for job in jobs] == ["a", "b"]
    assert len(jobs) == 2
    assert not SessionList()
    for page, items in (
        (EndedJobs(jobs=[Job(job_id="a")]), [Job(job_id="a")]),
        (LogPage(lines=[LogLine(line="a")]), [LogLine(line="a")]),
        (Languages(languages=["c"]), ["c"]),
        (ServiceList(services=[Service(name="a")]), [Service(name="a")]),
        (SnapshotList(snapshots=[Snapshot(name="a")]), [Snapshot(name="a")]),
        (ImageList(images=[Image(name="a")]), [Image(name="a")]),
        (SessionList(sessions=[Session(name="a")]), [Session(name="a")]),
    ):
        assert list(page) == items
        assert len(page) == 1


def test_input_files_come_from_everywhere(tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "one").write_bytes(b"1")
    (tmp_path / "folder" / "sub" / "two").write_bytes(b"2")
    (tmp_path / "three").write_bytes(b"3")
    with (tmp_path / "three").open("rb") as file:
        found = encode_files([tmp_path / "folder", file, InputFile.of("four", b"4")])
    names = {item["filename"]: base64.b64decode(item["content"]) for item in found}
    assert names == {"one": b"1", "sub/two": b"2", "three": b"3", "four": b"4"}
    found = encode_files(
        {"a": io.StringIO("é"), "b": io.BytesIO(b"b"), "c": tmp_path / "three", "d": "text", "e": b"e"}
    )
    assert [base64.b64decode(item["content"]) for item in found] == ["é".encode(), b"b", b"3", b"text", b"e"]


def test_input_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "same").write_text("x")
    for bad in (
        [tmp_path / "same", tmp_path / "a" / "same"],
        [tmp_path / "missing"],
        [io.BytesIO(b"no name")],
        {"x": tmp_path / "missing"},
        {"x": io.StringIO("\ud800")},
        [f"{tmp_path}/nul\0"],
    ):
        with pytest.raises(InvalidRequestError):
            encode_files(bad)


JOB = Job(
    job_id="j1",
    status="completed",
    language="python",
    stdout="hi\n",
    exit_code=0,
    created_at="1700000000",
    completed_at=1700000001.5,
    artifacts=[Artifact(filename="a.txt", content_base64="aGk=")],
)


def test_a_result_is_a_mapping_and_a_json_text() -> None:
    expected = {
        "job_id": "j1",
        "status": "completed",
        "language": "python",
        "stdout": "hi\n",
        "exit_code": 0,
        "created_at": "1700000000",
        "completed_at": 1700000001.5,
        "artifacts": [{"filename": "a.txt", "content_base64": "aGk="}],
    }
    assert JOB.to_dict() == expected
    assert json.loads(JOB.to_json()) == expected
    assert dict(JOB)["stdout"] == JOB["stdout"] == "hi\n"
    assert (JOB["id"], JOB["error"], {**JOB}["exit_code"]) == ("j1", None, 0)
    with pytest.raises(KeyError, match="colour"):
        JOB["colour"]
    with pytest.raises(TypeError):
        JOB[0]
    assert [job["job_id"] for job in JobList(jobs=[JOB])] == ["j1"]
    assert JobList(jobs=[JOB], count=1).to_dict() == {"jobs": [expected], "count": 1}


def test_times_are_datetimes_as_well() -> None:
    assert JOB.created == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert JOB.completed == JOB.created + timedelta(seconds=1.5)
    assert (Job().created, Job(created_at="never").created) == (None, None)
    session = Session(session_id="s1", created_at="2024-01-02T03:04:05+01:00", last_activity=0)
    assert session.created == datetime(2024, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert session.active == datetime(1970, 1, 1, tzinfo=UTC)


class Answer(pydantic.BaseModel):
    job: Job
    note: str = ""


def test_fastapi_and_pydantic_take_results() -> None:
    app = fastapi.FastAPI()

    @app.get("/plain")
    async def plain():
        return JOB

    @app.get("/typed")
    async def typed() -> Job:
        return JOB

    @app.get("/many")
    async def many() -> list[Job]:
        return [JOB]

    @app.post("/nested")
    async def nested(answer: Answer) -> Answer:
        assert isinstance(answer.job, Job)
        return answer

    visitor = TestClient(app)
    assert visitor.get("/plain").json() == visitor.get("/typed").json() == JOB.to_dict()
    assert visitor.get("/many").json() == [JOB.to_dict()]
    again = visitor.post("/nested", json={"job": JOB.to_dict()}).json()
    assert again == {"job": JOB.to_dict(), "note": ""}
    assert visitor.post("/nested", json={"job": {"exit_code": "many"}}).status_code == 422
    assert visitor.get("/openapi.json").status_code == 200


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (
            Job(job_id="j1", language="python", exit_code=1, stderr="Traceback\n  x\nValueError: no\n\n"),
            "the python program of job j1 ended with exit code 1: ValueError: no",
        ),
        (Job(language="c", exit_code=139), "the c program ended with exit code 139 (SIGSEGV)"),
        (
            Job(language="c", exit_code=137, error="out of memory"),
            "the c program ended with exit code 137 (SIGKILL) (out of memory)",
        ),
        (Job(error="no room"), "the program failed: no room"),
    ],
)
def test_a_failure_says_why_in_one_line(job: Job, words: str) -> None:
    with pytest.raises(JobFailedError) as failed:
        job.check()
    assert str(failed.value) == words
