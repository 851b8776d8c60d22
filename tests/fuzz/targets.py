"""Every parser of the project as a function of bytes: it may return, or raise the errors that it names.

Whoever drives them, Hypothesis in the suite or atheris in `make fuzz`, gives bytes; anything else that comes out of a
target is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import click
import msgspec

from unsandbox._shared.server import parse_base
from unsandbox.cli.program_input import parse_env
from unsandbox.credentials import _parse as parse_accounts
from unsandbox.engine.accounts import audit
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import RequestError
from unsandbox.engine.jobs.inputs import check_request, input_files, stdin_bytes
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.results import result_of, text_of
from unsandbox.engine.services.hostnames import ServiceNames
from unsandbox.engine.services.hostnames import _clean as clean_domain
from unsandbox.engine.services.vault import read_vault
from unsandbox.errors import CredentialsError, InvalidRequestError, InvalidResponseError
from unsandbox.protocol import answers, codec, guess, languages, models, retry, services, signing
from unsandbox.protocol.bounds import MAX_DOMAINS
from unsandbox.protocol.endpoints.jobs import ENDPOINTS
from unsandbox.protocol.events import Cursor, OutputChunk
from unsandbox.protocol.logs import since_seconds
from unsandbox.protocol.sse import EventReader, ServerEvent
from unsandbox.sandbox import Limits
from unsandbox.sandbox.errors import InvalidArchiveError
from unsandbox.sandbox.gvisor import files
from unsandbox.sandbox.gvisor.channel import Channel
from unsandbox.sandbox.host.artifacts import Selection
from unsandbox.sandbox.languages.java import java_steps
from unsandbox.sandbox.languages.marked_output import MarkedOutput
from unsandbox.sandbox.languages.steps import Steps
from unsandbox.sandbox.languages.table import input_name
from unsandbox.sandbox.launcher import hierarchy as groups
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.network import netlink
from unsandbox.sandbox.spec import Captured, EndReason, Outcome
from unsandbox.sandbox.storage import archive_check
from unsandbox.server.call import read_number
from unsandbox.server.hosts import host_name, label_of
from unsandbox.server.ingress import channel
from unsandbox.server.ingress.front import host_of
from unsandbox.server.ingress.hello import server_name_of
from unsandbox.server.shell import _control as control_terminal
from unsandbox.server.streams import _event_pieces

_CONFIG = EngineConfig()
_REQUESTS = sorted({endpoint.request for endpoint in ENDPOINTS if endpoint.request}, key=lambda m: m.__name__)
_RESPONSES = sorted({endpoint.response for endpoint in ENDPOINTS}, key=lambda model: model.__name__)


@dataclass(frozen=True)
class Target:
    """A parser, and inputs that get deep into it."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    def add(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[run.__name__] = Target(run.__name__, run, seeds)
        return run

    return add


