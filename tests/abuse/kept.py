"""What a server keeps: stored answers and results, its audit log, backups, one-time codes; and how it is started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import sqlite3
import ssl
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pyotp
from tests.abuse.served import Result, Target, add, attack
from tests.support import Serve, eventually, self_signed, signature_headers, un

from unsandbox.engine.accounts.audit import AuditLog, audit_files, audit_key, verify
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.backup.backup import DATABASE, KEY, MANIFEST
from unsandbox.engine.backup.restore import restore_backup
from unsandbox.errors import EngineError

AUDIT, BACKUP, CODES, KEPT, TLS = "audit log", "backups", "one-time codes", "stored answers", "TLS"
MIB = 1 << 20
MAC = "a MAC over each line and the one before"


def declare() -> None:
    """Declare the families."""
    for what, change in CHANGES.items():
        add(f"audit log with {what}", AUDIT, what, MAC, _changed(change))
    for what, spoil in SPOILS.items():
        add(
            f"backup with {what}",
            BACKUP,
            what,
            "everything is verified before anything is made",
            _spoiled(spoil),
        )
    for what, code in CODES_TRIED.items():
        add(f"one-time code: {what}", CODES, what, "six ASCII digits, once, for one call", _code(code))
    for what, data in TO_TLS.items():
        add(f"TLS: {what}", TLS, what, "OpenSSL; a deadline for handshakes", _to_tls(data))


# Audit log

CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a line removed": lambda lines: lines[:2] + lines[3:],
    "two lines exchanged": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a line twice": lambda lines: [*lines[:2], lines[1], *lines[2:]],
    "a member changed": lambda lines: [line.replace(b"event-3", b"event-9") for line in lines],
    "the first line removed": lambda lines: lines[1:],
    "a number changed": lambda lines: [line.replace(b'"seq":3', b'"seq":4') for line in lines],
    "a MAC that is a list": lambda lines: [*lines[:2], b'{"mac":[],"seq":3}\n', *lines[3:]],
    "a line of brackets": lambda lines: [*lines[:2], b"[" * 100_000 + b"\n", *lines[3:]],
    "a number of a million digits": lambda lines: [*lines[:2], b'{"seq":' + b"9" * 1_000_000 + b"}\n"],
    "half a line": lambda lines: [*lines[:3], lines[3][:20] + b"\n"],
}


def _changed(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Target], Result]:
    def go(_: Target) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            log = AuditLog(Path(folder), b"k" * 32)
            log.open()
            for number in range(6):
                log.note(f"event-{number}", owner="me")
            log.close()
            path = audit_files(Path(folder))[0]
            lines = path.read_bytes().splitlines(keepends=True)
            assert not verify(Path(folder), b"k" * 32).problem
            path.write_bytes(b"".join(change(lines)))
            problem = verify(Path(folder), b"k" * 32).problem
        return (None if problem else "not noticed"), problem[:60]

    return go


@attack(AUDIT, "lines removed from the end", "told by a comparison with a MAC that is stored elsewhere")
def audit_log_cut_at_the_end(_: Target) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder), b"k" * 32)
        log.open()
        for number in range(6):
            log.note(f"event-{number}")
        log.close()
        before = verify(Path(folder), b"k" * 32)
        path = audit_files(Path(folder))[0]
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
        after = verify(Path(folder), b"k" * 32)
    noticed = after.problem or (before.lines, before.last_mac) != (after.lines, after.last_mac)
    return (None if noticed else "not noticed"), "another last MAC, fewer lines"


# Backups


def _link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


def _manifest(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / MANIFEST
        manifest = json.loads(path.read_bytes())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return spoil


SPOILS: dict[str, Callable[[Path], object]] = {
    "a byte of the database changed": lambda folder: _flip(folder / DATABASE),
    "another key": lambda folder: (folder / KEY).write_bytes(os.urandom(32)),
    "no key": lambda folder: (folder / KEY).unlink(),
    "a database that is cut": lambda folder: os.truncate(folder / DATABASE, 5000),
    "a link in the database's place": lambda folder: _link(folder / DATABASE, "/etc/passwd"),
    "a description that is no JSON": lambda folder: (folder / MANIFEST).write_bytes(b"{" * 100_000),
    "a description that names a file elsewhere": _manifest(lambda found: found.update(files={"../../etc/passwd": "0" * 64})),
    "a description of another format": _manifest(lambda found: found.update(format=99)),
    "an audit log that is changed": lambda folder: _flip(audit_files(folder)[0]),
    "a link to a file of the machine": lambda folder: (folder / "extra").symlink_to("/etc/shadow"),
    "a folder of the machine": lambda folder: (folder / "sessions-of-others").symlink_to("/etc"),
    "a FIFO": lambda folder: os.mkfifo(folder / "extra"),
}  # fmt: skip


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _backup(target: Target) -> Path:
    """Return a backup of a data folder without disks, made once."""
    if target.backup is None:
        data = target.serve.data.parent / "small"
        un("keys", "create", "--data", str(data))
        log = AuditLog(data, audit_key(SecretBox.from_file(data / KEY)))
        log.open()
        log.note("event", owner="me")
        log.close()
        target.backup = target.serve.data.parent / "backup"
        un("backup", "--data", str(data), str(target.backup))
    return target.backup


def _spoiled(spoil: Callable[[Path], object]) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            copy, made = Path(folder, "backup"), Path(folder, "data")
            shutil.copytree(_backup(target), copy, symlinks=True)
            spoil(copy)
            try:
                restore_backup(copy, made)
            except EngineError as error:
                return ("left behind" if made.exists() else None), str(error)[-60:]
            return "restored", ""

    return go


@attack(BACKUP, "a restore into the data folder of a running server", "an empty folder only")
def restore_into_a_running_server(target: Target) -> Result:
    done = un("restore", "--data", str(target.serve.data), str(_backup(target)), check=False)
    return (None if done.returncode and target.well() else "restored"), done.stderr.strip()[-60:]


@attack(BACKUP, "a second server on the same data folder", "a lock")
def two_servers_on_one_folder(target: Target) -> Result:
    done = un("serve", "--port", "0", "--data", str(target.serve.data), check=False)
    return (None if done.returncode and target.well() else "started"), done.stderr.strip()[-60:]


@attack(BACKUP, "a data folder that is reached by a link, by a second server", "the same lock")
def two_servers_by_a_link(target: Target) -> Result:
    link = Path(target.serve.data.parent, "link")
    link.symlink_to(target.serve.data)
    done = un("serve", "--port", "0", "--data", str(link), check=False)
    return (None if done.returncode and target.well() else "started"), done.stderr.strip()[-60:]


# One-time codes

CODES_TRIED: dict[str, Callable[[str], str]] = {
    "none": lambda _: "",
    "of ten minutes ago": lambda secret: pyotp.TOTP(secret).at(int(time.time()) - 600),
    "of ten minutes from now": lambda secret: pyotp.TOTP(secret).at(int(time.time()) + 600),
    "of another secret": lambda _: pyotp.TOTP(pyotp.random_base32()).now(),
    "in other digits": lambda secret: (
        pyotp.TOTP(secret).now().translate({ord(str(n)): 0xFF10 + n for n in range(10)})
    ),
    "with spaces inside": lambda secret: " ".join(pyotp.TOTP(secret).now()),
    "of a million digits": lambda _: "1" * 7000,
}


def _locked(target: Target) -> tuple[tuple[str, str], str]:
    """Return a key with one-time codes, and its secret."""
    if target.with_codes is None:
        made = json.loads(un("keys", "create", "--data", str(target.serve.data), "--otp", "--json").stdout)
        secret = next(str(value) for name, value in made.items() if "otp" in name and "uri" not in name)
        target.with_codes = (made["public_key"], made["secret_key"]), secret
    return target.with_codes


def _sudo(target: Target, path: str, code: str, challenge: str = "") -> tuple[int, str]:
    keys, _ = _locked(target)
    headers = signature_headers(*keys, "DELETE", path, b"")
    headers |= {"X-Sudo-OTP": code.encode().decode("latin-1")} if code else {}
    headers |= {"X-Sudo-Challenge": challenge} if challenge else {}
    with contextlib.closing(http.client.HTTPConnection(*target.address, timeout=20)) as connection:
        connection.request("DELETE", path, headers=headers)
        answer = connection.getresponse()
        members = json.loads(answer.read())
        return answer.status, str(members.get("challenge_id", ""))


def _code(make: Callable[[str], str]) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        _, secret = _locked(target)
        path = "/services/unsb-service-none"
        _, challenge = _sudo(target, path, "")
        status, _ = _sudo(target, path, make(secret), challenge)
        return (None if status in (428, 429, 400, 431) else f"status {status}"), f"status {status}"

    return go


@attack(CODES, "the challenge of one call for another", "a challenge is bound to method and path")
def challenge_of_another_call(target: Target) -> Result:
    _, secret = _locked(target)
    _, challenge = _sudo(target, "/services/unsb-service-a", "")
    status, _ = _sudo(target, "/services/unsb-service-b", pyotp.TOTP(secret).now(), challenge)
    return (None if status in (428, 429) else f"status {status}"), f"status {status}"


@attack(CODES, "two hundred guesses, from ten connections at once", "ten wrong codes in 15 minutes, then none")
def guessed_codes(target: Target) -> Result:
    target.with_codes = None
    _locked(target)  # Before the threads, so that they share it.
    seen: list[int] = []

    def guess() -> None:
        for number in range(20):
            _, challenge = _sudo(target, "/services/unsb-service-none", "")
            seen.append(_sudo(target, "/services/unsb-service-none", f"{number:06d}", challenge)[0])

    threads = [threading.Thread(target=guess) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    # The key is locked now; the other attacks take another one.
    target.with_codes = None
    counted = seen.count(428)
    return (
        None if set(seen) <= {428, 429} and counted <= 12 else f"{counted} tried, {set(seen)}"
    ), f"{counted} tried"


# Stored answers


@attack(
    KEPT, "results of commands in services that are deleted, again and again", "results count towards their key"
)
def answers_of_deleted_services(target: Target) -> Result:
    made = json.loads(
        un("keys", "create", "--data", str(target.serve.data), "--results", "10", "--json").stdout
    )
    keys = made["public_key"], made["secret_key"]
    for number in range(3):
        body = {"name": f"gone-{number}", "bootstrap": "sleep 900", "network": "zerotrust"}
        status, service = target.serve.call(keys, "POST", "/services", body)
        assert status == 200, service
        path = f"/services/{service['service_id']}/execute"
        for _ in range(2):
            target.serve.call(keys, "POST", path, {"command": "head -c 3000000 /dev/zero | base64"})
        target.serve.call(keys, "DELETE", f"/services/{service['service_id']}")
    query = "SELECT coalesce(sum(length(result)), 0) FROM jobs WHERE owner = ?"

    def kept() -> int:
        with contextlib.closing(
            sqlite3.connect(f"file:{target.serve.data}/{DATABASE}?mode=ro", uri=True)
        ) as db:
            return int(db.execute(query, keys[:1]).fetchone()[0])

    # The last one may be stored when it has been answered.
    with contextlib.suppress(AssertionError):
        eventually(lambda: 0 < kept() <= 10 * MIB, 20)
    return (f"{kept() >> 20} MiB are kept" if kept() > 10 * MIB else None), f"{kept() >> 20} MiB of 48 are kept"


@attack(KEPT, "one stored result of 40 MiB, asked for by ten at once", "read in pieces, two at a time")
def large_result_for_many(target: Target) -> Result:
    code = "import sys\nfor f in (sys.stdout, sys.stderr): f.buffer.write(b'\\x01\\xff' * (5 << 20)); f.flush()"
    _, job = target.call("POST", "/execute/async", {"language": "python", "code": code})
    path = f"/jobs/{job['job_id']}"
    for _ in range(200):
        if target.call("GET", path)[1].get("status") not in ("pending", "running"):
            break
        time.sleep(0.1)
    before, worst = target.memory(), 0.0
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(target.connect())
            sock.sendall(target.signed("GET", path, b""))
        for _ in range(20):
            began = time.monotonic()
            target.call("GET", "/health")
            worst = max(worst, time.monotonic() - began)
        grown = target.memory() - before
    told = f"{grown >> 20} MiB, health within {worst * 1000:.0f} ms"
    return (told if grown > 250 * MIB or worst > 5 else None), told


@attack(KEPT, "one Idempotency-Key for two requests; ten thousand of 250 letters", "8 MiB for a key")
def idempotency_keys(target: Target) -> Result:
    def create(key: str, name: str) -> int:
        body = json.dumps({"name": name}).encode()
        return target.status(target.signed("POST", "/snapshots", body, f"Idempotency-Key: {key}\r\n"))

    before = target.memory()
    seen = {create(f"{'k' * 240}{number}", "x") for number in range(300)}
    grown = target.memory() - before
    return (f"{grown} bytes, {seen}" if grown > 20 * MIB else None), f"status {seen}, {grown >> 10} KiB"


@attack(KEPT, "more services than a key may have", "a hundred services, and its disk")
def hundreds_of_services(target: Target) -> Result:
    made = json.loads(
        un("keys", "create", "--data", str(target.serve.data), "--services", "3", "--json").stdout
    )
    keys, seen = (made["public_key"], made["secret_key"]), []
    for number in range(8):
        body = {"name": f"many-{number}", "bootstrap": "sleep 900", "network": "zerotrust"}
        seen.append(target.serve.call(keys, "POST", "/services", body)[0])
    for service in target.serve.call(keys, "GET", "/services")[1]["services"]:
        target.serve.call(keys, "DELETE", f"/services/{service['service_id']}")
    return (None if seen.count(200) == 3 and set(seen) == {200, 429} else f"{seen}"), "the fourth is refused"


# TLS

TO_TLS = {
    "plain HTTP": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a record of 64 KiB that never ends": b"\x16\x03\x01\xff\xff" + b"\x01" * 60_000,
    "a server name of 60 KiB": b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(32) + b"\0\0\x02\x13\x01\x01\0\x3f\xd0\0\0\x3f\xcc\x3f\xca\0\x3f\xc7" + b"a" * 16_327,
    "alerts without end": b"\x15\x03\x03\x00\x02\x01\x00" * 20_000,
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    "garbage": bytes(range(256)) * 100,
}  # fmt: skip


def _tls(target: Target) -> Serve:
    """Start a server with TLS once."""
    if target.tls is None:
        folder = Path(target.serve.data.parent, "tls")
        folder.mkdir()
        certificate, key = self_signed(folder)
        target.tls = Serve(folder / "data", "--tls-cert", certificate, "--tls-key", key, "--log-level", "error")
        target.on_close.append(target.tls.kill)
    return target.tls


def _tls_health(serve: Serve, **limits: object) -> float:
    """Ask for its health; return the seconds that took."""
    place, context = urlsplit(serve.url), ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if limits:
        context.set_ciphers("ALL:@SECLEVEL=0")
    for name, value in limits.items():
        setattr(context, name, value)
    began = time.monotonic()
    connection = http.client.HTTPSConnection(str(place.hostname), place.port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
    return time.monotonic() - began


def _to_tls(data: bytes) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        serve = _tls(target)
        place = urlsplit(serve.url)
        pid = serve.process.pid
        before = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        with contextlib.ExitStack() as stack:
            answers = []
            for _ in range(100):
                sock = stack.enter_context(socket.create_connection((place.hostname, place.port), 20))
                with contextlib.suppress(OSError):
                    sock.sendall(data)
            sock.settimeout(1)
            with contextlib.suppress(OSError):
                answers.append(sock.recv(100))
            took = _tls_health(serve)
        grown = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) - before) * 4096
        told = f"{(answers or [b''])[0][:12]!r}, health in {took * 1000:.0f} ms, {grown >> 20} MiB"
        broken = grown > 40 * MIB or took > 10 or b"200 OK" in b"".join(answers)
        return (told if broken else None), told

    return go


@attack(TLS, "TLS 1.1 and older", "TLS 1.2 at least")
def old_versions_of_tls(target: Target) -> Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of them as well.
            old = {"minimum_version": ssl.TLSVersion.TLSv1, "maximum_version": ssl.TLSVersion.TLSv1_1}
            _tls_health(_tls(target), **old)
    except (OSError, ValueError) as error:
        return None, str(error)[:60]
    return "taken", ""
