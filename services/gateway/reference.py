"""Generator of `services/gateway/API.md`, the reference of the HTTP API: `python -m services.gateway.reference`."""

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.gateway.app import create_app
from services.gateway.http.errors import format_of, status_table
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.stubs import Upstream

FILE: Final = Path(__file__).with_name("API.md")
INTRODUCTION: Final = """# HTTP API

All routes of the gateway. [README.md](README.md) shows how to call them with `curl` and with the clients of OpenAI and
Cohere. `make protos` generates this page from the OpenAPI document of the gateway, `/openapi.json`; do not edit it.

Parameters and fields of requests marked * are required. Unknown fields are ignored. All routes accept the headers
`authorization`, `x-deadline-ms` and `traceparent`, which [README.md](README.md#all-routes) describes.
"""
ERRORS: Final = """## Errors

The HTTP status of an error follows from its gRPC status code. Routes of TEI's API have the status of the last column
where there is one, and 429 for every error of the reason `ERROR_REASON_OVERLOADED`. The reasons are described at
[ErrorReason](../../protos/API.md#sluice.common.v1.ErrorReason).

{statuses}

The gateway itself also rejects requests with 405 (method not allowed), 408 (the body took too long),
413 (too large), 415 (wrong content type), 421 (wrong host), or 431 (the headers are too large).

The body has the format of the route's API:

| API | body |
|---|---|
| OpenAI | `{{"error": {{"message", "type", "param", "code"}}}}` |
| Cohere and Jina | `{{"message", "detail"}}` |
| TEI | `{{"error", "error_type"}}` |
| Sluice | `{{"error": {{"code", "reason", "message", "violations", "metadata"}}}}` |
"""
ORDER: Final = ("Sluice", "OpenAI", "Cohere", "Cohere and Jina", "TEI", "Operations")
"""Tags of routes, in the order of the page."""

Json = Mapping[str, Any]


def page(document: Json) -> str:
    """Return the page of an OpenAPI document."""
    routes: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            routes.setdefault(" and ".join(route["tags"]), []).append((method.upper(), path, route))
    routes = dict(sorted(routes.items(), key=lambda item: ORDER.index(item[0])))
    parts = [INTRODUCTION, contents(routes)]
    for tag, found in routes.items():
        parts.append(f"## {tag}")
        parts += [section(method, path, route, document) for method, path, route in found]
    parts.append(ERRORS.format(statuses=statuses()))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def contents(routes: Mapping[str, Sequence[tuple[str, str, Json]]]) -> str:
    """Return the table of contents."""
    lines = [
        f"- {tag}: " + ", ".join(f"[`{method} {path}`](#{anchor(method, path)})" for method, path, _ in found)
        for tag, found in routes.items()
    ]
    return "\n".join([*lines, "- [Errors](#errors)"])


def anchor(method: str, path: str) -> str:
    """Return the anchor of a route."""
    return f"{method.lower()}-{path.strip('/').translate(str.maketrans('/:', '--', '{}'))}"


def section(method: str, path: str, route: Json, document: Json) -> str:
    """Return the section of a route."""
    parts = [f'<a id="{anchor(method, path)}"></a>\n\n### {method} {path}', route["description"]]
    if parameters := route.get("parameters"):
        rows = [
            (marked(one["name"], is_required=one["required"]), one["in"], *described(one["schema"], document))
            for one in parameters
        ]
        parts.append(table(("parameter", "in", "type", "description"), rows))
    if body := route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema"):
        parts += ["Request:", table(("field", "type", "description"), list(field_rows(body, document, "")))]
    parts += response(route["responses"]["200"], document)
    parts.append(f"[Errors](#errors): in the format of {format_of(path).name}.")
    return "\n\n".join(parts)


def response(response: Json, document: Json) -> Iterator[str]:
    """Yield the paragraphs of the response with status 200."""
    content = response.get("content", {})
    yield f"Response: {response['description']}" if "application/json" in content else "Response: text."
    schema = content.get("application/json", {}).get("schema", {})
    if rows := [(name.removesuffix(" *"), kind, text) for name, kind, text in field_rows(schema, document, "")]:
        yield table(("field", "type", "description"), rows)


def field_rows(schema: Json, document: Json, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of each field of a body, each followed by the fields of the objects in it."""
    if "$ref" in schema:
        schema = resolved(schema, document)
        for name, one in schema["properties"].items():
            yield marked(prefix + name, is_required=name in schema.get("required", ())), *described(one, document)
            yield from field_rows(one, document, f"{prefix}{name}.")
    elif "items" in schema:
        yield from field_rows(schema["items"], document, f"{prefix.removesuffix('.')}[].")
    elif isinstance(values := schema.get("additionalProperties"), dict):
        yield from field_rows(values, document, f"{prefix}NAME.")
    for one in schema.get("anyOf", ()):
        yield from field_rows(one, document, prefix)


def resolved(schema: Json, document: Json) -> Json:
    """Return the schema that a reference names."""
    found: Json = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def marked(name: str, *, is_required: bool) -> str:
    """Return the name of a parameter or field as Markdown, with a mark if it is required."""
    return f"`{name}` *" if is_required else f"`{name}`"


def described(schema: Json, document: Json) -> tuple[str, str]:
    """Return the type of a field, and its description with the default."""
    description, default = schema.get("description", ""), schema.get("default")
    is_plain = default in (None, "", []) or (default == 0 and default is not False)
    if is_plain or "Default:" in description:
        return type_of(schema, document), description
    return type_of(schema, document), f"{description} Default: `{json.dumps(default).strip(chr(34))}`."


def type_of(schema: Json, document: Json) -> str:
    """Return the type of a field in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(one, document) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum") or [schema["const"]])
    if "items" in schema:
        return f"list of {type_of(schema['items'], document)}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"map of string to {type_of(values, document)}"
    return "object" if "$ref" in schema else str(schema.get("type", "any value")) + limits(schema)


def limits(schema: Json) -> str:
    """Return the limits of a number in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None:
        return f", {low:,.0f} to {high:,.0f}"
    return "" if low is None else f", at least {low:,.0f}"


def statuses() -> str:
    """Return the table of HTTP statuses."""
    rows = [(code, str(status), str(tei) if tei != status else "") for code, status, tei in status_table()]
    return table(("code", "HTTP status", "TEI"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    cells = [[one.replace("|", r"\|").replace("\n\n", "<br><br>").replace("\n", " ") for one in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells])


async def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of a gateway with default settings."""
    upstream = Upstream(settings := GatewaySettings())
    try:
        return create_app(settings, upstream).openapi()
    finally:
        await upstream.close()


def main() -> None:
    """Write the page into the repository, or elsewhere for comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE, help="file to write (default: %(default)s)")
    parser.parse_args().out.write_text(page(asyncio.run(openapi())))


if __name__ == "__main__":
    main()