def text(data: bytes) -> str:
    """Any text, lone surrogates included: what a header or an argument may hold."""
    return data.decode("utf-8", "surrogateescape")


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Two inputs out of one."""
    first, _, second = data.partition(b"\xff")
    return first, second


# The wire


@target(b'{"language":"python","code":"print(1)","env":{"A":"1"},"input_files":[{"filename":"a","content":"eA=="}]}',
        b'{"args":["a"],"stdin":"x","vcpu":2,"ttl":9,"network":"zerotrust","return_artifacts":true}',
        b'{"name":"shop","ports":"80,443","bootstrap":"echo","custom_domains":["a.example"]}', b"[]", b"null")  # fmt: skip
def requests(data: bytes) -> None:
    try:
        members = codec.loads_object(data)
    except ValueError:
        return
    for model in _REQUESTS:
        with contextlib.suppress(ValueError):
            request = codec.from_wire(members, model)
            assert codec.from_wire(codec.loads_object(codec.encode(request)), model) == request
            if isinstance(request, models.ExecuteRequest):
                with contextlib.suppress(RequestError):
                    check_request(request, _CONFIG)
                    stdin_bytes(request)
                    input_files(request.input_files or [], _CONFIG)


@target(b'{"job_id":"job_1","status":"completed","stdout":"x","exit_code":0,"artifacts":[{"filename":"a"}]}',
        b'{"jobs":[{"id":"1"}],"count":1}', b'{"session_id":"s","vcpu":1}', b'{"error":"e","message":"m"}')  # fmt: skip
def responses(data: bytes) -> None:
    try:
        value = answers.read_object(200, {}, data, 0.0)
    except InvalidResponseError:
        return
    for model in _RESPONSES:
        with contextlib.suppress(InvalidResponseError):
            answer = codec.response_from_wire(value, model)
            # Bytes that are not UTF-8 are read, but never sent.
            with contextlib.suppress(InvalidRequestError):
                codec.encode(answer)


@target(b'{"error":"x","message":"y"}', b"429\xffnot json", b"503\xff{}")
def errors(data: bytes) -> None:
    head, body = halves(data)
    status = int(head[:3]) if head[:3].isdigit() and len(head[:3]) == 3 else 500
    str(answers.api_error(status, {"Retry-After": text(head)}, body, 1e9)).encode()


@target(b"1700000000\xff/jobs?limit=1", b"1700000000\xff/a%2Fb")
def signatures(data: bytes) -> None:
    time, target_ = halves(data)
    if signing.clock_skew(text(time), 1.7e9) is not None:
        signature = signing.sign("secret", text(time), "POST", text(target_), target_)
        assert signing.verify("secret", text(time), "POST", text(target_), target_, signature)
        assert not signing.verify("secret", text(time), "POST", text(target_), target_, text(data))


@target(b"a/b\xffc d", b"..\xff%")
def targets_of_requests(data: bytes) -> None:
    name, value = halves(data)
    with contextlib.suppress(InvalidRequestError):
        built = signing.build_target("/jobs/{id}", {"id": text(name)}, {"q": text(value)})
        path = built.partition("?")[0]
        assert path.isascii()
        assert path.count("/") == 2
        assert unquote_to_bytes(path[6:]) == name


@target(b"id: 1-2\nevent: output\ndata: {}\n\n", b": c\r\ndata: a\r\ndata: b\r\n\r\n", b"data\n\n")
def event_streams(data: bytes) -> None:
    whole = list(EventReader().feed(data))
    reader = EventReader()
    pieces: list[ServerEvent] = []
    for place in range(0, len(data), 3):
        pieces += reader.feed(data[place : place + 3])
    assert pieces == whole


@target(b"120-7", b"0-0", b"1-")
def cursors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        cursor = Cursor.parse(text(data))
        assert Cursor.parse(str(cursor)) == cursor
        assert min(cursor) >= 0


@target(b'{"stream":"stdout","text":"x"}', b'{"stream":"stderr","base64":"/w=="}')
def output_events(data: bytes) -> None:
    with contextlib.suppress(InvalidResponseError, ValueError):
        assert isinstance(codec.response_from_wire(codec.loads_object(data), OutputChunk).data, bytes)
    stream = OutputChunk.of("stdout", data)
    assert codec.response_from_wire(codec.loads_object(codec.encode(stream)), OutputChunk).data == data


@target(b"120", b"Wed, 21 Oct 2015 07:28:00 GMT", b"1e400", b"nan")
def retry_after(data: bytes) -> None:
    seconds = retry.parse_retry_after({"Retry-After": text(data)}, 1.4e9)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@target(b"5m", b"999999999d", b"37")
def log_times(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert since_seconds(text(data)) >= 0


@target(b"1.5", b"nan", b"-1", b"inf", b"1_0")
def query_numbers(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert 0 <= read_number({"n": text(data)}, "n", 1.0, 0.0, 60.0) <= 60


@target(
    b"#!/usr/bin/env -S python3 -u\n",
    b"#!/bin/sh\necho",
    b"<?php",
    b"package main\nfunc main() {",
    b"a.py",
    b"Makefile",
)
def languages_of_programs(data: bytes) -> None:
    known = set(languages.EXTENSIONS.values())
    for found in (languages.detect_language(text(data)), languages.detect_shebang(text(data))):
        assert found is None or found.isidentifier() or found in known
    guess.guess_language(text(data))


@target(b"A=1\nB=x=y\n", b'{"env":{"A":"1"}}', b'{"content":"A=1"}', b'{"A":1,"B":true}', b"# c\r\nexport A=1")
def vaults(data: bytes) -> None:
    try:
        pairs = read_vault(data)
    except RequestError:
        return
    written = services.vault_to_text(pairs)
    assert services.vault_from_body(written.encode("utf-8", "surrogateescape")) == pairs


# What people write


@target(b"public_key,secret_key\nunsb-pk-a,unsb-sk-a\n", b'# c\n"a","b"\n', b"\xef\xbb\xbfa,b")
def account_files(data: bytes) -> None:
    with contextlib.suppress(CredentialsError):
        for public, secret in parse_accounts(data, Path("accounts.csv")):
            assert (public + secret).isprintable()
            assert " " not in public + secret


@target(b"A=1\nexport B=2\n# c\n", b"A", b"=1", b"\xff=1")
def environment_files(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(click.ClickException):
            parse_env([text(data)], None)
        with contextlib.suppress(click.ClickException):
            parse_env([], Path(file.name))


@target(b"https://example.org/api/", b"http://[::1]:80", b"http://a@b", b"local", b"http://a:99999")
def base_urls(data: bytes) -> None:
    with contextlib.suppress(InvalidRequestError):
        server = parse_base(text(data))
        assert server.origin.isascii()
        assert "@" not in server.origin


@target(b"/home/me/data.csv", b"C:\\temp\\a.txt", b"..", b"a/..")
def file_names(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        name = input_name(text(data))
        assert not {"", ".", ".."}.intersection(name.split("/"))
        assert "\0" not in name


# What comes from outside


@target(b"Shop.localhost.:8787", b"[::1]:80", b"a..b", b"a:65536")
def host_headers(data: bytes) -> None:
    name = host_name(text(data))
    if name is not None:
        assert name == name.lower()
        assert host_name(name) == name
        label_of(name, ("localhost", "example.org"))


@target(b"shop.example.org", b"1.2.3.4", b"xn--nxasmq6b.example", "bücher.example".encode(), b"a" * 64 + b".b")
def domains(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert clean_domain(text(data)).isascii()
        assert clean_domain(clean_domain(text(data))) == clean_domain(text(data))


@target(b'{"type":"resize","cols":80,"rows":24}', b'{"type":"resize","cols":-1,"rows":1e9}', b"{}")
def terminal_frames(data: bytes) -> None:
    sizes: list[tuple[int, int]] = []

    class Terminal:
        def resize(self, columns: int, rows: int) -> None:
            sizes.append((columns, rows))

    control_terminal(Terminal(), text(data))
    assert all(type(columns) is int and type(rows) is int for columns, rows in sizes)


# What comes from tenants, and from their sandboxes


def _tar(*, zstd: bool = False, name: str = "a/b") -> bytes:
    import io
    import tarfile

    import zstandard

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    return zstandard.compress(file.getvalue()) if zstd else file.getvalue()[:2048]


@target(_tar(), _tar(zstd=True), _tar(name="../x"), b"")
def archives(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(InvalidArchiveError):
            archive_check.examine(Path(file.name), 1 << 20)


@target(b"rf 3 644 /tmp/artifacts/a\0rd 0 755 /tmp/artifacts\0\0", b"-l 1 777 /tmp/artifacts/b\0\0")
def artifact_listings(data: bytes) -> None:
    selection = Selection(Limits())
    for entry in files.select(data, "/tmp/artifacts", ["/work/main"], selection):
        assert entry.path == "/work/main" or entry.path.startswith("/tmp/artifacts/")
        assert 0 <= entry.size <= Limits().artifact_bytes
    files.take_archive(data, [files.Entry("a/b", 0o644, 3, True)], selection)
    assert all("/" not in artifact.filename for artifact in selection.artifacts)


@target(b"D\0\0\0\1\0\0\0\2hi", b"R\0\0\0\0\0\0\0\0", b"C\0\0\0\1\0\0\0\3-99")
def agent_messages(data: bytes) -> None:
    async def feed() -> None:
        (our_in, far_out), (far_in, our_out) = os.pipe(), os.pipe()
        broken: list[str] = []
        channel = Channel(our_out, our_in, broken.append)
        answer = channel.expect(b"R", 0)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        os.write(far_out, data[:60_000])
        os.close(far_out)
        async with asyncio.timeout(10):
            while not broken:
                await asyncio.sleep(0)
        channel.close()
        os.close(far_in)

    asyncio.run(feed())


@target("é".encode()[:1], b"abc", "€".encode(), b"\xf0\x9f")
def output(data: bytes) -> None:
    for total in (len(data), len(data) + 9):
        shown, exact, dropped = text_of(Captured(data, total))
        shown.encode()
        kept = models.exact_bytes(shown, exact)
        assert data.startswith(kept)
        assert len(kept) + dropped == total


@target(b'class A { String s = """x\\"""; /* } */ }', b"package a.b; public class B { public static void main(String[] a) {} }",
        b'// "\n\'\\\'\' interface I {}')  # fmt: skip
def java_programs(data: bytes) -> None:
    steps = java_steps(Steps("Main.java", None, ["java", "{src}"]), text(data))
    assert steps.source.endswith(".java")
    assert steps.code is None or len(steps.code) == len(text(data))


_MARKER = b"\x1e" + b"0a" * 12


@target(
    b"out" + _MARKER + b" 0\x1enext", _MARKER, b"\x1e" + _MARKER + b" 77\x1e" + _MARKER, _MARKER + b" x\x1e"
)
def shell_output(data: bytes) -> None:
    output = MarkedOutput()
    output.expect(_MARKER)
    for start in range(0, len(data), 4096):
        if not output.done:
            output.feed(data[start : start + 4096])
    kept, code, waiting = output.take().data, output.code, output.unread_bytes
    assert data.startswith(kept)
    assert (code is None) == (re.search(_MARKER + rb"[^\x1e]{0,11}\x1e", data) is None)
    assert code is not None or waiting == 0


@target(_tar(), _tar(name="/tmp/artifacts/a"), b"\0" * 1024)
def packed_artifacts(data: bytes) -> None:
    selection = Selection(Limits())
    wanted = [files.Entry("/tmp/artifacts/a", 0o100644, 3, True), files.Entry("link", 0o100644, 9, True)]
    files.take_archive(data, wanted, selection)
    assert all(len(artifact.data) <= 9 for artifact in selection.artifacts)


@target(b"plain\n", b"\x01\x1b[31m", b"\xff\xfe", "\u2028\ud7ff".encode())
def job_answers(data: bytes) -> None:
    captured = Captured(data, len(data))
    record = JobRecord(owner="a", spec=None, language="c", network_mode="zerotrust")
    job = result_of(record, Outcome(EndReason.EXITED, 0, captured, captured, 1.0), Limits())
    answer = codec.response_from_wire(codec.loads_object(codec.encode(job)), models.Job)
    assert data.startswith(answer.stdout_bytes)
    for event in (job, ("stdout", data, Cursor(len(data), 0))):
        assert b"".join(asyncio.run(_event_pieces(event))).endswith(b"\n\n")


# What visitors and services say


@target(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n", b"GET / HTTP/1.1\nhost:\t[::1]:80 \n\n", b"\nHost:")
def first_requests(data: bytes) -> None:
    host = host_of(data)
    assert host is None or "\n" not in host
    # More bytes change nothing once it is known.
    assert host is None or host_of(data + b"\r\nHost: b\r\n\r\n") == host


_HELLO = bytes.fromhex(
    "160301004c0100004803030000000000000000000000000000000000000000000000000000000000000000000002130101000"
    "01d00000010000e00000b612e6c6f63616c686f73740010000500030268320a"
)


@target(_HELLO, _HELLO[:40], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\0\0")
def tls_hellos(data: bytes) -> None:
    name = server_name_of(data)
    assert name is None or len(name) <= len(data)


@target(*(channel.encode(message) for message in (
    channel.Ask(1, "a.localhost"), channel.Answer(1, "service_frozen", "service_1", 80, True), channel.Visitor(),
    channel.Forget(2), channel.Log(20, "text"), channel.Ping(), channel.Stop())))  # fmt: skip
def ingress_messages(data: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        message = channel.decode(data)
        assert channel.decode(channel.encode(message)) == message


@target(
    b'{"kind":"ready","cgroup_version":2,"cgroup_parents":{},"freezer":"v2"}', b'{"kind":"kill","job":1}', b"[]"
)
def launcher_messages(data: bytes) -> None:
    with contextlib.suppress(messages.MessageError):
        message = messages.decode(data)
        assert messages.decode(messages.encode(message)) == message


@target(b"a.example,b.example", b"a.example," * 200, b"xn--a,\xc3\xbc.example", b",")
def domain_lists(data: bytes) -> None:
    names = ServiceNames(cast("Any", ()), ("localhost",))
    with contextlib.suppress(RequestError):
        found = names.clean_domains(text(data).split(","))
        assert len(found) == len(set(found)) <= MAX_DOMAINS


# What the machine says


@target(b"25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\xff0::/user.slice\n",
        b"26 20 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\xff4:cpu,cpuacct:/x\n")  # fmt: skip
def control_group_tables(data: bytes) -> None:
    # Of what the kernel writes, any field may be anything, but all fields are there.
    mounts, own = (half.decode("utf-8", "replace") for half in halves(data))
    lines = [line for line in mounts.split("\n") if re.fullmatch(r"((?!- )[^ ]+ ){6}- [^ ]+ [^ ]+ [^ ]+", line)]
    with contextlib.suppress(ValueError, OSError):
        groups.find_bases("\n".join(lines), "\n".join(line for line in own.split("\n") if line.count(":") >= 2))


@target(
    b"\x10\0\0\0\x18\0\0\0\1\0\0\0\0\0\0\0",
    b"\0" * 16,
    b"\x1c\0\0\0\x18\0\2\0\1\0\0\0\0\0\0\0\2\x18\0\0\xfe\3\0\1\0\0\0\0",
)
def route_messages(data: bytes) -> None:
    for _kind, _sequence, body in netlink.split(data):
        with contextlib.suppress(ValueError, ArithmeticError, LookupError):
            netlink.parse_route(body)


@target(b'{"seq":1,"mac":"00"}\n', b"[]\n", b'{"mac":1}\n')
def audit_lines(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "audit-000001.jsonl").write_bytes(data)
        verdict = audit.verify(folder, b"key")
        # Nobody without the key writes a line that holds.
        assert verdict.lines == 0
        list(audit.read(folder))
