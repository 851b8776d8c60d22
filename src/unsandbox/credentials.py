"""Lookup of the key pair.

The first source that has a key pair is used:

1. the arguments `public_key` and `secret_key`;
2. with the argument `account`, that row of an accounts file; the environment's keys are ignored;
3. the variables `UNSANDBOX_PUBLIC_KEY` and `UNSANDBOX_SECRET_KEY`;
4. `~/.unsandbox/accounts.csv`;
5. `accounts.csv` in the working folder.

An accounts file has one `public,secret` pair per line; further columns, blank lines and lines that start with
`#` are ignored. Rows count from 0; without the argument `account`, `UNSANDBOX_ACCOUNT` selects the row. The
first file with any account is used. An incomplete pair or a malformed line is an error; the search never skips
it to use another account.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unsandbox.errors import CredentialsError, UnsandboxWarning

__all__ = [
    "Account",
    "Credentials",
    "CredentialsReport",
    "explain_credentials",
    "list_accounts",
    "resolve_credentials",
]

_PUBLIC = "UNSANDBOX_PUBLIC_KEY"
_SECRET = "UNSANDBOX_SECRET_KEY"  # noqa: S105 - the name of a variable
_ACCOUNT = "UNSANDBOX_ACCOUNT"
_MAX_FILE_BYTES = 1 << 20
_READABLE_BY_OTHERS = 0o044

_warned: set[str] = set()
_Stamp = tuple[int, int, int, int]
_parsed: dict[str, tuple[_Stamp, list[tuple[str, str]]]] = {}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair and its source. `repr` shows neither key.

    Attributes:
        public_key: Public key, sent with every request.
        secret_key: Secret key, used for signing and never sent.
        source: Description of the place where the pair was found.
    """

    public_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    source: str = "arguments"


@dataclass(frozen=True, slots=True)
class CredentialsReport:
    """The result of a search for credentials, without the keys.

    Attributes:
        source: The place of the pair; None if none was found.
        tried: Each place in the order of the search, with its result.
        error: The problem and its remedy; None if a pair was found.
    """

    source: str | None
    tried: tuple[str, ...]
    error: str | None


def resolve_credentials(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    env: Mapping[str, str] | None = None,
    home: Path | None = None,
    cwd: Path | None = None,
) -> Credentials:
    """Return the key pair to sign with.

    Args:
        public_key: Public key. Pass both keys or neither; an empty string counts as not passed.
        secret_key: Secret key.
        account: Row of the accounts file, from 0, as a number or a string of digits. The environment's keys
            are then ignored.
        env: Environment to read instead of the process's.
        home: Home folder to use instead of the user's.
        cwd: Folder to search instead of the working folder.

    Raises:
        CredentialsError: No pair was found, or a source is incomplete or unreadable. The message names the
            place and the remedy, never a key.

    Example:
        >>> resolve_credentials("unsb-pk-1", "unsb-sk-1").source
        'arguments'
    """
    return _search([], public_key, secret_key, account, env, home, cwd)


def explain_credentials(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    env: Mapping[str, str] | None = None,
    home: Path | None = None,
    cwd: Path | None = None,
) -> CredentialsReport:
    """Return the source of the key pair and the places that were searched, without any key.

    The arguments are those of `resolve_credentials`. Errors are returned in the report, not raised.

    Example:
        >>> explain_credentials(env={"UNSANDBOX_PUBLIC_KEY": "p", "UNSANDBOX_SECRET_KEY": "s"}).source
        'environment variables UNSANDBOX_PUBLIC_KEY and UNSANDBOX_SECRET_KEY'
    """
    tried: list[str] = []
    try:
        found = _search(tried, public_key, secret_key, account, env, home, cwd)
    except CredentialsError as error:
        return CredentialsReport(source=None, tried=tuple(tried), error=str(error))
    return CredentialsReport(source=found.source, tried=tuple(tried), error=None)


@dataclass(frozen=True, slots=True)
class Account:
    """A row of an accounts file, without its secret."""

    file: Path
    row: int
    public_key: str


def list_accounts() -> list[Account]:
    """Return the rows of all accounts files, in the order of the search.

    Raises:
        CredentialsError: A file exists but is not a readable accounts file.
    """
    return [
        Account(path, row, public_key)
        for path in _files(None, None)
        for row, (public_key, _) in enumerate(_read(path) or ())
    ]


def _search(
    tried: list[str],
    public_key: str | None,
    secret_key: str | None,
    account: int | str | None,
    env: Mapping[str, str] | None,
    home: Path | None,
    cwd: Path | None,
) -> Credentials:
    if public_key or secret_key:
        tried.append("arguments: given")
        if not (public_key and secret_key):
            missing = "secret_key" if public_key else "public_key"
            raise CredentialsError(f"the argument {missing} is missing: give both keys, or none")
        return _checked(public_key, secret_key, "arguments")
    tried.append("arguments: none")
    if env is None:
        env = os.environ
    if account is None:
        in_env = _from_environment(tried, env)
        if in_env is not None:
            return in_env
    row, chosen_by = _row(account, env)
    for path in _files(home, cwd):
        found = _from_file(tried, path, row, chosen_by)
        if found is not None:
            return found
    raise CredentialsError(
        f"no credentials found ({'; '.join(tried)}). "
        f"Pass public_key and secret_key, set {_PUBLIC} and {_SECRET}, "
        "or write a line `public,secret` to ~/.unsandbox/accounts.csv. The embedded engine needs no keys: "
        "Client.local() or UNSANDBOX_API_BASE=local"
    )


