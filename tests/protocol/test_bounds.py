"""Every text, list and mapping of every request has a bound, said once and told everywhere."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from unsandbox.protocol import codec, files, images, logs, models, processes, services, sessions, snapshots
from unsandbox.protocol.bounds import SMALL_BODY, BoundExceededError, bounds_of, takes_data
from unsandbox.protocol.endpoints.jobs import ENDPOINTS
from unsandbox.server.openapi import openapi_document

HANDLERS = Path(models.__file__).parents[1] / "server"
MODULES = (models, sessions, processes, files, services, snapshots, images, logs)
LONGEST = {"characters": "x", "items": 1}


def read_by_handlers() -> set[type[models.WireModel]]:
    """What the server turns bodies and queries into, also where the endpoint table does not say so."""
    names = set()
    for path in HANDLERS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"read_body", "to_model"}:
                model = node.args[1]
                assert isinstance(model, ast.Name | ast.Attribute), ast.dump(model)
                names.add(model.id if isinstance(model, ast.Name) else model.attr)
    return {getattr(module, name) for name in names - {"model"} for module in MODULES if hasattr(module, name)}


REQUESTS = sorted(
    {endpoint.request for endpoint in ENDPOINTS if endpoint.request} | read_by_handlers(),
    key=lambda model: model.__name__,
)


def test_handlers_are_found():
    assert models.ExecuteRequest in read_by_handlers()
    assert logs.LogQuery in read_by_handlers()
    assert len(REQUESTS) > 20


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.__name__)
def test_every_text_list_and_mapping_has_a_bound(model):
    unbounded = [f"{path} ({unit})" for path, bound, unit in bounds_of(model) if bound is None]
    assert unbounded == []


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_body_has_a_bound(endpoint):
    assert endpoint.body_bytes is None or 0 < endpoint.body_bytes <= 64 << 20
    assert (endpoint.body_bytes is None) == takes_data(endpoint.request)


def longer(model: type[models.WireModel]) -> list[tuple[dict[str, object], str]]:
    """A request with one member too long, for each that is not as long as a body may be."""
    found: list[tuple[dict[str, object], str]] = []
    for path, bound, unit in bounds_of(model):
        if bound is None or bound > SMALL_BODY or "(" in path or "[]" in path or "." in path:
            continue
        if unit == "characters":
            found.append(({path: "x" * (bound + 1)}, path))
        elif unit == "items":
            found.append(({path: ["x"] * (bound + 1)}, path))
            if any(f"{path}[]" == other for other, _, _ in bounds_of(model)):
                found.append(({path: ["x" * 200_000]}, f"{path}[0]"))
        else:
            found.append(({path: {str(number): "" for number in range(bound + 1)}}, path))
            found.append(({path: {"x" * 2000: ""}}, f"a name in {path}"))
            found.append(({path: {"x": "x" * 200_000}}, f"{path}['x']"))
    return found


@pytest.mark.parametrize(
    ("model", "members", "path"),
    [(model, *case) for model in REQUESTS for case in longer(model)],
    ids=lambda value: getattr(value, "__name__", value if isinstance(value, str) else ""),
)
def test_what_is_too_long_is_named_with_its_bound(model, members, path):
    with pytest.raises(BoundExceededError) as caught:
        codec.from_wire(members, model)
    text = str(caught.value)
    assert text.startswith(f"{path} has ")
    assert f"at most {caught.value.bound} are allowed" in text
    assert "xxx" not in text


def test_files_are_named_with_their_number():
    members = {"language": "c", "code": "", "input_files": [{"filename": "a", "content": ""}] * 2}
    members["input_files"][1] = {"filename": "x" * 5000, "content_base64": ""}
    with pytest.raises(
        BoundExceededError, match=r"input_files\[1\].filename has 5000 characters; at most 4096"
    ):
        codec.from_wire(members, models.ExecuteRequest)


def test_historical_ports_are_bounded_before_they_are_split():
    with pytest.raises(BoundExceededError, match="ports has 1500000 characters"):
        codec.from_wire({"name": "a", "ports": "80," * 500_000}, services.ServiceRequest)
    assert codec.from_wire({"name": "a", "ports": "80, 443"}, services.ServiceRequest).ports == [80, 443]


def test_answers_have_no_bounds_of_requests():
    many = [f"{number}.example" for number in range(1000)]
    assert codec.response_from_wire({"domains": many}, services.Domains).custom_domains == many


def test_openapi_tells_the_bounds():
    schemas = json.loads(openapi_document())["components"]["schemas"]
    assert schemas["DomainsRequest"]["properties"]["add"]["anyOf"][0]["maxItems"] == 100
    assert schemas["ExecuteRequest"]["properties"]["code"]["maxLength"] == 16 << 20
    assert schemas["ExecuteRequest"]["properties"]["env"]["anyOf"][0]["maxProperties"] == 256


def table() -> str:
    """The bounds as `docs/protocol.md` lists them: members with the same name and bound in one row."""
    rows: dict[tuple[str, str], set[str]] = {}
    for endpoint in ENDPOINTS:
        for path, bound, unit in bounds_of(endpoint.request) if endpoint.request else ():
            rows.setdefault((path, f"{bound:,} {unit}"), set()).add(f"`{endpoint.name}`")
    lines = [
        f"| `{path}` | {bound} | {', '.join(sorted(names))} |" for (path, bound), names in sorted(rows.items())
    ]
    return "\n".join(["| member | at most | operations |", "|---|---|---|", *lines])


def test_the_documents_list_the_bounds():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    assert table() in page, f"docs/protocol.md must hold this table:\n{table()}"
