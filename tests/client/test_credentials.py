"""Where keys come from, and what is said when they do not."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from unsandbox import Credentials, CredentialsError, UnsandboxWarning, explain_credentials, resolve_credentials

ENV = {"UNSANDBOX_PUBLIC_KEY": "pk-env", "UNSANDBOX_SECRET_KEY": "sk-env"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def write(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """Write an accounts file into a home or working folder."""
    path = folder / ".unsandbox" / "accounts.csv" if folder.name == "home" else folder / "accounts.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def find(
    home: Path, cwd: Path, *keys: str | None, env: dict[str, str] | None = None, **options: object
) -> Credentials:
    return resolve_credentials(*keys, env=env or {}, home=home, cwd=cwd, **options)


def test_the_tiers_in_their_order(home: Path, cwd: Path) -> None:
    write(home, "pk-home,sk-home\n")
    write(cwd, "pk-cwd,sk-cwd\n")
    assert find(home, cwd, "pk-arg", "sk-arg", env=ENV).public_key == "pk-arg"
    assert find(home, cwd, env=ENV).public_key == "pk-env"
    assert find(home, cwd).public_key == "pk-home"
    (home / ".unsandbox" / "accounts.csv").unlink()
    found = find(home, cwd)
    assert (found.public_key, found.secret_key) == ("pk-cwd", "sk-cwd")
    (cwd / "accounts.csv").unlink()
    with pytest.raises(CredentialsError, match="UNSANDBOX_PUBLIC_KEY"):
        find(home, cwd)


def test_an_explicit_account_goes_before_the_environment(home: Path, cwd: Path) -> None:
    write(home, "pk-0,sk-0\npk-1,sk-1\n")
    for account in (1, "1", " 1 "):
        assert find(home, cwd, env=ENV | {"UNSANDBOX_ACCOUNT": "0"}, account=account).public_key == "pk-1"
    assert find(home, cwd, "pk-arg", "sk-arg", account=1).public_key == "pk-arg"
    assert find(home, cwd, env={"UNSANDBOX_ACCOUNT": "1"}).public_key == "pk-1"


@pytest.mark.parametrize(
    "text",
    [
        "pk-0,sk-0\npk-1,sk-1",
        "\ufeff# mine\r\n\r\npk-0,sk-0,work\r\n  \r\n#pk,sk\r\n  pk-1 , sk-1 , home, more\r\n",
        'public_key,secret_key\n"pk-0","sk-0"\n"pk-1","sk-1"\n',
    ],
)
def test_how_people_write_the_file(home: Path, cwd: Path, text: str) -> None:
    write(home, text)
    rows = [find(home, cwd, account=row) for row in (0, 1)]
    assert [(row.public_key, row.secret_key) for row in rows] == [("pk-0", "sk-0"), ("pk-1", "sk-1")]


def test_a_file_without_accounts_lets_the_next_one_speak(home: Path, cwd: Path) -> None:
    write(home, "# nothing yet\n")
    write(cwd, "pk-cwd,sk-cwd\n")
    assert find(home, cwd).public_key == "pk-cwd"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pk-0,sk-0\nunsb-sk-secret\n", "line 2"),
        ("pk-0,\n", "line 1"),
        (",unsb-sk-secret\n", "line 1"),
        ("pk-0,unsb-sk-se cret\n", "line 1"),
        ("pk-0,unsb-sk-\u2013secret\n", "line 1"),
        (b"pk-0,unsb-sk-secret\xff\n", "UTF-8"),
        (b"pk-0,sk-0\n" * 200_000, "too large"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_not_skipped(
    home: Path, cwd: Path, text: str | bytes, says: str
) -> None:
    path = write(home, text)
    write(cwd, "pk-cwd,sk-cwd\n")
    with pytest.raises(CredentialsError, match=says) as caught:
        find(home, cwd)
    assert str(path) in str(caught.value)
    assert "unsb-sk" not in str(caught.value)


def test_a_folder_in_place_of_the_file(home: Path, cwd: Path) -> None:
    (home / ".unsandbox" / "accounts.csv").mkdir(parents=True)
    with pytest.raises(CredentialsError, match="cannot read"):
        find(home, cwd)


@pytest.mark.root
def test_a_file_that_may_not_be_read(home: Path, cwd: Path) -> None:
    path = write(home, "pk-0,sk-0\n", 0o000)
    for folder in (path.parent, home, home.parent):
        folder.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; import unsandbox.credentials as c; os.setuid(65534)\n"
        "try: c.resolve_credentials(env={}, home=Path(sys.argv[1]), cwd=Path('/'))\n"
        "except c.CredentialsError as error: print(error)"
    )
    # The parents of a temporary folder are closed to others, so the path is given as what is open already.
    descriptor = os.open(home, os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-c", code, f"/proc/self/fd/{descriptor}"],
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(descriptor)
    assert "Permission denied" in done.stdout


@pytest.mark.parametrize("have", sorted(ENV))
def test_half_an_environment_is_an_error(home: Path, cwd: Path, have: str) -> None:
    write(home, "pk-home,sk-home\n")
    (lack,) = set(ENV) - {have}
    with pytest.raises(CredentialsError, match=f"{have} is set but {lack} is not"):
        find(home, cwd, env={have: ENV[have]})
    with pytest.raises(CredentialsError, match=f"{lack} is not"):
        find(home, cwd, env={have: ENV[have], lack: " "})


@pytest.mark.parametrize(("keys", "missing"), [(("pk", None), "secret_key"), ((None, "sk"), "public_key")])
def test_half_a_pair_of_arguments_is_an_error(
    home: Path, cwd: Path, keys: tuple[str | None, str | None], missing: str
) -> None:
    with pytest.raises(CredentialsError, match=missing):
        find(home, cwd, *keys, env=ENV)


def test_empty_arguments_count_as_none(home: Path, cwd: Path) -> None:
    assert find(home, cwd, "", "", env=ENV).public_key == "pk-env"


@pytest.mark.parametrize("account", ["abc", "-1", "1.5", "", "²", "1_0", True, -1, 10**12])
def test_an_account_must_be_a_row(home: Path, cwd: Path, account: object) -> None:
    write(home, "pk-0,sk-0\n")
    with pytest.raises(CredentialsError, match="account must be"):
        find(home, cwd, account=account)
    if isinstance(account, str) and account:
        with pytest.raises(CredentialsError, match="UNSANDBOX_ACCOUNT must be"):
            find(home, cwd, env={"UNSANDBOX_ACCOUNT": account})


def test_a_row_that_does_not_exist(home: Path, cwd: Path) -> None:
    path = write(home, "pk-0,sk-0\n")
    write(cwd, "a,b\nc,d\n")
    with pytest.raises(CredentialsError, match="has no row 1") as caught:
        find(home, cwd, account=1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["kk ll", "kk\nll", "kk\0ll", "kkä", "kk\r\nX-Other: 1"])
def test_a_key_that_no_header_can_hold(home: Path, cwd: Path, key: str) -> None:
    for keys in ((key, "sk"), ("pk", key)):
        with pytest.raises(CredentialsError, match="copy it again") as caught:
            find(home, cwd, *keys)
        assert "kk" not in str(caught.value)


def test_reading_creates_nothing(home: Path, cwd: Path) -> None:
    with pytest.raises(CredentialsError):
        find(home, cwd)
    assert list(home.iterdir()) == []
    assert list(cwd.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="modes mean nothing here")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secrets_file_that_others_can_read_is_warned_of_once(home: Path, cwd: Path, mode: int) -> None:
    path = write(home, "pk-0,sk-0\n", mode)
    with pytest.warns(UnsandboxWarning, match=f"chmod 600 {path}") as caught:
        find(home, cwd)
    assert "sk-0" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find(home, cwd)


def test_a_private_file_is_not_warned_of(home: Path, cwd: Path) -> None:
    write(home, "pk-0,sk-0\n", 0o600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find(home, cwd)


def test_a_changed_file_is_read_again(home: Path, cwd: Path) -> None:
    write(home, "pk-0,sk-0\n")
    assert find(home, cwd).public_key == "pk-0"
    write(home, "pk-changed,sk-0\n")
    assert find(home, cwd).public_key == "pk-changed"


def test_the_explanation_tells_the_place_and_no_key(home: Path, cwd: Path) -> None:
    path = write(home, "pk-0,sk-0\npk-1,sk-1\n")
    report = explain_credentials(env={"UNSANDBOX_ACCOUNT": "1"}, home=home, cwd=cwd)
    assert report.source == f"{path}, row 1"
    assert report.error is None
    assert report.tried[0].partition(":")[0] == "arguments"
    failed = explain_credentials(env={"UNSANDBOX_ACCOUNT": "5"}, home=home, cwd=cwd)
    assert (failed.source, "no row 5" in (failed.error or "")) == (None, True)
    nothing = explain_credentials(env={}, home=cwd, cwd=home)
    assert len(nothing.tried) == 4
    for shown in (repr(report), repr(failed), repr(nothing)):
        assert "pk-" not in shown
        assert "sk-" not in shown


def test_credentials_hide_their_keys() -> None:
    keys = Credentials("unsb-pk-1", "unsb-sk-1", "somewhere")
    assert repr(keys) == str(keys) == "Credentials(source='somewhere')"