def _from_environment(tried: list[str], env: Mapping[str, str]) -> Credentials | None:
    place = f"environment variables {_PUBLIC} and {_SECRET}"
    public, secret = env.get(_PUBLIC, "").strip(), env.get(_SECRET, "").strip()
    if not public and not secret:
        tried.append(f"{place}: not set")
        return None
    tried.append(f"{place}: set")
    if not (public and secret):
        have, lack = (_PUBLIC, _SECRET) if public else (_SECRET, _PUBLIC)
        raise CredentialsError(f"{have} is set but {lack} is not: set both, or unset both")
    return _checked(public, secret, place)


def _row(account: int | str | None, env: Mapping[str, str]) -> tuple[int, str]:
    """Return the row to use and the source of that choice."""
    if account is None:
        text, chosen_by = env.get(_ACCOUNT, "").strip(), _ACCOUNT
        if not text:
            return 0, "the default"
    else:
        text, chosen_by = str(account).strip(), "the argument account"
    # Not int(): it takes "1_0", "+1" and other digits than ours.
    if isinstance(account, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CredentialsError(f"{chosen_by} must be a row number of accounts.csv, counted from 0")
    return int(text), chosen_by


def _files(home: Path | None, cwd: Path | None) -> list[Path]:
    found = []
    # A service account may have no home folder.
    with contextlib.suppress(RuntimeError):
        found.append((home or Path.home()) / ".unsandbox" / "accounts.csv")
    found.append((cwd / "accounts.csv") if cwd else Path("accounts.csv"))
    return found


def _from_file(tried: list[str], path: Path, row: int, chosen_by: str) -> Credentials | None:
    try:
        accounts = _read(path)
    except CredentialsError:
        tried.append(f"{path}: cannot be used")
        raise
    if accounts is None:
        tried.append(f"{path}: no such file")
        return None
    if not accounts:
        tried.append(f"{path}: no accounts")
        return None
    tried.append(f"{path}: accounts: {len(accounts)}")
    if row >= len(accounts):
        raise CredentialsError(
            f"{path} has no row {row} (selected by {chosen_by}); it has {len(accounts)}, counted from 0. "
            "Select another row or add a line `public,secret`"
        )
    public, secret = accounts[row]
    return Credentials(public, secret, f"{path}, row {row}")


def _read(path: Path) -> list[tuple[str, str]] | None:
    """Return the accounts of a file, or None if it does not exist. Unchanged files are parsed only once."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            place = str(path.absolute())
            # On Windows the mode does not tell who may read a file.
            if os.name == "posix" and status.st_mode & _READABLE_BY_OTHERS:
                _warn_once(place)
            known = _parsed.get(place)
            if known is not None and known[0] == stamp:
                return known[1]
            raw = file.read(_MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CredentialsError(f"cannot read {path}: {reason}; check its permissions") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise CredentialsError(f"{path} is too large for an accounts file (one `public,secret` pair per line)")
    accounts = _parse(raw, path)
    _parsed[place] = (stamp, accounts)
    return accounts


def _parse(raw: bytes, path: Path) -> list[tuple[str, str]]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    accounts: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        columns = [column.strip().strip('"').strip() for column in stripped.split(",")]
        if not accounts and columns[0].lower() in {"public_key", "public key"}:
            continue  # a heading, as spreadsheets write one
        if len(columns) < 2 or not columns[0] or not columns[1]:
            raise CredentialsError(
                f"{path}, line {number}, is not `public,secret`; correct it, or start it with `#` to skip it"
            )
        pair = _checked(columns[0], columns[1], f"{path}, line {number}")
        accounts.append((pair.public_key, pair.secret_key))
    return accounts


def _checked(public_key: str, secret_key: str, source: str) -> Credentials:
    pair = []
    for name, value in (("public", public_key), ("secret", secret_key)):
        if not isinstance(value, str):
            raise CredentialsError(f"the {name} key from {source} is not a string; pass a str")
        key = value.strip()
        # Other characters are not allowed in a header.
        if not (key and key.isascii() and key.isprintable()) or " " in key:
            raise CredentialsError(
                f"the {name} key from {source} contains a space, control or non-ASCII character; copy it again"
            )
        pair.append(key)
    return Credentials(pair[0], pair[1], source)


def _warn_once(place: str) -> None:
    if place in _warned:
        return
    _warned.add(place)
    warnings.warn(
        f"{place} contains secret keys and can be read by other users of this machine; run: chmod 600 {place}",
        UnsandboxWarning,
        stacklevel=2,
    )
