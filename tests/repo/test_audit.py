"""`scripts/audit`: what it says of the installed dependencies, and of advisories."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import SourceFileLoader
from importlib.metadata import distribution, distributions

import pytest
from tests.support import REPO


@pytest.fixture(scope="module")
def audit():
    loader = SourceFileLoader("audit_script", str(REPO / "scripts" / "audit"))
    spec = importlib.util.spec_from_loader("audit_script", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_what_is_not_as_it_is_locked_is_named(audit):
    wanted = audit.locked((REPO / "requirements.lock").read_text())
    assert len(wanted) > 100
    assert audit.differences(wanted, wanted | {"unsandbox": "1"}) == []
    assert audit.differences(wanted | {"nobody": "1"}, wanted) == ["nobody 1 is locked, nothing is installed"]
    assert audit.differences({}, {"stranger": "1"}) == ["stranger is installed and not locked"]


def test_a_changed_file_is_found(audit, tmp_path):
    assert list(audit.changed_files(distribution("msgspec"))) == []
    folder = tmp_path / "thing-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: thing\nVersion: 1\n")
    (folder / "RECORD").write_text(
        "thing.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\ngone.py,sha256=x,1\n"
    )
    (tmp_path / "thing.py").write_text("")
    (package,) = distributions(path=[str(tmp_path)])
    assert [line.rpartition("/")[2] for line in audit.changed_files(package)] == ["gone.py is gone"]
    (tmp_path / "thing.py").write_text("evil")
    assert len(list(audit.changed_files(package))) == 2


def advisory(**affected):
    package = {"name": "Some_Thing", "ecosystem": "PyPI"}
    return {"id": "GHSA-1", "summary": "bad", "affected": [{"package": package, **affected}]}


@pytest.mark.parametrize(
    ("events", "hit"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], True),
        ([{"introduced": "0"}, {"fixed": "1.5"}], False),
        ([{"introduced": "1.6"}], False),
        ([{"introduced": "0"}, {"last_affected": "1.5"}], True),
        ([{"introduced": "0"}, {"last_affected": "1.4"}], False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "1.5"}, {"fixed": "1.6"}], True),
    ],
)
def test_an_advisory_concerns_the_versions_that_it_names(audit, events, hit):
    ranged = advisory(ranges=[{"type": "ECOSYSTEM", "events": events}])
    assert bool(audit.vulnerable([ranged], {"some-thing": "1.5"})) == hit
    assert audit.vulnerable([ranged], {"another": "1.5"}) == []


def test_versions_are_listed_too_and_what_was_withdrawn_does_not_count(audit):
    listed = advisory(versions=["1.5"])
    assert audit.vulnerable([listed], {"some-thing": "1.5"}) == ["some-thing 1.5: GHSA-1 bad"]
    assert audit.vulnerable([listed | {"withdrawn": "2026"}], {"some-thing": "1.5"}) == []


def test_what_nobody_could_tell_is_not_called_clean(audit):
    report = {"dependencies": [
        {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]},
        {"name": "b", "version": "1", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]}  # fmt: skip
    assert audit.judge(json.dumps(report)) == (2, ["a 1: PYSEC-1"])
    assert audit.judge("no JSON") == (0, [])
