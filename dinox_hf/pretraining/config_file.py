"""Nested dataclasses from YAML and `--a.b=c`: strict names, values coerced by the declared type, and back to YAML."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration: the defaults of `cls`, changed by a YAML file, changed by `--a.b=c` arguments.

    Args:
        cls: a frozen dataclass whose fields may be dataclasses themselves.
        path: YAML file with only what the run changes; None for the defaults. Its line `base: OTHER.yaml`, or
            `base: [ONE.yaml, OTHER.yaml]`, starts from other files, named from its own folder; later ones win.
        overrides: arguments such as `--crops.num_local=4` or `--crops.global_scale=[0.4,1.0]`.

    Raises:
        ValueError: an unknown field, a value of another type, a file that is no YAML mapping.
    """
    values = _read_with_bases(Path(path)) if path is not None else {}
    for override in overrides:
        _set_by_dotted_name(values, override)
    return _build(cls, values, prefix="")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values of a configuration, tuples as lists: what `run.yaml` holds."""
    return _plain(dataclasses.asdict(config))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


def _read_with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file over those of its bases; `above` are the files that led here."""
    if path.resolve() in above:
        circle = " -> ".join(str(file.name) for file in (*above, path))
        raise ValueError(f"`base` must not lead back to its own file; found {circle}. Take one of these lines out.")
    values = _read_yaml(path)
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(
            f"`base` in {path} must be a file or a list of them; found {bases!r}. Write base: OTHER.yaml."
        )
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merged(merged, _read_with_bases(path.parent / base, (*above, path.resolve())))
    return _merged(merged, values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Groups are merged name by name; anything else, lists too, is replaced."""
    merged = dict(below)
    for name, value in above.items():
        both_groups = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both_groups else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        shipped = f" Files there: {', '.join(near)}." if near else ""
        raise ValueError(f"Expected a configuration file; found no file at {path}.{shipped} Check the spelling.")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML in {path}; found {error}. Mend the line that it names.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(
            f"Expected `name: value` lines in {path}; found a {type(values).__name__}. See training/configs/."
        )
    return values


def _set_by_dotted_name(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.removeprefix("--").partition("=")
    if not override.startswith("--") or not equals:
        raise ValueError(
            f"Expected an argument of the form --a.b=value; found {override!r}. Write --crops.num_local=4."
        )
    *parents, leaf = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(
                f"{name} sets a part of `{parent}`, which is a plain value; found {override!r}. Drop one."
            )
    values[leaf] = yaml.safe_load(text)


def _build(cls: type[Config], values: dict[str, Any], prefix: str) -> Config:
    hints = typing.get_type_hints(cls)
    _refuse_unknown_names(cls, values, hints, prefix)
    return cls(**{name: _coerce(hints[name], value, prefix + name) for name, value in values.items()})


def _refuse_unknown_names(cls: type, values: dict[str, Any], hints: dict[str, Any], prefix: str) -> None:
    for name in values:
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f" Did you mean `{prefix}{close[0]}`?" if close else ""
            raise ValueError(
                f"{cls.__name__} has no field `{prefix}{name}`.{hint} Fields: {', '.join(sorted(hints))}."
            )


def _coerce(hint: Any, value: Any, name: str) -> Any:
    """The value as the declared type, so that `1e-4`, text to YAML, becomes a number; ValueError where it cannot."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str) and hasattr(hint, "SHORT_FOR"):
            value = {hint.SHORT_FOR: value}
        if not isinstance(value, dict):
            raise _wrong_type(name, "a group of fields", value)
        return _build(hint, value, prefix=f"{name}.")
    if origin in (Union, types.UnionType):
        return None if value is None else _coerce(next(a for a in arguments if a is not type(None)), value, name)
    if origin is Literal:
        return _choice(arguments, value, name)
    if origin is tuple:
        return _coerce_tuple(arguments, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong_type(name, "a group of names and values", value)
        return {key: _number(item) for key, item in value.items()}
    return _coerce_scalar(hint, value, name)


def _number(value: Any) -> Any:
    """`1e-5`, text to YAML, as a number, in a group whose fields have no declared type."""
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    return float(value) if is_number else value


def _choice(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    # YAML reads an unquoted `no` as False.
    value = "no" if value is False and "no" in choices else value
    if value not in choices:
        raise _wrong_type(name, f"one of {', '.join(map(repr, choices))}", value)
    return value


def _coerce_tuple(arguments: tuple[Any, ...], value: Any, name: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise _wrong_type(name, "a list", value)
    if arguments[-1] is Ellipsis:
        return tuple(_coerce(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong_type(name, f"a list of {len(arguments)}", value)
    return tuple(_coerce(a, item, f"{name}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))


def _coerce_scalar(hint: type, value: Any, name: str) -> Any:
    if hint is bool or isinstance(value, bool):
        if hint is not bool or not isinstance(value, bool):
            raise _wrong_type(name, "true or false" if hint is bool else f"of type {hint.__name__}", value)
        return value
    if hint is int and isinstance(value, float) and not value.is_integer():
        raise _wrong_type(name, "a whole number", value)
    try:
        return hint(value) if value is not None else _refuse_none(name, hint)
    except (TypeError, ValueError) as error:
        raise _wrong_type(name, f"of type {hint.__name__}", value) from error


def _refuse_none(name: str, hint: type) -> None:
    raise _wrong_type(name, f"of type {hint.__name__}", None)


def _wrong_type(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"`{name}` must be {expected}; found {value!r}. Mend it in the YAML file or as --{name}=….")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
