"""`key=value` command lines: a dataclass is the schema, OmegaConf checks the types.

The value is everything after the first `=`. A field of type `str` takes it as it stands, so a path with spaces, commas,
parentheses or `=` needs no escape; any other field reads it as YAML (`task=[sr,denoise]`, `sigma={min: 0, max: 50}`).
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kgt.addresses import without_password
from kgt.errors import UserError
from kgt.tasks import TASKS, get_task, nearest
from pipelines.degradations import settings_of

SchemaT = TypeVar("SchemaT")

_WANTED = {int: "a whole number", float: "a number", bool: "true or false"}


def about(line: str) -> dict[str, str]:
    """The metadata of a schema's field: the line that `--help` prints for it."""
    return {"help": line}


def parse(schema: type[SchemaT], argv: Sequence[str], usage: str) -> SchemaT:
    """The schema's instance that `argv` (`key=value` each) describes. `--help` prints `usage` and the settings.

    `schema` is a dataclass (not frozen), possibly nested (`optimizer.lr=…`). If it has a field `tasks` (a dict), then
    `tasks.<task>.<setting>=…` are checked against that task's degradation and kept there: `{task: {setting: value}}`.
    Raises UserError: not `key=value`, an unknown key (with the nearest right one), a value of the wrong type or with a
    password in an address.
    """
    if {"-h", "--help"} & set(argv):
        print(_help(schema, usage))
        raise SystemExit(0)
    kinds = _leaves(schema)
    config = OmegaConf.structured(schema)
    texts: dict[str, str] = {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        without_password(argument, "an address", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
        if not equals:
            raise UserError(f"'{argument}' is not of the form key=value: {nearest(argument, kinds)}")
        if key.startswith("tasks.") and "tasks" in kinds:
            _add_task_setting(config, key, value)
        elif key not in kinds and key.partition(".")[0] not in _mappings(kinds):
            raise UserError(f"unknown setting '{key}': {nearest(key, kinds)}")
        elif _is_text(kinds.get(key)):
            texts[key] = value
        else:
            config = _merge(config, key, value, kinds.get(key))
    return _replace_texts(OmegaConf.to_object(config), texts)


def parse_named(schema: type[SchemaT], argv: Sequence[str], usage: str, wanted: str) -> tuple[str, SchemaT]:
    """A name, and the schema's instance that the words after it describe (see `parse`).

    Raises UserError, which says what is `wanted`, where no name comes first.
    """
    if {"-h", "--help"} & set(argv):
        parse(schema, ["--help"], usage)
    if not argv or "=" in argv[0]:
        raise UserError(wanted)
    return argv[0], parse(schema, argv[1:], usage)


def divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--`, and those after it."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def expand_tasks(value: str | Sequence[str]) -> list[str]:
    """`all`, one name or several as a list of names, each once. Raises UserError with the nearest right name."""
    if value == "all":
        return list(TASKS)
    names = [value] if isinstance(value, str | int | float) else list(value or ())
    if not names:
        raise UserError(f"task is empty: name one of {', '.join(TASKS)}, several as task=[sr,denoise], or all")
    for name in names:
        if "," in str(name):
            raise UserError(f"task={name}: a list is written task=[{name}]")
        get_task(str(name))
    return list(dict.fromkeys(names))


def _leaves(schema: type, prefix: str = "") -> dict[str, Any]:
    """Every settable key of the schema with its type."""
    leaves: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            leaves |= _leaves(kind, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = kind
    return leaves


def _mappings(kinds: Mapping[str, Any]) -> set[str]:
    return {key for key, kind in kinds.items() if typing.get_origin(kind) is dict and key != "tasks"}


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union but None, or the type alone."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return tuple(member for member in typing.get_args(kind) if member is not type(None))
    return (kind,)


def _is_text(kind: Any) -> bool:
    return _members(kind) == (str,)


def _merge(config: Any, key: str, value: str, kind: Any) -> Any:
    try:
        return OmegaConf.merge(config, OmegaConf.from_dotlist([f"{key}={value}"]))
    except yaml.YAMLError as error:
        raise UserError(f"{key}={value}: cannot be read as a value; a list is written [a,b]") from error
    except OmegaConfBaseException as error:
        (member, *_) = _members(kind)
        if typing.get_origin(member) is typing.Literal:
            raise UserError(f"{key}={value}: {nearest(value, map(str, typing.get_args(member)))}") from error
        raise UserError(f"{key}={value}: {_WANTED.get(member, 'another kind of value')} is wanted") from error


def _add_task_setting(config: Any, key: str, value: str) -> None:
    _, task, setting, *deeper = [*key.split("."), ""]
    get_task(task)
    if not setting or deeper != [""]:
        raise UserError(f"'{key}' is not of the form tasks.<task>.<setting>")
    try:
        written = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"{key}={value}: a number, [a, list] or {{min: a, max: b}} is wanted") from error
    settings_of(task, {setting: written})
    config.tasks.setdefault(task, {})
    config.tasks[task][setting] = written


def _replace_texts(instance: SchemaT, texts: Mapping[str, str]) -> SchemaT:
    """`instance` with raw texts put in: they never pass through OmegaConf, which would interpolate `${…}`."""
    changes: dict[str, Any] = {}
    for key, text in texts.items():
        name, _, rest = key.partition(".")
        if rest:
            changes[name] = _replace_texts(changes.get(name, getattr(instance, name)), {rest: text})
        else:
            changes[name] = text
    return dataclasses.replace(instance, **changes)


def _help(schema: type, usage: str) -> str:
    lines = [usage.strip(), "", "settings (key=value):"]
    width = max(len(field.name) for field in dataclasses.fields(schema)) + 2
    for field in dataclasses.fields(schema):
        default = field.default if field.default is not dataclasses.MISSING else ""
        shown = (
            "" if default in (None, "", {}) else f" [{str(default).lower() if isinstance(default, bool) else default}]"
        )
        lines.append(f"  {field.name:<{width}}{field.metadata.get('help', '')}{shown}")
    return "\n".join(lines)
