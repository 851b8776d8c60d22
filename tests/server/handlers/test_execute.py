"""`/execute`, `/run` and their variants: what every client of the protocol relies on."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_finished_job_has_every_field_that_clients_read(wire):
    answer = await wire.execute("python", "print(6*7)")
    assert answer.status == 200
    job = answer.json
    assert job["stdout"] == "42\n"
    assert job["stderr"] == ""
    assert job["exit_code"] == 0
    assert job["success"] is True
    assert job["status"] == "completed"
    assert job["language"] == "python"
    assert job["job_id"] == job["id"]
    assert job["total_time_ms"] == job["execution_time"] > 0
    # Rust's client reads a whole number, and wants `output`.
    assert job["execution_time_ms"] == round(job["total_time_ms"])
    assert isinstance(job["execution_time_ms"], int)
    assert job["output"] == job["stdout"]
    assert job["network_mode"] == "zerotrust"
    assert re.fullmatch(r"\d+", job["created_at"])
    assert "error" not in job


async def test_json_is_compact_and_raw_utf8(wire):
    answer = await wire.execute("python", "print('é\"漢\\\\')")
    assert '"stdout":"é\\"漢\\\\\\n"'.encode() in answer.raw
    assert b": " not in answer.raw
    assert b"\\u" not in answer.raw


async def test_a_program_that_fails_is_completed(wire):
    answer = await wire.execute(
        "python", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    )
    job = answer.json
    assert (job["status"], job["exit_code"], job["success"]) == ("completed", 3, False)
    assert (job["stdout"], job["stderr"]) == ("out\n", "err\n")
    assert "error" not in job


async def test_a_program_that_does_not_compile_is_completed_with_the_compilers_words(wire):
    job = (await wire.execute("c", "int main(void) { return x; }")).json
    assert job["status"] == "completed"
    assert job["exit_code"] != 0
    assert "error" in job["stderr"]
    assert job["stdout"] == ""


async def test_ttl_ends_in_status_timeout_with_the_output_so_far(wire):
    job = (await wire.execute("bash", "echo before; trap '' TERM; sleep 60", ttl=1)).json
    assert job["status"] == "timeout"
    assert job["stdout"] == "before\n"
    assert (job["exit_code"], job["success"]) == (124, False)
    assert "ttl" in job["error"]


async def test_both_spellings_of_options_work(wire):
    job = (
        await wire.execute(
            "bash",
            "mkdir -p /tmp/artifacts; echo data > /tmp/artifacts/a.txt",
            network="zerotrust",
            return_artifact=True,
        )
    ).json
    assert job["artifacts"] == [
        {"filename": "a.txt", "content_base64": base64.b64encode(b"data\n").decode(), "size": 5}
    ]


async def test_a_compiled_language_returns_its_binary(wire):
    job = (await wire.execute("c", "int main(void) { return 0; }", return_artifacts=True)).json
    (artifact,) = job["artifacts"]
    assert base64.b64decode(artifact["content_base64"]).startswith(b"\x7fELF")


async def test_empty_artifacts_are_kept(wire):
    job = (
        await wire.execute("bash", "mkdir -p /tmp/artifacts; : > /tmp/artifacts/empty", return_artifacts=True)
    ).json
    assert job["artifacts"] == [{"filename": "empty", "content_base64": "", "size": 0}]
    assert "artifacts_skipped" not in job


async def test_environment_files_and_stdin_reach_the_program(wire):
    files = [
        {"filename": "/home/me/a.txt\n", "content": base64.b64encode(b"A").decode() + "\n"},
        {"filename": "b.txt", "content_base64": base64.b64encode(b"B").decode()},
        {"filename": "c.txt", "content": "not base64!"},
    ]
    code = 'cat /tmp/input/a.txt /tmp/input/b.txt /tmp/input/c.txt; echo; echo "$NAME"; cat'
    job = (await wire.execute("bash", code, env={"NAME": "wörld"}, input_files=files, stdin="in\n")).json
    assert job["stdout"] == "ABnot base64!\nwörld\nin\n"


async def test_standard_input_is_empty_without_one(wire):
    assert (await wire.execute("bash", "cat; echo end")).json["stdout"] == "end\n"


async def test_bytes_that_are_not_text_keep_their_value(wire):
    job = (await wire.execute("python", "import sys; sys.stdout.buffer.write(b'a\\xff\\x00b')")).json
    assert job["stdout"] == "a\ufffd\0b"
    assert base64.b64decode(job["stdout_base64"]) == b"a\xff\0b"
    assert "stderr_base64" not in job


async def test_a_latin1_source_keeps_its_bytes(wire):
    body = b'{"language":"python","code":"# -*- coding: latin-1 -*-\\nprint(ascii(\'\xe9\'))"}'
    answer = await wire.call("POST", "/execute", body)
    assert answer.json["stdout"] == "'\\xe9'\n"


async def test_a_source_with_a_nul_byte_is_run_as_it_is(wire):
    job = (await wire.execute("bash", "tr -cd '\\0' < \"$0\" | wc -c\nexit\n\0")).json
    assert (job["stdout"], job["stderr"]) == ("1\n", "")


async def test_more_output_than_is_kept_is_flagged_and_counted(wire):
    job = (await wire.execute("python", "import sys; sys.stdout.write('é' * 6_000_000)")).json
    assert job["status"] == "completed"
    assert job["exit_code"] == 0
    assert job["stdout_truncated"] is True
    kept = len(job["stdout"].encode())
    assert kept + job["stdout_dropped_bytes"] == 12_000_000
    assert "stdout_base64" not in job
    assert "stderr_truncated" not in job


async def test_a_long_job_is_answered_as_running_and_found_later(wire, serve):
    async with serve(hold_s=0.2) as (quick, _):
        answer = await quick.execute("bash", "sleep 1; echo late")
        assert answer.status == 200
        assert answer.json["status"] in {"pending", "running"}
        job_id = answer.json["job_id"]
        ended = await quick.call("GET", f"/jobs/{job_id}?wait=20")
        assert (ended.json["status"], ended.json["stdout"]) == ("completed", "late\n")


async def test_async_variant_answers_at_once_with_an_id(wire):
    started = (await wire.call("POST", "/execute/async", {"language": "bash", "code": "echo hi"})).json
    assert started["status"] in {"pending", "running"}
    ended = (await wire.call("GET", f"/jobs/{started['job_id']}/wait")).json
    assert ended["stdout"] == "hi\n"


async def test_run_takes_the_source_and_finds_its_language(wire):
    env = "%7B%22A%22%3A%22b%20c%22%7D"
    answer = await wire.call(
        "POST", f"/run?ttl=10&env={env}", b"#!/usr/bin/env python3\nimport os; print(os.environ['A'])\n"
    )
    assert answer.json["stdout"] == "b c\n"
    assert answer.json["detected_language"] == "python"


async def test_run_async_and_run_without_shebang(wire):
    started = (await wire.call("POST", "/run/async", b"#!/bin/sh\necho hi\n")).json
    ended = (await wire.call("GET", f"/jobs/{started['job_id']}/wait")).json
    assert (ended["stdout"], ended["detected_language"]) == ("hi\n", "bash")
    refused = await wire.call("POST", "/run", b"print(1)")
    assert (refused.status, refused.json["error"]) == (400, "missing_language")


@pytest.mark.parametrize(
    ("members", "code", "named"),
    [
        ({"code": "1"}, "missing_language", "python"),
        ({"language": "pyhton", "code": "1"}, "unknown_language", "python"),
        ({"language": "python"}, "invalid_request", "code"),
        ({"language": "python", "code": 5}, "invalid_request", "code"),
        ({"language": "python", "code": "1", "vcpu": 9}, "invalid_request", "vcpu"),
        ({"language": "python", "code": "1", "vcpu": 0}, "invalid_request", "vcpu"),
        ({"language": "python", "code": "1", "ttl": 901}, "invalid_request", "ttl"),
        ({"language": "python", "code": "1", "ttl": "soon"}, "invalid_request", "ttl"),
        ({"language": "python", "code": "1", "network_mode": "open"}, "invalid_request", "network_mode"),
        ({"language": "python", "code": "1", "env": {"A=B": "c"}}, "invalid_request", "env"),
        ({"language": "python", "code": "1", "env": {"A": "\0"}}, "invalid_request", "env"),
        (
            {"language": "python", "code": "1", "env": {f"V{n}": "" for n in range(257)}},
            "invalid_request",
            "256",
        ),
        ({"language": "python", "code": "1", "stdin_base64": "?"}, "invalid_request", "stdin_base64"),
        ({"language": "python", "code": "1", "stdin": "a", "stdin_base64": "YQ=="}, "invalid_request", "stdin"),
        (
            {"language": "python", "code": "1", "input_files": [{"filename": "..", "content": ""}]},
            "invalid_request",
            "name",
        ),
        (
            {
                "language": "python",
                "code": "1",
                "input_files": [{"filename": f, "content": ""} for f in ("/a/x", "../x")],
            },
            "invalid_request",
            "same name",
        ),
        ({"language": "python", "code": "1", "return_wasm_artifact": True}, "invalid_request", "WebAssembly"),
    ],
)
async def test_what_cannot_be_run_is_refused_with_the_reason(wire, members, code, named):
    answer = await wire.call("POST", "/execute", members)
    assert answer.status == 400
    assert answer.json["error"] == code
    assert named in answer.json["message"]


async def test_a_program_larger_than_the_limit_is_refused(wire):
    answer = await wire.execute("python", "#" * (16 << 20) + "##")
    assert (answer.status, answer.json["error"]) == (413, "too_large")


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"language":"python","code":"\\ud800"}', b"[1]", b'"x"'])
async def test_bodies_that_are_no_usable_json_are_refused(wire, body):
    answer = await wire.call("POST", "/execute", body)
    assert answer.status == 400
    assert answer.json["error"] in {"invalid_json", "missing_language"}


async def test_unknown_fields_and_numbers_as_text_are_tolerated(wire):
    answer = await wire.execute("bash", "echo ok", ttl="10", vcpu="1", colour="blue", env=None)
    assert answer.json["stdout"] == "ok\n"


async def test_indented_and_escaped_json_is_verified_as_sent(wire):
    body = json.dumps({"language": "bash", "code": "echo é"}, indent=4, ensure_ascii=True).encode()
    assert (await wire.call("POST", "/execute", body)).json["stdout"] == "é\n"


async def test_two_hundred_identical_programs_in_one_second_are_all_run(wire):
    answers = await asyncio.gather(*(wire.execute("bash", "echo $RANDOM$RANDOM") for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["job_id"] for answer in answers}) == 200
    assert all(answer.json["exit_code"] == 0 for answer in answers)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import sys; print(*sys.argv[1:], sep='|')"),
        ("bash", 'IFS="|"; echo "$*"'),
        ("javascript", "console.log(process.argv.slice(2).join('|'))"),
        ("c", '#include <stdio.h>\nint main(int n, char **a) { printf("%s|%s|%s\\n", a[1], a[2], a[3]); }'),
    ],
)
async def test_a_program_gets_its_arguments(wire, language, code):
    answer = await wire.execute(language, code, args=["a b", "--flag", "ü'\"$x"])
    assert (answer.status, answer.json["stdout"]) == (200, "a b|--flag|ü'\"$x\n")


@pytest.mark.parametrize("args", [["a\0b"], [1], "text", ["x" * 140_000], ["x" * 100_000] * 20])
async def test_arguments_that_no_program_can_have_are_refused(wire, args):
    answer = await wire.execute("bash", "echo", args=args)
    assert answer.status in {400, 413}
    assert "arg" in answer.json["message"]


async def test_a_variable_that_is_too_long_is_named(wire):
    answer = await wire.execute("bash", "echo", env={"LONG_ONE": "x" * 140_000})
    assert answer.status == 400
    assert "LONG_ONE" in answer.json["message"]


async def test_input_files_keep_their_permission_bits(wire):
    files = [
        {"filename": "run me.sh", "content": "echo executed!", "mode": 0o755},
        {"filename": "a", "content": "!"},
    ]
    answer = await wire.execute("bash", "cd /tmp/input; './run me.sh'; stat -c %a *", input_files=files)
    assert answer.json["stdout"] == "executed!\n644\n755\n", answer.json


async def test_a_backslash_in_a_name_is_kept(wire):
    files = [{"filename": "back\\slash.txt", "content": "!"}]
    answer = await wire.execute("bash", "ls /tmp/input", input_files=files)
    assert answer.json["stdout"] == "back\\slash.txt\n"


ENDS = {
    "killed": ("c", "int main(void) { *(volatile int *)0 = 1; }", {}, ("completed", "SIGSEGV", "run")),
    "not compiled": ("c", "int main(void) { return 1 +; }", {}, ("completed", None, "compile")),
    "its own exit code": ("bash", "exit 200", {}, ("completed", None, "run")),
    "a signal of its own": (
        "python",
        "import os; os.kill(os.getpid(), 15)",
        {},
        ("completed", "SIGTERM", "run"),
    ),
    "a fraction of a second": ("bash", "sleep 9", {"ttl": 0.5}, ("timeout", None, "run")),
    "a compiler without end": ("c", '#include "/dev/zero"', {"ttl": 0.5}, ("timeout", None, "compile")),
    "its own memory limit": ("python", "bytearray(200 << 20)", {"memory_mb": 64}, ("failed", None, "run")),
}


@pytest.mark.parametrize(("language", "code", "options", "wanted"), ENDS.values(), ids=ENDS)
async def test_a_job_says_where_and_by_what_it_ended(wire, language, code, options, wanted):
    job = (await wire.execute(language, code, **options)).json
    assert (job["status"], job.get("signal"), job["stage"]) == wanted, job


async def test_arguments_of_a_compiler(wire):
    code = "#include <concepts>\nint main() { return std::integral<int> ? 7 : 1; }"
    assert (await wire.execute("cpp", code, compiler_args=["-std=c++20"])).json["exit_code"] == 7
    answer = await wire.execute("perl", "1", compiler_args=["-O2"])
    assert (answer.status, "compiler_args" in answer.json["message"]) == (400, True)


WARNS = '#include <stdio.h>\nint main(void) { int x; fputs("own", stderr); return 0; }'
ON_BOTH = pytest.mark.parametrize(
    "isolation", ["auto", pytest.param("gvisor", marks=[pytest.mark.gvisor, pytest.mark.slow])]
)


@ON_BOTH
async def test_the_output_of_a_compiler_comes_apart(wire, isolation):
    options = {"compiler_args": ["-Wall"], "isolation": isolation}
    together = (await wire.execute("c", WARNS, **options)).json
    assert "unused variable" in together["stderr"]
    assert together["stderr"].endswith("own")
    assert "compile_output" not in together
    # The second time the program may be there already.
    for _ in range(2):
        job = (await wire.execute("c", WARNS, compile_output=True, **options)).json
        assert (job["stderr"], "unused variable" in job["compile_output"]) == ("own", True), job
    job = (await wire.execute("c", "int main( {", compile_output=True, isolation=isolation)).json
    assert (job["stderr"], "error" in job["compile_output"], job["stage"]) == ("", True, "compile")
    job = (await wire.execute("bash", "echo own >&2", compile_output=True, isolation=isolation)).json
    assert (job["stderr"], job.get("compile_output", "")) == ("own\n", "")


@ON_BOTH
async def test_a_compiler_has_its_own_time_limit(wire, isolation):
    options = {"compile_timeout": 1, "isolation": isolation}
    job = (await wire.execute("c", '#include "/dev/zero"', ttl=60, **options)).json
    assert (job["status"], job["stage"], "compile_timeout" in job["error"]) == ("timeout", "compile", True)
    options["compile_timeout"] = 100
    job = (await wire.execute("c", "int main(void) { for (;;); }", ttl=0.5, **options)).json
    assert (job["status"], job["stage"], "0.5 s" in job["error"]) == ("timeout", "run", True)
    # The time of the compiler is not the program's.
    job = (await wire.execute("cpp", "#include <regex>\nint main() { return 7; }", ttl=0.9, **options)).json
    assert (job["status"], job["exit_code"]) == ("completed", 7)


BUSY = {
    "python": "while True: pass",
    "bash": "while :; do :; done",
    "c": "int main(void) { for (;;); }",
    "children": "for i in 1 2; do (while :; do :; done) & done; wait",
}


@ON_BOTH
@pytest.mark.parametrize("name", BUSY)
async def test_cpu_time_is_limited(wire, name, isolation):
    language = "bash" if name == "children" else name
    job = (await wire.execute(language, BUSY[name], cpu_time=0.4, vcpu=2, ttl=60, isolation=isolation)).json
    assert (job["status"], job["exit_code"], "CPU time" in job["error"]) == ("timeout", 124, True), job
    job = (await wire.execute("bash", "sleep 1; echo slept", cpu_time=0.4, isolation=isolation)).json
    assert (job["status"], job["stdout"]) == ("completed", "slept\n")


async def test_versions_of_a_language(wire):
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = (await wire.execute("python", code)).json["stdout"].strip()
    assert (await wire.execute("python", code, version=version)).json["stdout"].strip() == version
    answer = await wire.execute("python", code, version="3.1")
    assert (answer.status, answer.json["message"]) == (
        400,
        f"version: python 3.1 is not installed; installed is {version}",
    )
    answer = await wire.execute("bash", "echo", version="5")
    assert (answer.status, "leave version out" in answer.json["message"]) == (400, True)


@pytest.mark.parametrize(
    ("name", "value"), [("compile_timeout", 0), ("compile_timeout", 901), ("cpu_time", -1), ("version", 3)]
)
async def test_limits_and_versions_out_of_range_are_refused(wire, name, value):
    answer = await wire.execute("python", "1", **{name: value})
    assert (answer.status, name in answer.json["message"]) == (400, True)


async def test_more_memory_than_there_is_for_a_job_is_refused(wire):
    answer = await wire.execute("bash", "echo", memory_mb=1 << 20)
    assert (answer.status, "memory_mb" in answer.json["message"]) == (400, True)
