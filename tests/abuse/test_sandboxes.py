"""Attacks in every kind of sandbox; `make abuse` prints the table.

Those that share a sandbox run wherever time allows. Those that need one each take seconds: they run here in three
kinds that differ in backend, pool and user of the engine. `make abuse` runs all in all of them.
"""

from __future__ import annotations

import subprocess

import pytest
from tests.abuse import inside, table
from tests.abuse.stage import Row, Variant

EVERYTHING = {
    Variant("bubblewrap", "cold", "root"),
    Variant("bubblewrap", "warm", "user"),
    Variant("gvisor", "cold", "root"),
}
ONLY_BY_HAND = {
    Variant("gvisor", "cold", "user"),
    Variant("gvisor", "warm", "root"),
    Variant("gvisor", "live", "user"),
}
"""gVisor starts slowly; of each kind and each user one is here."""
VARIANTS = [one for one in table.variants() if one not in ONLY_BY_HAND]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_nothing_succeeds(variant):
    if variant.user == "user" and table.system_python() is None:
        pytest.skip("no system Python, and the one of the tests may lie in a closed folder")
    everything = variant in EVERYTHING
    rows = table.rows_of(variant, batch_only=not everything)
    assert {row.name: row.gained for row in rows if row.gained} == {}
    assert len(rows) >= (220 if everything else 200)


@pytest.mark.slow
@pytest.mark.root
def test_outside_a_sandbox_they_succeed():
    if subprocess.run(["unshare", "--mount", "--uts", "--ipc", "true"], capture_output=True).returncode:
        pytest.skip("in a container that may make no namespaces")
    control = table.controls()
    failed = [name for name, gained in control.items() if not gained]
    # Not every machine has something in /run, or every call in its kernel.
    assert len(control) > 100
    assert len(failed) < 10, failed


def test_there_are_more_than_a_hundred_attacks():
    inside.load()
    assert len(inside.ATTACKS) > 200


def test_the_table_says_what_succeeded():
    row = Row("a|b", "kernel", "tried\nthis", "filter", "here", "a secret", "")
    assert table.markdown([row], {}).splitlines()[2] == (
        "| a\\|b | tried?this | not tried | filter | **SUCCEEDED: a secret** |"
    )
