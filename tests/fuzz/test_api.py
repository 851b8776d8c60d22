"""Requests made from our OpenAPI document: a short look in the suite; `make fuzz` looks for longer."""

from __future__ import annotations

from tests.fuzz.api import look


def test_every_answer_is_one_that_the_document_describes():
    report = look(examples=1, every=6, seconds=40.0, derandomize=True)
    assert report.problems == []
    assert report.requests >= report.operations > 0
    assert sum(report.by_status.values()) > 0
