"""The audit log: whole after anything but a change, and a change is told."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import Serve, un

from unsandbox.engine.accounts import audit as module
from unsandbox.engine.accounts.audit import AuditLog, audit_files, code_hash, read, verify
from unsandbox.errors import EngineError

KEY = b"k" * 32


def write(folder, *events: str) -> None:
    log = AuditLog(folder, KEY)
    log.open()
    for event in events:
        log.note(event, owner="me")
    log.close()


def test_a_log_goes_on_over_restarts_and_is_whole(tmp_path):
    write(tmp_path, "one", "two")
    write(tmp_path, "three")
    verdict = verify(tmp_path, KEY)
    assert (verdict.lines, verdict.problem) == (3, "")
    assert [line["event"] for line in read(tmp_path)] == ["one", "two", "three"]
    assert audit_files(tmp_path)[0].stat().st_mode & 0o777 == 0o600
    assert verify(tmp_path, b"another key").problem


@pytest.mark.parametrize("written", [0, 20])
def test_what_a_full_disk_refuses_is_counted_and_breaks_nothing(tmp_path, monkeypatch, written):
    log = AuditLog(tmp_path, KEY)
    log.open()
    log.note("before")

    def write_some(fd: int, data: bytes) -> int:
        if not written:
            raise OSError(28, "No space left on device")
        return os.pwrite(fd, data[:written], 1 << 30)

    with monkeypatch.context() as full:
        full.setattr(os, "write", write_some)
        log.note("lost")
        log.note("lost too")
    log.note("after")
    log.close()
    assert [line["event"] for line in read(tmp_path)] == ["before", "lines_missing", "after"]
    assert list(read(tmp_path))[1]["count"] == 2
    verdict = verify(tmp_path, KEY)
    assert (verdict.lines, verdict.problem) == (3, "")


def test_where_there_is_no_room_for_another_file_the_old_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 300)
    log = AuditLog(tmp_path, KEY)
    log.open()
    (tmp_path / "audit-000002.jsonl").mkdir()
    for number in range(10):
        log.note(str(number))
    (tmp_path / "audit-000002.jsonl").rmdir()
    log.note("more")
    log.note("and more")
    log.close()
    assert len(audit_files(tmp_path)) == 2
    assert (verify(tmp_path, KEY).lines, verify(tmp_path, KEY).problem) == (12, "")


def test_it_goes_on_in_the_next_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 300)
    write(tmp_path, *map(str, range(10)))
    write(tmp_path, "more")
    assert len(audit_files(tmp_path)) > 2
    assert (verify(tmp_path, KEY).lines, verify(tmp_path, KEY).problem) == (11, "")


@given(data=st.data())
def test_every_change_is_told(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("audit")
    write(folder, "one", "two", "three", "four")
    path = audit_files(folder)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    kind = data.draw(st.sampled_from(["flip", "remove", "swap", "repeat"]))
    at = data.draw(st.integers(0, 2))
    if kind == "flip":
        line = bytearray(lines[at])
        # The lines hold the time, so their length is not the same every time.
        where = data.draw(st.integers(0, 10_000)) % len(line)
        line[where] ^= data.draw(st.sampled_from([1, 2, 16, 32]))
        lines[at] = bytes(line)
    elif kind == "remove":
        del lines[at]
    elif kind == "swap":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    else:
        lines.insert(at, lines[at])
    path.write_bytes(b"".join(lines))
    assert verify(folder, KEY).problem


def test_a_line_cut_short_by_a_crash_is_set_aside_and_noted(tmp_path):
    write(tmp_path, "one", "two")
    path = audit_files(tmp_path)[0]
    path.write_bytes(path.read_bytes() + b'{"seq":3,"ti')
    write(tmp_path, "three")
    assert [line["event"] for line in read(tmp_path)] == ["one", "two", "recovered", "three"]
    assert not verify(tmp_path, KEY).problem


def test_a_damaged_end_is_refused_at_the_start(tmp_path):
    write(tmp_path, "one")
    path = audit_files(tmp_path)[0]
    path.write_bytes(b"no json\n")
    with pytest.raises(EngineError, match="damaged"):
        AuditLog(tmp_path, KEY).open()


def test_a_server_keeps_one_of_jobs_and_of_what_is_changed(tmp_path):
    data, code = tmp_path / "data", "echo secret-output"
    with Serve(data) as server:
        keys = server.keys()
        _, job = server.call(keys, "POST", "/execute", {"language": "bash", "code": code})
        assert server.call(keys, "DELETE", "/sessions/none")[0] == 404
        assert server.stop() == 0
    assert un("audit", "verify", "--data", str(data)).stdout.startswith("intact: 5 lines")
    lines = [
        json.loads(line) for line in un("audit", "show", "--json", "--data", str(data)).stdout.splitlines()
    ]
    assert [line["event"] for line in lines] == [
        "started",
        "job_accepted",
        "job_ended",
        "delete_session",
        "stopped",
    ]
    accepted, ended, deleted = lines[1:4]
    assert (accepted["owner"], accepted["job"], accepted["code_sha256"]) == (
        keys[0],
        job["id"],
        code_hash(code),
    )
    assert (accepted["isolation"], accepted["network_mode"], accepted["vcpu"]) == (
        "bubblewrap",
        "zerotrust",
        1.0,
    )
    assert (ended["status"], ended["exit_code"]) == ("completed", 0)
    assert (deleted["id"], deleted["status"]) == ("none", 404)
    text = audit_files(data)[0].read_text()
    assert "secret-output" not in text
    assert keys[1] not in text
    audit_files(data)[0].write_text(text.replace("job_ended", "job_other"))
    broken = un("audit", "verify", "--data", str(data), check=False)
    assert broken.returncode == 1
    assert "audit-000001.jsonl:3" in broken.stderr
