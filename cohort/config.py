"""YAML plus dotted overrides to one frozen, fully checked configuration; all mistakes are reported together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from pellucid.cohort.errors import UserError
from pellucid.cohort.yaml_file import DEEPEST, INTERPOLATIONS, interpolated, load_yaml, merged, parse_yaml

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every configuration: frozen, and a key it does not know is a mistake, not a comment."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sections: ClassVar[tuple[str, ...]] = ()  # keys that hold the settings of one verb each


def switch(value: Any) -> Any:
    """`on` and `off` as they were written: YAML 1.1 reads them as true and false. For a `BeforeValidator`."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def find_recipe(kind: str, name: str) -> Path:
    """Path of `configs/<kind>/<name>.yaml`, in the repository or in the installed wheel.

    Raises:
        UserError: no such recipe; the message lists those there are.
    """
    here = Path(__file__).resolve().parent  # in a checkout this module is reached through a link
    root = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    path = root / kind / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (root / kind).glob("*.yaml"))
        raise UserError(f"there is no {kind} recipe `{name}`{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return path


def read_yaml(paths: Path | Sequence[Path], overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file with `key.sub=value` overrides merged in and interpolations resolved.

    Several files are merged in order, the later over the earlier.

    Raises:
        UserError: the file is missing, is not YAML, is not a mapping, holds what is not read
            (`pellucid.cohort.yaml_file`), or an override has no `=`.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    parts = [load_yaml(path) for path in paths]
    for override in overrides:
        parts.append(_of_override(override))
    where = " with ".join(map(str, paths)) or "on the command line"
    return {str(key): value for key, value in interpolated(merged(parts), where).items()}


def _of_override(override: str) -> dict[Any, Any]:
    """`key.sub=value` as a mapping."""
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"`{override}`: an override is written key=value, for example split.test=0.3")
    where = f"on the command line: `{key[:60]}`"
    parse_yaml(value, where)  # refuses what a file may not hold either
    if key.count(".") + key.count("[") > DEEPEST:
        raise UserError(f"{where}: nested more than {DEEPEST} deep")
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
    except OmegaConfBaseException as error:
        said = f"`{value[:60]}`: {INTERPOLATIONS}" if "${" in value else " ".join(str(error).split())
        raise UserError(f"{where}: {said}") from None
    assert isinstance(found, dict)
    return found


def validate(
    model: type[ConfigT], data: Mapping[str, Any], where: str, section: str = "", typed: Collection[str] = ()
) -> ConfigT:
    """`data` as a frozen `model`.

    Args:
        where: the file, for messages.
        section: of the file, if `data` is one.
        typed: keys that came from the command line, with their section: the file is not to blame for them.

    Raises:
        UserError: one line per mistake: where, which key, what is wrong, and the nearest known key.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        lines = [_explain(model, dict(item), where, section, typed) for item in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _explain(
    model: type[BaseModel], item: dict[str, Any], where: str, section: str = "", typed: Collection[str] = ()
) -> str:
    path = [str(part) for part in item["loc"] if not _is_union_branch(str(part))]
    key = ".".join([section, *path] if section and path else path)
    where = "on the command line" if key and key in typed else where
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        near = did_you_mean(path[-1], known)
        if not near and len(path) == 1 and issubclass(model, Config) and model.sections:
            ways = ", ".join(f"{name}.{key}" for name in model.sections)
            near = f"; a setting of a verb is written with the verb's section: {ways}"
        return f"{where}: unknown key `{key}`{near}"
    if item["type"] == "missing":
        return f"{where}: the key `{key}` is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if not key:  # what is wrong lies between keys: the whole configuration is no help
        return f"{where}: {message}"
    shown = item.get("input")
    return f"{where}: `{key}` is {shown!r}: {message[0].lower()}{message[1:]}"


def _is_union_branch(part: str) -> bool:
    """pydantic puts the name of the tried union member into the location; a user never wrote it."""
    return part[:1].isupper() or part in {"str", "int", "float", "bool", "none"} or "[" in part


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in path:
        field = current.model_fields.get(part) if current is not None else None
        current = None if field is None else _model_in(field.annotation)
    return [] if current is None else list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean `x`?"`, or nothing where nothing is near."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6) or [
        name for name in names if name.lower() == word.lower()
    ]
    return f"; did you mean `{near[0]}`?" if near else ""
