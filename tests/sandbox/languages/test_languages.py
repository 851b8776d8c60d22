"""The table, its lookups, and every language that is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
from tests.support import REPO

from unsandbox.sandbox import InvalidSpecError, Limits, UnknownLanguageError, load_languages
from unsandbox.sandbox.languages.java import java_steps
from unsandbox.sandbox.languages.shells import find_shell
from unsandbox.sandbox.languages.table import Language, LanguageTable

TABLE = load_languages()
AVAILABLE = [language.name for language in TABLE.available()]
WIRE_NAMES = {
    "python",
    "javascript",
    "typescript",
    "ruby",
    "php",
    "perl",
    "bash",
    "r",
    "lua",
    "go",
    "rust",
    "c",
    "cpp",
    "java",
    "kotlin",
    "objc",
    "csharp",
    "fsharp",
    "dotnet",
    "haskell",
    "ocaml",
    "clojure",
    "scheme",
    "erlang",
    "elixir",
    "julia",
    "d",
    "nim",
    "zig",
    "v",
    "crystal",
    "dart",
    "groovy",
    "fortran",
    "commonlisp",
    "cobol",
    "tcl",
    "raku",
    "prolog",
    "forth",
    "awk",
    "powershell",
    "deno",
    "swift",
    "scala",
    "racket",
}
SCRIPT = REPO / "scripts" / "host-packages"


async def run_program(backend, name, code, **fields):
    fields.setdefault("limits", Limits(wall_s=60))
    spec = TABLE.resolve(name).build_spec(code, **fields)
    return await (await backend.start(spec)).wait()


def test_the_languages_that_must_be_there():
    expected = {"python", "javascript", "typescript", "bash", "perl", "ruby", "php", "lua", "tcl", "awk", "c", "cpp",
                "rust", "java", "go", "fortran"}  # fmt: skip
    assert expected <= {name for name in TABLE if TABLE[name].tier in ("minimal", "core")}
    assert set(TABLE) >= WIRE_NAMES
    for language in TABLE.values():
        assert language.how_to_get(), language.name
    assert not set(TABLE.aliases()) & set(TABLE)


@pytest.mark.parametrize(
    ("given", "name"),
    [("python", "python"), ("Python3", "python"), (" JS ", "javascript"), ("c++", "cpp"), ("sh", "bash")],
)
def test_resolve(given, name):
    assert TABLE.resolve(given).name == name


@pytest.mark.parametrize(
    ("given", "first"), [("pyhton", "python"), ("javascrpt", "javascript"), ("pearl", "perl"), ("bsh", "bash")]
)
def test_unknown_languages_are_answered_with_the_closest(given, first):
    with pytest.raises(UnknownLanguageError, match=given) as caught:
        TABLE.resolve(given)
    assert caught.value.suggestions[0] == first
    assert first in str(caught.value)
    assert not caught.value.known


@pytest.mark.parametrize("given", ["", "\0", "x" * 100_000, "\udc80", "qqqqqqqqqq"])
def test_nonsense_has_no_closest(given):
    with pytest.raises(UnknownLanguageError) as caught:
        TABLE.resolve(given)
    assert caught.value.suggestions == ()


def test_a_language_without_its_toolchain_says_how_to_get_it():
    fields = {"source": "m.x", "run": ["x"], "tier": "more", "version": ["x"], "hello": ""}
    table = LanguageTable(
        [Language("exotic", executable="exotic-not-here", packages=["exotic-lang"], **fields)]
    )
    assert table.available() == []
    with pytest.raises(UnknownLanguageError, match="apt-get install exotic-lang") as caught:
        table.resolve("exotic")
    assert caught.value.known


def test_each_repl_stands_in_one_table():
    shells = tomllib.loads((REPO / "src/unsandbox/sandbox/languages/shells.toml").read_text())
    named = {name for shell, entry in shells.items() for name in (shell, *entry.get("aliases", ()))}
    assert not named & {name for name, language in TABLE.items() if language.repl}
    assert find_shell("sqlite").terminal_argv == ("sqlite3",)
    assert find_shell("js").driver == "other"


def test_two_languages_cannot_share_a_name():
    fields = {
        "source": "m",
        "run": ["x"],
        "executable": "x",
        "packages": [],
        "tier": "more",
        "version": [],
        "hello": "",
    }
    with pytest.raises(ValueError, match="means both"):
        LanguageTable([Language("a", **fields), Language("b", aliases=["a"], **fields)])


@pytest.mark.parametrize("text", ["[x]\nsource = 'x'", "[x]\nnonsense = 1", ("[x]\nsource='a'\nrun=['a']\nexecutable='a'\n"
                                  "packages=[]\ntier='more'\nversion=[]\nhello=''\ncompile=['cc']")])  # fmt: skip
def test_a_broken_table_is_refused(tmp_path, text):
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(ValueError, match=r"languages\.toml: x"):
        load_languages(tmp_path / "t.toml")


# Programs as jobs


async def test_code_with_bytes_that_are_no_text(backend):
    raw = b'print("caf\xe9".encode("latin-1"))'
    for code in (raw, raw.decode("utf-8", "surrogateescape")):
        outcome = await run_program(
            backend, "python", b"# coding: latin-1\n" + raw if code is raw else "# coding: latin-1\n" + code
        )
        assert outcome.stdout.data == b"b'caf\\xe9'\n"


def test_lone_surrogates_are_refused():
    with pytest.raises(InvalidSpecError, match="surrogate"):
        TABLE["python"].build_spec("print('\ud800')")


async def test_input_files_by_name(backend):
    files = {
        "a.txt": b"A",
        "../../etc/b.txt": b"B",
        "C:\\dir\\c.txt": b"C",
        "x/y/d.txt": b"D",
        "x\\e.txt": b"E",
    }
    outcome = await run_program(backend, "bash", "cd /tmp/input; grep -r . * | sort", input_files=files)
    assert outcome.stdout.data == b"a.txt:A\nb.txt:B\nc.txt:C\nx/e.txt:E\nx/y/d.txt:D\n"


@pytest.mark.parametrize(
    "files",
    [{"": b""}, {"..": b""}, {"a/": b"", "a": b""}, {"/x/a": b"", "y/../a": b""}, {"a\0": b""}, {"/": b""}],
)
def test_input_files_that_are_refused(files):
    with pytest.raises(InvalidSpecError):
        TABLE["bash"].build_spec("", input_files=files)


async def test_environment_of_the_language_and_of_the_caller(backend):
    code = "import os; print(os.environ['PYTHONUNBUFFERED'], os.environ['X'])"
    outcome = await run_program(backend, "python", code, env={"PYTHONUNBUFFERED": "2", "X": "y"})
    assert outcome.stdout.data == b"2 y\n"


async def test_artifact_folder_is_there_without_asking(backend):
    outcome = await run_program(backend, "bash", "echo x > /tmp/artifacts/x && pwd")
    assert (outcome.stdout.data, outcome.artifacts) == (b"/work\n", ())


async def test_compile_errors_and_exit_codes(backend):
    outcome = await run_program(backend, "c", "int main() { return 1 +; }")
    assert outcome.compile_failed
    assert b"main.c" in outcome.stderr.data
    outcome = await run_program(backend, "c", "int main() { return 42; }")
    assert (outcome.compile_failed, outcome.exit_code) == (False, 42)
    outcome = await run_program(backend, "c", "int main() { *(volatile int*)0 = 1; }")
    assert (outcome.exit_code, outcome.stderr.data) == (139, b"")


needs = lambda name: pytest.mark.skipif(name not in AVAILABLE, reason=f"{name} is not installed")  # noqa: E731


@needs("typescript")
async def test_typescript_awaits_requires_and_names_its_own_lines(backend):
    code = """import { readFileSync } from "fs";
