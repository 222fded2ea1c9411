"""YAML that a user wrote → a plain mapping; each mistake gives one sentence with its place in the file.

A study file may come from somebody else. Aliases can fill the memory from a few lines ("billion laughs"), deep
nesting exhausts the stack, and OmegaConf's resolvers read the environment and other files: these are refused. The only
interpolations are `${from_env:NAME}` and `${key}`, and the length of their values is limited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from pellucid.cohort.errors import UserError

MOST_BYTES = 10_000_000
DEEPEST = 20
LONGEST_TEXT = 4096  # characters of a text after interpolation, such as a path
INTERPOLATIONS = "only ${from_env:NAME}, ${from_env:NAME,default} and ${key} are replaced, and none inside another"
_PLACE = re.compile(r"\$\{([^${}]*)\}")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Refused(Exception):
    """What is wrong, and where."""

    def __init__(self, said: str, mark: yaml.Mark | None) -> None:
        super().__init__(said)
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """A SafeLoader without aliases, of bounded depth; a key has one value, and a day such as 2021-03-04 is text."""

    _depth = 0
    # a day would be no value that a configuration can hold; as text it is the level that the table has
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            raise _Refused(
                f"anchors and aliases (`{sign}{event.anchor}`) are not read: write the value at each place, and put a "
                "text that begins with * or & into quotes",
                event.start_mark,
            )
        if self._depth > DEEPEST:
            raise _Refused(f"nested more than {DEEPEST} deep: a bracket that is not closed?", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in first:
                    line = first[key.tag, key.value] + 1
                    raise _Refused(f"the key `{key.value}` is also in line {line}: remove one", key.start_mark)
                first[key.tag, key.value] = key.start_mark.line
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, TypeError, AttributeError, LookupError):
            shown = node.value[:40] if isinstance(node, yaml.ScalarNode) else ""
            kind = str(node.tag).rpartition(":")[2]
            raise _Refused(f"`{shown}` cannot be read as {kind}: put it into quotes", node.start_mark) from None


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text.

    Args:
        where: the file, for messages.

    Raises:
        UserError: it is not YAML, or holds what is not read; the message gives the line.
    """
    try:
        return yaml.load(text, _Loader)
    except _Refused as refused:
        raise UserError(f"{where}{_line(refused.mark)}: {refused}") from None
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        if error.context and ("alias" in error.context or "anchor" in error.context):
            said += "; put a text that begins with * or & into quotes"
        raise UserError(f"{where}{_line(error.problem_mark or error.context_mark)}: not valid YAML: {said}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _line(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f", line {mark.line + 1}"


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: missing, too large, not YAML, or not a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: has more than {MOST_BYTES // 10**6} MB: is it the file that you mean?")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `pellucid init FOLDER` drafts a study.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    loaded = parse_yaml(text, str(path))
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected `key: value` lines at the top level")
    return loaded


def merged(parts: Iterable[dict[Any, Any]]) -> dict[Any, Any]:
    """Mappings in one, the later over the earlier; mappings inside are merged, everything else is replaced."""
    whole: dict[Any, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = whole.get(key)
            whole[key] = merged([old, value]) if isinstance(old, dict) and isinstance(value, dict) else value
    return whole


def interpolated(data: dict[Any, Any], where: str) -> dict[Any, Any]:
    """The mapping with `${from_env:NAME}`, `${from_env:NAME,default}` and `${key.sub}` replaced by their values.

    A key that is referred to must hold a text or number without a reference to another key.

    Raises:
        UserError: another interpolation, an unknown key or variable, or a text that becomes too long.
    """

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: walk(inner, f"{key}.{name}" if key else str(name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, f"{key}[{i}]") for i, inner in enumerate(value)]
        return _filled(value, data, f"{where}: `{key}`")

    found = walk(data, "")
    assert isinstance(found, dict)
    return found


def _filled(value: Any, keys: dict[Any, Any] | None, where: str) -> Any:
    """A value with its interpolations replaced; `keys` None: references to keys are refused."""
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = _PLACE.fullmatch(value)
    if whole:
        return _value_of(whole[1], keys, where)
    text, end = "", 0
    for match in _PLACE.finditer(value):
        text += value[end : match.start()] + str(_value_of(match[1], keys, where))
        end = match.end()
        if len(text) > LONGEST_TEXT:
            raise UserError(f"{where}: becomes longer than {LONGEST_TEXT} characters")
    if "${" in _PLACE.sub("", value):
        raise UserError(f"{where}: `{value[:60]}`: {INTERPOLATIONS}")
    return text + value[end:]


def _value_of(said: str, keys: dict[Any, Any] | None, where: str) -> str | int | float:
    """What `${said}` gives."""
    kind, colon, rest = said.partition(":")
    if colon:
        if kind.strip() != "from_env":
            raise UserError(f"{where}: `${{{said[:60]}}}`: {INTERPOLATIONS}")
        name, comma, default = (part.strip() for part in rest.partition(","))
        if name not in os.environ and not comma:
            raise UserError(
                f"{where}: the environment variable {name} is not set: set it, or give the key on the command line"
            )
        return os.environ.get(name, default)
    found: Any = keys
    for part in said.strip().split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if keys is None or isinstance(found, bool) or not isinstance(found, str | int | float):
        raise UserError(
            f"{where}: `${{{said[:60]}}}`: there is no such key that holds one text or number: name one "
            "that itself refers to no other key"
        )
    value = _filled(found, None, where)
    assert isinstance(value, str | int | float)
    return value
