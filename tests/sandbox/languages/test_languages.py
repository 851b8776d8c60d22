"""The table, its lookups, and every language that is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
from tests.support import OPTIONAL, REPO

from unsandbox.sandbox import InvalidSpecError, Limits, UnknownLanguageError, load_languages
from unsandbox.sandbox.languages.shells import find_shell
from unsandbox.sandbox.languages.starters import STARTERS
from unsandbox.sandbox.languages.steps import Steps
from unsandbox.sandbox.languages.table import Language, LanguageTable

MIB = 1 << 20
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
    assert outcome.stdout.data == b"a.txt:A\nb.txt:B\nc.txt:C\nx/y/d.txt:D\nx\\e.txt:E\n"


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
    "two public classes": "public class A { int x = 1; }\npublic class M { public static void main(String[] a) "
    "{ System.out.println(new A().x); } }",
    "a class looked for by name": "class M { public static void main(String[] a) throws Exception { System.out.println("
    'Thread.currentThread().getContextClassLoader().loadClass("M").getSimpleName().length()); } }',
    "package": 'package a.b; record R(int x) {} public class M { String s = "class X { static void main("; '
    "/* class Y */ public static void main(String[] a) { System.out.println(new R(1).x()); } }",
}


@needs("java")
@pytest.mark.parametrize(
    "code",
    # Each compiles for a second.
    [
        pytest.param(code, id=name, marks=[pytest.mark.slow] * (name not in {"two public classes", "package"}))
        for name, code in JAVA.items()
    ],
)
async def test_java_whatever_the_order_and_names_of_classes(backend, code):
    outcome = await run_program(backend, "java", code)
    assert outcome.stdout.data == b"1\n", outcome.stderr.data


def started(name, code):
    language = TABLE[name]
    return STARTERS[language.starter](Steps(language.source, language.compile, language.run), code)


def test_how_java_is_started():
    launcher = Steps("Main.java", None, TABLE["java"].run)
    assert started("java", JAVA["first class"]) == launcher
    assert started("java", "no java at all {{{") == launcher
    assert started("java", JAVA["package"]).source == "M.java"
    assert started("java", JAVA["package"]).run[-1] == "a.b.M"
    assert (
        started("java", "class A { class Inner { } static void main(String[] a) {} } class B { }").compile
        is None
    )


def test_what_the_compiler_says_of_java_stays_in_its_place():
    code = JAVA["two public classes"]
    text = started("java", code).code
    assert [len(line) for line in text.split("\n")] == [len(line) for line in code.split("\n")]
    assert "public class M" in text
    assert "public class A" not in text


STARTED = {
    "haskell, another module": ("haskell", "{- module No -}\nmodule Demo.App where\nmain = putStrLn \"1\""),
    "haskell, exports": ("haskell", "module Main (main) where\nmain = putStrLn \"1\""),
    "erlang without #!": ("erlang", "main(_) ->\n    io:format(\"1~n\")."),
    "erlang, a module": ("erlang", "%% c\n-module(x).\n-export([main/1]).\nmain(_) -> io:format(\"1~n\")."),
    "ada, another unit": ("ada", "with Ada.Text_IO;\nprocedure Hello is\nbegin Ada.Text_IO.Put_Line (\"1\"); end Hello;"),
    "ada, several units": (
        "ada",
        ("package P is\n  procedure Hi;\nend P;\nwith Ada.Text_IO;\npackage body P is\n  procedure Hi is\n  begin\n"
        "    Ada.Text_IO.Put_Line (\"1\");\n  end Hi;\nend P;\nwith P;\nprocedure Main_Unit is\nbegin\n  P.Hi;\nend Main_Unit;"),
    ),
    "kotlin, a package": ("kotlin", "package demo.app\n\nfun main() { println(1) }"),
    "kotlin, a name for the file": ("kotlin", '@file:JvmName("Foo")\npackage a\nfun main(args: Array<String>) { println(1) }'),
    "kotlin, main in an object": ("kotlin", "object App {\n  @JvmStatic\n  fun main(args: Array<String>) { println(1) }\n}"),
    "kotlin, a script": ("kotlin", "val x = 1\nprintln(x)"),
    "scala, a package": ("scala", "package demo\nobject Start extends App { println(1) }"),
    "scala, packages in braces": (
        "scala",
        ("package a.b {\n  // object No { def main(\n  class C\n  object Helper { def one = 1 }\n}\npackage a.b {\n"
        "  object Run {\n    def main(args: Array[String]): Unit = { println(Helper.one) }\n  }\n}"),
    ),
    "sh": ("bash", "#!/bin/sh -e\necho 'a\\tb' | wc -w | tr 2 1"),
    "typescript, main module": ("typescript", "function main() { console.log(1) }\nif (require.main === module) main()"),
    "typescript, names of CommonJS": (
        "typescript",
        ("import fs = require('fs');\nexports.a = 1;\nconst here = fs.existsSync(__filename) && __dirname === '/work';\n"
        "console.log(here && require.main!.filename === __filename ? await Promise.resolve(1) : module.exports)"),
    ),
    "typescript, names of its own": (
        "typescript",
        ("import { createRequire } from 'node:module';\nimport { fileURLToPath } from 'node:url';\n"
        "const require = createRequire(import.meta.url), __filename = fileURLToPath(import.meta.url);\n"
        "console.log(typeof require('fs').readFileSync === 'function' && process.argv[1] === __filename ? 1 : 0)"),
    ),
    "typescript, export =": ("typescript", "class A {}\nexport = A;\nconsole.log(1)"),
    "c, extensions of gnu17": ("c", "#include <stdio.h>\nint main(void) { typeof(1) x = 1; printf(\"%d\\n\", ({ x; })); }"),
    "cpp, extensions of gnu++17": ("cpp", "#include <cstdio>\nint main(int n, char **) { int a[n]; a[0] = 1; printf(\"%d\\n\", a[0]); }"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "code"), STARTED.values(), ids=STARTED)
async def test_programs_as_they_are_written(backend, name, code):
    if not TABLE[name].installed():
        # The others are installed by `make test-languages` alone.
        pytest.skip(f"{name} is not installed" if TABLE[name].tier != "more" else f"{OPTIONAL}: {name}")
    outcome = await run_program(backend, name, code)
    assert (outcome.stdout.data, outcome.exit_code) == (b"1\n", 0), outcome.stderr.data


BROKEN = {
    "erlang": ("erlang", "main(_) ->\n  ok,\n  X = .", "main.erl:3"),
    "an erlang module": ("erlang", "-module(x).\n-export([main/1]).\nmain(_) ->\n  X = .", "main.erl:4"),
    "a go library": (
        "go",
        "// package main\npackage tool\nfunc main() {}",
        "package tool is not a main package",
    ),
}


@pytest.mark.parametrize(("name", "code", "said"), BROKEN.values(), ids=BROKEN)
async def test_a_starter_keeps_line_numbers_and_says_what_is_wrong(backend, name, code, said):
    if not TABLE[name].installed():
        pytest.skip(f"{name} is not installed")
    outcome = await run_program(backend, name, code)
    assert said in outcome.stderr.data.decode()
    assert outcome.exit_code != 0


LIMITED = {
    "java": "class M { public static void main(String[] a) { System.out.println(Runtime.getRuntime().maxMemory() >> 20); "
    "System.out.println(Runtime.getRuntime().availableProcessors()); } }",
    "javascript": "console.log(require('v8').getHeapStatistics().heap_size_limit >> 20); console.log(2)",
    "typescript": "import v8 from 'v8'; console.log(v8.getHeapStatistics().heap_size_limit >> 20); console.log(2)",
}


@pytest.mark.parametrize("name", LIMITED)
async def test_runtimes_know_the_limits(backend, name):
    if not TABLE[name].installed():
        pytest.skip(f"{name} is not installed")
    limits = Limits(wall_s=60, memory_bytes=800 * MIB, vcpu=2)
    outcome = await run_program(backend, name, LIMITED[name], limits=limits)
    heap_mib, cpus = map(int, outcome.stdout.data.split())
    assert 500 < heap_mib < 700
    assert cpus == 2


async def test_arguments_of_compilers(backend):
    code = '#include <stdio.h>\nint main(void) { printf("%d %ld\\n", N, __STDC_VERSION__); }'
    outcome = await run_program(backend, "c", code, compiler_args=["-DN=7", "-std=c99"])
    assert outcome.stdout.data == b"7 199901\n", outcome.stderr.data
    with pytest.raises(InvalidSpecError, match="compiler_args: programs in perl are not compiled"):
        TABLE["perl"].build_spec("", compiler_args=["-O2"])


async def test_python_copies_bytes_that_are_no_utf8(backend):
    code = "import sys; sys.stdout.write(sys.stdin.read())"
    outcome = await run_program(backend, "python", code, stdin=b"caf\xe9\n")
    assert outcome.stdout.data == b"caf\xe9\n", outcome.stderr.data


async def test_a_source_with_a_coding_line(backend):
    code = b"# -*- coding: latin-1 -*-\nprint('caf\xe9')\n".decode("utf-8", "surrogateescape")
    outcome = await run_program(backend, "python", code)
    assert outcome.stdout.data == "café\n".encode(), outcome.stderr.data


@needs("javascript")
async def test_output_before_an_exit_is_not_lost(backend):
    """Node does not wait until a pipe has taken what it was given."""
    outcome = await run_program(backend, "javascript", "console.log('x'.repeat(900_000)); process.exit(3)")
    assert (len(outcome.stdout.data), outcome.exit_code) == (900_001, 3)


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


def test_host_packages_knows_each_package_of_the_tables():
    entries = [
        entry
        for name in ("languages.toml", "shells.toml")
        for entry in tomllib.loads((REPO / "src/unsandbox/sandbox/languages" / name).read_text()).values()
    ]
    assert set(packages("--all")) == {package for entry in entries for package in entry.get("packages", ())}
