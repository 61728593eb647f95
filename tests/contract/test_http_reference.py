"""`services/gateway/API.md` is what the gateway's OpenAPI document says."""

import re

from services.gateway.reference import FILE, openapi, page


async def test_the_reference_of_the_http_api_is_up_to_date() -> None:
    document = await openapi()
    text = page(document)
    assert FILE.read_text() == text, "run `make protos`"
    headings = set(re.findall(r"^### (\w+) (\S+)$", text, re.MULTILINE))
    assert headings == {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    links, anchors = set(re.findall(r"\(#(.+?)\)", text)), set(re.findall(r'<a id="(.+?)">', text))
    assert links - anchors == {"errors"}


async def test_everything_in_the_http_api_is_described() -> None:
    document = await openapi()
    fields = {
        f"{name}.{field}": one
        for name, schema in document["components"]["schemas"].items()
        for field, one in schema.get("properties", {}).items()
    }
    routes = {
        f"{method} {path}": route for path, methods in document["paths"].items() for method, route in methods.items()
    }
    parameters = {f"{name} {one['name']}": one for name, route in routes.items() for one in route.get("parameters", ())}
    missing = [name for name, one in (fields | routes | parameters).items() if not one.get("description")]
    assert not missing
