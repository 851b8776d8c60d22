"""Requests made from our OpenAPI document: a short look in the suite; `make fuzz` looks for longer."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_describes():
    from tests.fuzz.api import look  # schemathesis takes most of a second to import, in every worker

    report = look(examples=1, every=6, seconds=40.0, derandomize=True)
    assert report.problems == []
    assert report.requests >= report.operations > 0
    assert sum(report.by_status.values()) > 0
