"""Generator of `protos/API.md`, the reference of the gRPC API, from the protos and their comments."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

PROTOS: Final = Path(__file__).parent
INTRODUCTION: Final = """# gRPC API

All services, messages and enums of the protos in `protos/sluice`. [CLIENTS.md](CLIENTS.md) shows how to call them.
`make protos` generates this page; do not edit it.

Fields that are not set have the default value of their type: 0, false, an empty string or list. Errors are described at
[ErrorReason](#sluice.common.v1.ErrorReason).
"""
ORDER: Final = (
    "sluice.search.v1",
    "sluice.embedding.v1",
    "sluice.reranking.v1",
    "sluice.retrieval.v1",
    "sluice.common.v1",
)
"""Packages in the order of the page; others follow by name."""
IDEMPOTENCY: Final = {
    MethodOptions.IDEMPOTENCY_UNKNOWN: "not idempotent",
    MethodOptions.NO_SIDE_EFFECTS: "no side effects",
    MethodOptions.IDEMPOTENT: "idempotent",
}
# Field numbers in descriptor.proto, which make up the paths of comments.
FILE_MESSAGES: Final = 4
FILE_ENUMS: Final = 5
FILE_SERVICES: Final = 6
FILE_SYNTAX: Final = 12
MESSAGE_FIELDS: Final = 2
MESSAGE_MESSAGES: Final = 3
MESSAGE_ENUMS: Final = 4
MESSAGE_ONEOFS: Final = 8
SERVICE_METHODS: Final = 2
ENUM_VALUES: Final = 2

Location = tuple[int, ...]
Kind = ServiceDescriptorProto | DescriptorProto | EnumDescriptorProto


@dataclass(frozen=True)
class Definition:
    """A service, message or enum.

    package   full name of its package
    name      within the package, such as `StageReport.Status`
    path      path of its comment
    comments  comments of its file, by path
    """

    package: str
    name: str
    proto: Kind
    path: Location
    comments: Mapping[Location, str]

    @property
    def full_name(self) -> str:
        """Full name, which is also the anchor on the page."""
        return f"{self.package}.{self.name}"

    def comment(self, *inner: int) -> str:
        """Return the comment of the definition, or of an element in it."""
        return unindented(self.comments.get((*self.path, *inner), ""))


def read_files() -> list[FileDescriptorProto]:
    """Return all protos with their comments, in the order of the page. Raises RuntimeError if protoc rejects one."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    sources = map(str, sorted((PROTOS / "sluice").rglob("*.proto")))
    with TemporaryDirectory() as folder:
        out = Path(folder) / "protos.binpb"
        options = [f"--proto_path={PROTOS}", f"--proto_path={well_known}", "--include_source_info"]
        status = protoc.main(["protoc", *options, f"--descriptor_set_out={out}", *sources])
        if status != 0:
            raise RuntimeError(f"protoc failed with status {status}; see its messages above")
        files = FileDescriptorSet.FromString(out.read_bytes()).file
    return sorted(files, key=lambda file: (sort_key(file.package), file.name))


def sort_key(package: str) -> tuple[int, str]:
    """Return the sort key of a package."""
    return (ORDER.index(package) if package in ORDER else len(ORDER), package)


def comments_of(file: FileDescriptorProto) -> dict[Location, str]:
    """Return the comments of a file by path."""
    return {tuple(location.path): location.leading_comments for location in file.source_code_info.location}


def definitions_of(file: FileDescriptorProto) -> list[Definition]:
    """Return the services, messages and enums of a file."""
    comments = comments_of(file)
    found: list[tuple[str, Kind, Location]] = [
        *((one.name, one, (FILE_SERVICES, at)) for at, one in enumerate(file.service)),
        *messages_of(file.message_type, "", (FILE_MESSAGES,)),
        *((one.name, one, (FILE_ENUMS, at)) for at, one in enumerate(file.enum_type)),
    ]
    return [Definition(file.package, name, proto, path, comments) for name, proto, path in found]


def messages_of(
    messages: Sequence[DescriptorProto], scope: str, path: Location
) -> Iterator[tuple[str, Kind, Location]]:
    """Yield name, descriptor and path of each message, followed by those of the messages and enums in it."""
    for at, message in enumerate(messages):
        if message.options.map_entry:
            continue
        name, here = f"{scope}{message.name}", (*path, at)
        yield name, message, here
        yield from messages_of(message.nested_type, f"{name}.", (*here, MESSAGE_MESSAGES))
        for place, enum in enumerate(message.enum_type):
            yield f"{name}.{enum.name}", enum, (*here, MESSAGE_ENUMS, place)


def page() -> str:
    """Return the whole page."""
    packages = {name: list(files) for name, files in groupby(read_files(), lambda file: file.package)}
    sections = {name: [one for file in files for one in definitions_of(file)] for name, files in packages.items()}
    parts = [INTRODUCTION, "## Contents\n", *(contents(name, found) for name, found in sections.items())]
    for name, found in sections.items():
        parts += [heading(2, name, f"Package {name}"), *filter(None, map(introduction, packages[name]))]
        parts += map(section, found)
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def contents(package: str, definitions: Sequence[Definition]) -> str:
    """Return the part of the table of contents for a package."""
    lines = [f"- {link(package, package)}"]
    for one in definitions:
        if isinstance(one.proto, ServiceDescriptorProto):
            methods = (link(f"{one.full_name}.{method.name}", method.name) for method in one.proto.method)
            lines.append(f"  - {link(one.full_name, one.name)}: {', '.join(methods)}")
    for kind, title in ((DescriptorProto, "Messages"), (EnumDescriptorProto, "Enums")):
        links = [link(one.full_name, one.name) for one in definitions if isinstance(one.proto, kind)]
        lines += [f"  - {title}: {', '.join(links)}"] if links else []
    return "\n".join(lines)


def introduction(file: FileDescriptorProto) -> str:
    """Return the comment at the top of a file."""
    return unindented(comments_of(file).get((FILE_SYNTAX,), ""))


def section(definition: Definition) -> str:
    """Return the section of a service, message or enum."""
    head = [heading(3, definition.full_name, definition.name), definition.comment()]
    match definition.proto:
        case ServiceDescriptorProto():
            body = [method_section(definition, at, one) for at, one in enumerate(definition.proto.method)]
        case DescriptorProto():
            body = message_body(definition, definition.proto)
        case _:
            rows = [
                (str(one.number), f"`{one.name}`", definition.comment(ENUM_VALUES, at))
                for at, one in enumerate(definition.proto.value)
            ]
            body = [table(("number", "value", "description"), rows)]
    return "\n\n".join(filter(None, [*head, *body])) + "\n"


def method_section(service: Definition, at: int, method: MethodDescriptorProto) -> str:
    """Return the section of a method: its messages, its idempotency, its comment."""
    request = streamed(method.input_type, is_stream=method.client_streaming)
    response = streamed(method.output_type, is_stream=method.server_streaming)
    idempotency = IDEMPOTENCY[method.options.idempotency_level]
    head = heading(4, f"{service.full_name}.{method.name}", method.name)
    return "\n\n".join([head, f"{request} → {response}, {idempotency}", service.comment(SERVICE_METHODS, at)])


def streamed(type_name: str, *, is_stream: bool) -> str:
    """Return the link to the request or response of a method."""
    return f"stream of {reference(type_name)}" if is_stream else reference(type_name)


def message_body(definition: Definition, message: DescriptorProto) -> list[str]:
    """Return the fields of a message as a table, and the comments of its oneofs below."""
    maps = {f".{definition.full_name}.{one.name}": one for one in message.nested_type if one.options.map_entry}
    rows = [
        (str(one.number), f"`{one.name}`", type_of(one, message, maps), definition.comment(MESSAGE_FIELDS, at))
        for at, one in enumerate(message.field)
    ]
    oneofs = [
        f"Oneof `{one.name}`: {definition.comment(MESSAGE_ONEOFS, at)}"
        for at, one in enumerate(message.oneof_decl)
        if definition.comment(MESSAGE_ONEOFS, at)
    ]
    return [table(("number", "field", "type", "description"), rows), *oneofs] if rows else []


def type_of(field: FieldDescriptorProto, message: DescriptorProto, maps: Mapping[str, DescriptorProto]) -> str:
    """Return the type of a field as Markdown, with its label: repeated, optional or its oneof."""
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map of {plain_type(key)} to {plain_type(value)}"
    name = plain_type(field)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, in oneof `{message.oneof_decl[field.oneof_index].name}`"
    return name


def plain_type(field: FieldDescriptorProto) -> str:
    """Return the name of a field's type, linked if it is a message or an enum."""
    if field.type_name:
        return reference(field.type_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def reference(type_name: str) -> str:
    """Return a link to a type, or only its name if it is one of protobuf's own."""
    full_name = type_name.removeprefix(".")
    if full_name.startswith("google."):
        return full_name
    short = ".".join(part for part in full_name.split(".") if part[0].isupper())
    return link(full_name, short)


def heading(level: int, anchor: str, text: str) -> str:
    """Return a heading that can be linked by the anchor."""
    return f'<a id="{anchor}"></a>\n\n{"#" * level} {text}'


def link(anchor: str, text: str) -> str:
    """Return a link within the page."""
    return f"[{text}](#{anchor})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. Paragraphs of a cell are separated by line breaks."""
    cells = [[one.replace("|", r"\|").replace("\n\n", "<br><br>").replace("\n", " ") for one in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def unindented(comment: str) -> str:
    """Return a comment without the spaces around its lines."""
    return "\n".join(line.strip() for line in comment.strip().splitlines())


def main() -> None:
    """Write the page into the repository, or elsewhere for comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PROTOS / "API.md", help="file to write (default: %(default)s)")
    parser.parse_args().out.write_text(page())


if __name__ == "__main__":
    main()
