"""The endpoint table: consistent in itself, and every path that historical clients use is in it."""

import re

import pytest

from unsandbox.protocol.endpoints.jobs import BY_NAME, ENDPOINTS
from unsandbox.protocol.models import WireModel


def routes():
    return [(method, path, endpoint) for endpoint in ENDPOINTS for method, path in
            ((endpoint.method, endpoint.path), *endpoint.aliases)]  # fmt: skip


def test_names_and_routes_are_unique():
    assert len(BY_NAME) == len(ENDPOINTS)
    assert len({(method, path) for method, path, _ in routes()}) == len(routes())


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_an_endpoint_is_complete(endpoint):
    assert endpoint.name.isidentifier()
    assert endpoint.summary.endswith(".")
    assert issubclass(endpoint.response, WireModel)
    assert (endpoint.body == "json") == (endpoint.request is not None)
    assert not endpoint.creates or endpoint.method == "POST"
    placeholders = re.findall(r"\{(\w+)\}", endpoint.path)
    for _, alias in endpoint.aliases:
        # An alias names the same object; it may say in its path what others say in the body.
        assert re.findall(r"\{(\w+)\}", alias)[: len(placeholders)] == placeholders
    assert len({query.name for query in endpoint.query}) == len(endpoint.query)


@pytest.mark.parametrize(
    "route",
    ["POST /execute", "POST /execute/async", "POST /run", "POST /run/async", "GET /jobs", "GET /jobs/{id}",
     "DELETE /jobs/{id}", "POST /jobs/{id}/cancel", "GET /jobs/{id}/wait", "GET /languages", "POST /keys/validate",
     "GET /health"],
)  # fmt: skip
def test_every_historical_path_is_served(route):
    assert route in {f"{method} {path}" for method, path, _ in routes()}


def test_only_what_anybody_may_ask_is_unsigned():
    assert {endpoint.name for endpoint in ENDPOINTS if endpoint.auth == "none"} == {"languages", "health"}
