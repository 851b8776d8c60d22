"""The languages: reads `languages.toml`, finds those that can run here, and turns programs into jobs."""

from __future__ import annotations

import dataclasses
import difflib
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from unsandbox.protocol.contents import Content
from unsandbox.protocol.names import relative_name
from unsandbox.sandbox.errors import InvalidSpecError
from unsandbox.sandbox.languages.starters import STARTERS
from unsandbox.sandbox.languages.steps import (
    ARGUMENTS,
    COMPILER_ARGUMENTS,
    Steps,
    fill,
    fill_text,
    limit_values,
    renamed,
    with_words,
)
from unsandbox.sandbox.languages.versions import programs_of
from unsandbox.sandbox.layout import INPUT_FOLDER, PREPARED_FOLDERS, WORK, environment_variables
from unsandbox.sandbox.spec import Limits, NetworkMode, SandboxFile, SandboxSpec
from unsandbox.sandbox.system import HOST, System

SAME_NAME = "input_files: two files have the same name; one would overwrite the other"
_CLOSE = 0.7
"""How alike two names must be, of 1; below that a suggestion is a riddle."""
_BELIEVED_S = 10.0


class UnknownLanguageError(LookupError):
    """The language is unknown or cannot run here.

    Attributes:
        language: The requested language.
        suggestions: The closest name that can run here, or empty.
        known: Whether the language is in the table and only its toolchain is missing.
    """

    def __init__(
        self,
        language: str,
        suggestions: Sequence[str],
        *,
        missing: Language | None = None,
        lacks: Sequence[str] = (),
    ) -> None:
        if missing is not None:
            message = (
                f"language {missing.name!r} is not installed on this machine: {' and '.join(lacks)} "
                f"{'are' if len(lacks) > 1 else 'is'} missing ({missing.how_to_get()})"
            )
        else:
            message = f"unknown language {language!r}"
            if suggestions:
                message += f"; did you mean {suggestions[0]}?"
        super().__init__(message)
        self.language = language
        self.suggestions = tuple(suggestions)
        self.known = missing is not None


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of a toolchain; see `caches.py`. `{cache}` stands for its folder.

    Attributes:
        program: What it is made with, in the language.
        prepare: Command that fills the folder.
        env: Variables of jobs with the cache.
        options: Values of words in braces of `compile` and `run` in such jobs; other jobs omit these words.
    """

    program: str
    prepare: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Language:
    """One entry of the table; `languages.toml` explains the fields."""

    name: str
    source: str
    run: Sequence[str]
    executable: str
    packages: Sequence[str]
    tier: str
    version: Sequence[str]
    hello: str
    aliases: Sequence[str] = ()
    compile: Sequence[str] | None = None
    needs: Sequence[str] = ()
    system_paths: Sequence[str] = ()
    starter: str = ""
    takes_args: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    binary: str | None = None
    artifact: bool = False
    repl: Sequence[str] | None = None
    pypi: Sequence[str] = ()
    npm: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    prepare: Sequence[str] | None = None
    cache: Cache | None = None
    size_mib: int = 0
    elsewhere: str = ""
    time_s: int = 60
    versions: str = ""

    def installed(self, system: System = HOST) -> bool:
        """Return whether sandboxes see every program that this language needs."""
        return not self.lacks(system)

    def lacks(self, system: System = HOST) -> list[str]:
        """Return the programs and files of this language that sandboxes do not see."""
        return [name for name in (self.executable, *self.needs) if not system.has_program(name)]

    @property
    def can_be_installed(self) -> bool:
        """Whether a registry that this project uses has its toolchain."""
        return bool(self.packages or self.pypi or self.npm)

    def how_to_get(self) -> str:
        """Return in a few words how to install its toolchain."""
        if not self.can_be_installed:
            return self.elsewhere
        ways = [f"un languages install {self.name}"]
        if self.packages and not self.pypi and not self.npm:
            ways.append(f"or, on Debian, apt-get install {' '.join(self.packages)}")
        return " ".join(ways)

    def limits(self) -> Limits:
        """Return the default limits of a program."""
        return Limits(wall_s=self.time_s)

    def build_spec(  # noqa: PLR0913 - keyword-only: what a request may say
        self,
        code: str | bytes,
        *,
        env: Mapping[str, str] | None = None,
        input_files: Mapping[str, bytes | Content] | None = None,
        input_modes: Mapping[str, int] | None = None,
        stdin: bytes = b"",
        limits: Limits | None = None,
        network: NetworkMode = NetworkMode.ZEROTRUST,
        return_artifacts: bool = False,
        args: Sequence[str] = (),
        compiler_args: Sequence[str] = (),
        cache: str | None = None,
        cache_scope: str = "",
        version: str | None = None,
        compile_apart: bool = False,
        system: System = HOST,
        environment: Path | None = None,
    ) -> SandboxSpec:
        """Return the job that runs `code`.

        Args:
            code: The program. Text is encoded as UTF-8, surrogate escapes back to the bytes they stand for.
            env: Variables of the program; they win over those of the language.
            input_files: Contents by name; the path of each is `/tmp/input/<name>`.
            input_modes: Permission bits of input files by name; 0o644 by default.
            stdin: Standard input of the program.
            limits: Limits; by default those of the language.
            network: Its network.
            return_artifacts: Whether to return what it leaves in `/tmp/artifacts`, and the compiled binary.
            args: Its command-line arguments.
            compiler_args: Further arguments of the compiler.
            cache: Where the sandbox sees what was made of the toolchain once, if it does.
            cache_scope: See `SandboxSpec`.
            version: Version of the language, where several are installed.
            compile_apart: See `SandboxSpec`.
            system: The system with the versions.
            environment: See `SandboxSpec`.

        Raises:
            InvalidSpecError: A version that is not installed; arguments where none are taken, or of a compiler
                where there is none; code that cannot be encoded; a file name that is none, or one name twice.
        """
        if args and not self.takes_args:
            raise InvalidSpecError(f"args: programs in {self.name} take no arguments")
        limits = limits or self.limits()
        steps = self._steps(code)
        options: Mapping[str, str] = {}
        variables = dict(self.env)
        if self.cache is not None and cache is not None:
            options = self.cache.options
            variables |= self.cache.env
        values = limit_values(limits)
        values |= {"src": f"{WORK}/{steps.source}", "bin": f"{WORK}/{self.binary}", "cache": cache or ""}
        programs = {} if version is None else programs_of(self, version, system)
        compiler = None
        if steps.compile is not None:
            filled = renamed(fill(steps.compile, values, options), programs)
            compiler = with_words(filled, COMPILER_ARGUMENTS, compiler_args)
        elif compiler_args:
            raise InvalidSpecError(f"compiler_args: programs in {self.name} are not compiled")
        files = [
            SandboxFile(values["src"], _encode(code if steps.code is None else steps.code)),
            *_inputs(input_files or {}, input_modes or {}),
        ]
        own = {name: fill_text(value, values) for name, value in variables.items()}
        if environment is not None:
            own = environment_variables() | own
        binary = [values["bin"]] if return_artifacts and self.artifact else []
        return SandboxSpec(
            run=with_words(renamed(fill(steps.run, values, options), programs), ARGUMENTS, args),
            compile=compiler,
            files=files,
            env=own | dict(env or {}),
            compile_env=own,
            stdin=stdin,
            network=network,
            limits=limits,
            collect_artifacts=return_artifacts,
            artifact_paths=binary,
            compiled=values["bin"] if compiler is not None and self.binary else None,
            folders=PREPARED_FOLDERS,
            system_paths=self.system_paths,
            cache_scope=cache_scope,
            compile_apart=compile_apart,
            environment=environment,
        )

    def _steps(self, code: str | bytes) -> Steps:
        steps = Steps(self.source, self.compile, self.run)
        if not self.starter:
            return steps
        text = code if isinstance(code, str) else code.decode("utf-8", "surrogateescape")
        return STARTERS[self.starter](steps, text.removeprefix("\ufeff"))


class LanguageTable(Mapping[str, Language]):
    """All languages by canonical name; `resolve` also accepts aliases."""

    def __init__(self, languages: Iterable[Language], system: System = HOST) -> None:
        """Index `languages`.

        Args:
            languages: The entries.
            system: The system with their toolchains.

        Raises:
            ValueError: Two languages claim one name.
        """
        self.system = system
        self._seen: dict[str, float] = {}
        self._languages = {language.name: language for language in languages}
        self._names: dict[str, Language] = {}
        for language in self._languages.values():
            for name in (language.name, *language.aliases):
                if self._names.setdefault(name, language) is not language:
                    raise ValueError(f"{name!r} means both {self._names[name].name} and {language.name}")

    def __getitem__(self, name: str) -> Language:
        return self._languages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._languages)

    def __len__(self) -> int:
        return len(self._languages)

    def aliases(self) -> dict[str, str]:
        """Return canonical names by alias."""
        return {name: language.name for name, language in self._names.items() if name != language.name}

    def system_paths(self) -> list[str]:
        """Return the paths outside /usr that the available toolchains read; see `SandboxSpec.system_paths`."""
        return sorted({path for language in self.available() for path in language.system_paths})

    def available(self) -> list[Language]:
        """Return the languages that can run on this machine now, in the order of the table."""
        return [language for language in self._languages.values() if language.installed(self.system)]

    def resolve(self, name: str) -> Language:
        """Return the language with this name or alias, in any case, if it can run here.

        Raises:
            UnknownLanguageError: The language is unknown, or its toolchain is not installed.
        """
        language, wanted = self.find(name), name.strip().lower()
        if not self._installed(language):
            lacks = language.lacks(self.system)
            raise UnknownLanguageError(name, self._closest(wanted), missing=language, lacks=lacks)
        return language

    def find(self, name: str) -> Language:
        """Return the language with this name or alias, in any case, even if it cannot run here.

        Raises:
            UnknownLanguageError: The language is unknown.
        """
        wanted = name.strip().lower()
        if (language := self._names.get(wanted)) is None:
            raise UnknownLanguageError(name, self._closest(wanted))
        return language

    def _installed(self, language: Language) -> bool:
        """Return whether a language can run here; the result is cached for a moment."""
        now = time.monotonic()
        if now < self._seen.get(language.name, 0.0):
            return True
        if not language.installed(self.system):
            return False
        self._seen[language.name] = now + _BELIEVED_S
        return True

    def _closest(self, wanted: str) -> list[str]:
        """Return the canonical name of the runnable language whose name or alias is most like `wanted`."""
        names = {
            name: language.name for name, language in self._names.items() if language.installed(self.system)
        }
        close = difflib.get_close_matches(wanted[:100], names, n=1, cutoff=_CLOSE)
        return [names[name] for name in close]


def load_languages(path: Path | None = None, system: System = HOST) -> LanguageTable:
    """Read the table of this package, or the one at `path`.

    Args:
        path: Another file of the same format.
        system: The system with the toolchains.

    Raises:
        ValueError: An entry lacks a field or has an unknown one.
    """
    text = (path or resources.files(__package__) / "languages.toml").read_text(encoding="utf-8")
    return LanguageTable((_entry(name, fields) for name, fields in tomllib.loads(text).items()), system)


def _entry(name: str, fields: Mapping[str, Any]) -> Language:
    known = {item.name for item in dataclasses.fields(Language)}
    if unknown := set(fields) - known:
        raise ValueError(f"languages.toml: {name}: unknown field {min(unknown)!r}")
    try:
        if "cache" in fields:
            fields = {**fields, "cache": Cache(**fields["cache"])}
        language = Language(name=name, **fields)
    except TypeError as error:
        raise ValueError(f"languages.toml: {name}: {error}") from error
    if (language.compile is not None or language.artifact) and language.binary is None:
        raise ValueError(f"languages.toml: {name}: compile and artifact need `binary`")
    return language


def _encode(code: str | bytes) -> bytes:
    if isinstance(code, bytes):
        return code
    try:
        return code.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidSpecError(f"code: character {error.start} is a lone surrogate") from error


def input_name(given: str) -> str:
    r"""Return the relative path of an input file; see `names.relative_name`.

    Raises:
        InvalidSpecError: The name is not usable.

    Example:
        >>> input_name("/home/me/data.csv"), input_name("sub/a.txt")
        ('data.csv', 'sub/a.txt')
    """
    try:
        return relative_name(given)
    except ValueError as error:
        raise InvalidSpecError(f"input_files: {error}") from error


def _inputs(files: Mapping[str, bytes | Content], modes: Mapping[str, int]) -> list[SandboxFile]:
    by_name: dict[str, SandboxFile] = {}
    for given, data in files.items():
        name = input_name(given)
        if name in by_name:
            raise InvalidSpecError(SAME_NAME)
        by_name[name] = SandboxFile(f"{INPUT_FOLDER}/{name}", data, modes.get(given, 0o644))
    return list(by_name.values())
