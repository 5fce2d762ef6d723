"""Text that people write, JSON or YAML, as plain values: several documents in one text, one line for what is wrong.

JSON documents may follow one another or stand in a list, as Pachyderm takes them; so may YAML's. Fields that are there
twice are refused, because one of them would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from vfsd.model.errors import InvalidArgument


class _YamlLoader(yaml.SafeLoader):
    """YAML with JSON's types: `no` and `2024-01-01` stay text, keys stand once, nothing holds itself."""

    yaml_implicit_resolvers = {  # noqa: RUF012  pyyaml's own way of saying it
        first: [
            (tag, found)
            for tag, found in resolvers
            if tag.endswith((":null", ":int", ":float", ":merge")) or (tag.endswith(":bool") and first in "tTfF")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node in self.recursive_objects:  # an alias within its own anchor
            raise yaml.constructor.ConstructorError(None, None, "what begins here holds itself", node.start_mark)
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key_node, _ in node.value:
            if not key_node.tag.endswith(":merge"):
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
                seen.append(key)
        return super().construct_mapping(node, deep)


def read_documents(text: str, where: str) -> list[Any]:
    """The documents of a text, as dicts, lists, text, numbers, true, false and None.

    A text that begins with `{` or `[` is JSON unless `where`, which names the file in messages, ends in .yaml or .yml.
    InvalidArgument when it cannot be read.
    """
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if start in {"{", "["} and not where.endswith((".yaml", ".yml")):
        documents = list(_json_documents(text.lstrip("\ufeff"), where))
    else:
        try:
            documents = list(yaml.load_all(text, _YamlLoader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise InvalidArgument(f"{where}: {at}{error.problem}") from None
        except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
            raise InvalidArgument(f"{where}: {' '.join(str(error).split())}") from None
    _check_text(documents, where)
    specs = []
    for document in documents:
        specs.extend(document if isinstance(document, list) else [document] if document is not None else [])
    return specs


def _check_text(documents: list[Any], where: str) -> None:
    r"""Refuse halves of pairs: JSON can write them, as \ud83d, and UTF-8 cannot."""
    rest: list[Any] = [documents]
    seen = set()  # an anchor of YAML may stand in many places
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InvalidArgument(f"{where}: half a surrogate pair stands in {value[:80]!a}, which is no character")


def _json_documents(text: str, where: str) -> Iterator[Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InvalidArgument(f"{where}: {key!r} stands twice in one object")
            found[key] = value
        return found

    def no_constant(name: str) -> NoReturn:
        raise InvalidArgument(f"{where}: {name} is no number in JSON")

    decoder = json.JSONDecoder(object_pairs_hook=once, parse_constant=no_constant)
    at = 0
    while (at := _skip_space(text, at)) < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InvalidArgument(f"{where}: line {error.lineno}, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise InvalidArgument(f"{where}: it is nested too deeply to be a spec") from None
        yield document


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
