"""Configuration: typed dataclasses, YAML on disk, dotted overrides, and errors that name the key (contract 4)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import fsspec
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass

from esans.errors import ConfigError

T = TypeVar("T")

_RULES = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, arbitrary_types_allowed=True)


class Runtime:
    """Marks a field that changes how a stage runs but not what it writes; fingerprints leave it out."""


class Added:
    """Marks a field that came after bundles had been written without it: fingerprints leave it out at its default, and those stay valid."""


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def config(cls: type[T]) -> type[T]:
    """Make a class a configuration section: keyword-only, unknown keys refused, docstrings under fields kept for --help."""
    return _pydantic_dataclass(cls, config=_RULES, kw_only=True)  # type: ignore[return-value]


def section(cls: type[T]) -> T:
    """A nested section whose default is the section's own defaults."""
    return dataclasses.field(default_factory=cls)


def read_yaml(uri: str) -> dict[str, Any]:
    """Read one YAML mapping from a path or fsspec URI. Raises ConfigError when it is absent, broken or not a mapping."""
    try:
        with fsspec.open(uri, "r") as stream:
            loaded = yaml.safe_load(stream)
    except FileNotFoundError:
        raise ConfigError(f"config file not found: {uri}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {uri} is not valid YAML: {error}") from None
    if not isinstance(loaded, dict) and loaded is not None:
        raise ConfigError(f"config file {uri} must hold a mapping of sections, not a {type(loaded).__name__}")
    return loaded or {}


def parse_override(argument: str) -> dict[str, Any]:
    """`--train.batch_size=256` as a nested dict; the value is read as YAML."""
    body = argument.removeprefix("--")
    key, equals, value = body.partition("=")
    if not argument.startswith("--") or not equals or not key:
        raise ConfigError(f"cannot read {argument!r}: overrides look like --train.batch_size=256")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"cannot read the value of --{key}: {value!r} is not valid YAML") from None
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return dict(nested)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; mappings merge key by key, anything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Validate nested values into the dataclass `cls`. Raises ConfigError with one line per problem."""
    try:
        return TypeAdapter(cls).validate_python(_fill_empty_sections(cls, values))
    except ValidationError as error:
        lines = [_explain(cls, problem, prefix) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _fill_empty_sections(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    # YAML reads a section whose keys are all commented out as null; it means the section's defaults.
    filled = dict(values)
    for name, info in cls.__pydantic_fields__.items():
        if name in filled and dataclasses.is_dataclass(info.annotation) and isinstance(filled[name], Mapping | None):
            filled[name] = _fill_empty_sections(info.annotation, filled[name] or {})
    return filled


def _explain(cls: type, problem: Any, prefix: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join([*([prefix] if prefix else []), *path])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = _field_names(_descend(cls, path[:-1]))
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{key}: unknown key.{hint} Allowed here: {', '.join(allowed)}."
    if problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: required, and not set."
    if problem["type"] in ("dataclass_type", "dataclass_exact_type"):
        allowed = _field_names(_descend(cls, path))
        return f"{key} = {problem['input']!r}: must be a section with keys of its own. Allowed there: {', '.join(allowed)}."
    if problem["type"] == "list_type":
        return f"{key} = {problem['input']!r}: must be a list, written [a, b]."
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {problem['input']!r}: must be {message}."


def _descend(cls: Any, path: Sequence[str]) -> Any:
    for part in path:
        for inner in _dataclasses_in(cls):
            types = {name: info.annotation for name, info in inner.__pydantic_fields__.items()}
            if part in types:
                cls = types[part]
                break
    return next(iter(_dataclasses_in(cls)), cls)


def _dataclasses_in(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _dataclasses_in(argument)


def _field_names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def to_dict(value: Any, *, results_only: bool = False) -> Any:
    """A config as plain dicts, lists and scalars; `results_only` leaves out Runtime fields, and Added ones at their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_dict(getattr(value, field.name), results_only=results_only)
            for field in dataclasses.fields(value)
            if not (results_only and (is_runtime(type(value), field.name) or _untouched(value, field.name)))
        }
    if isinstance(value, Mapping):
        return {str(key): to_dict(item, results_only=results_only) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item, results_only=results_only) for item in value]
    return value


def is_runtime(cls: Any, name: str) -> bool:
    """Whether the field carries the Runtime mark."""
    return is_marked(cls, name, Runtime)


def is_marked(cls: Any, name: str, kind: type) -> bool:
    """Whether the field carries a mark: a class in its Annotated type."""
    return any(mark is kind or isinstance(mark, kind) for mark in cls.__pydantic_fields__[name].metadata)


def _untouched(value: Any, name: str) -> bool:
    """Whether a field is marked Added and has its default."""
    cls = type(value)
    return is_marked(cls, name, Added) and getattr(value, name) == cls.__pydantic_fields__[name].get_default(call_default_factory=True)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {'train.batch_size': 256}: MLflow parameters. Lists of scalars stay one value, lists of dicts are numbered."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            flat.update(flatten({str(place): item for place, item in enumerate(value)}, f"{name}."))
        else:
            flat[name] = value
    return flat


@dataclasses.dataclass(frozen=True)
class Key:
    """One documented configuration key."""

    name: str
    type: str
    default: str
    help: str
    runtime: bool
    """Whether it changes how a stage runs but not what it writes."""


def document(cls: Any, prefix: str = "") -> Iterator[Key]:
    """Every key of a config class, depth first, with its type, default and docstring."""
    for name, info in cls.__pydantic_fields__.items():
        inner = info.annotation if dataclasses.is_dataclass(info.annotation) else None
        if inner is not None:
            yield from document(inner, f"{prefix}{name}.")
            continue
        default = info.get_default(call_default_factory=True)
        yield Key(f"{prefix}{name}", _type_name(info.annotation), repr(default), _help(cls, name), is_runtime(cls, name))


def _help(cls: Any, name: str) -> str:
    # Pydantic reads the docstrings of a class's own body; those of inherited fields stand in the base.
    infos = [getattr(base, "__pydantic_fields__", {}).get(name) for base in cls.__mro__]
    return next((" ".join(info.description.split()) for info in infos if info is not None and info.description), "")


def _type_name(annotation: Any) -> str:
    """A type as people write it: without the constraints, which the docstrings tell."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join("None" if argument is type(None) else _type_name(argument) for argument in arguments)
    if origin in (list, dict, tuple):
        return f"{origin.__name__}[{', '.join(_type_name(argument) for argument in arguments)}]"
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