enum Colour { Red, Green }
interface Named { name: string }
const path = require("path");
const value: number = await Promise.resolve(41);
console.log(value + 1, Colour.Green, path.basename("/a/b"), typeof readFileSync);
function fail(x: Named): never {
  throw new Error(x.name);
}
fail({ name: "boom" });
"""
    outcome = await run_program(backend, "typescript", code)
    assert outcome.stdout.data == b"42 1 b function\n", outcome.stderr.data
    assert b"main.ts:8" in outcome.stderr.data
    assert outcome.exit_code == 1


JAVA = {
    "first class": "class A { public static void main(String[] a) { System.out.println(1); } }",
    "later public class": "class A { int x = 1; }\npublic class B { public static void main(String[] a) "
    "{ System.out.println(new A().x); } }",
    "later, not public": "interface A { }\nfinal class B implements A { static public final void main(final String... a) "
    "{ System.out.println(1); } }",
    "package": 'package a.b; record R(int x) {} public class M { String s = "class X { static void main("; '
    "/* class Y */ public static void main(String[] a) { System.out.println(new R(1).x()); } }",
}


@needs("java")
@pytest.mark.parametrize("code", JAVA.values(), ids=JAVA)
async def test_java_whatever_the_order_and_names_of_classes(backend, code):
    outcome = await run_program(backend, "java", code)
    assert outcome.stdout.data == b"1\n", outcome.stderr.data


def test_java_steps():
    assert java_steps(JAVA["first class"])[:2] == ("Main.java", None)
    assert java_steps("no java at all {{{")[:2] == ("Main.java", None)
    assert java_steps(JAVA["package"])[0] == "M.java"
    assert java_steps(JAVA["package"])[2][-1] == "a.b.M"
    assert java_steps("class A { class Inner { } static void main(String[] a) {} } class B { }")[1] is None


@needs("go")
async def test_go_uses_its_library(backend):
    code = 'package main\nimport ("fmt"; "net/http"; "encoding/json")\nfunc main() { b, _ := json.Marshal(map[string]int{"a": http.StatusOK}); fmt.Println(string(b)) }'
    outcome = await run_program(backend, "go", code)
    assert outcome.stdout.data == b'{"a":200}\n', outcome.stderr.data


@needs("rust")
async def test_rust_panics(backend):
    outcome = await run_program(backend, "rust", 'fn main() { panic!("boom") }')
    assert outcome.exit_code == 101
    assert b"main.rs:1" in outcome.stderr.data


# scripts/host-packages


def packages(*arguments):
    result = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def test_host_packages_prints_what_the_table_says():
    core, minimal, everything = packages(), packages("--minimal"), packages("--all")
    assert set(minimal) < set(core) < set(everything)
    assert set(minimal) == {"python3", "nodejs", "bash", "gcc", "libc6-dev", "perl"}
    assert core == sorted(core)


def test_host_packages_knows_each_package_of_the_table():
    table = tomllib.loads((REPO / "src/unsandbox/sandbox/languages/languages.toml").read_text())
    assert set(packages("--all")) == {package for entry in table.values() for package in entry["packages"]}
