"""Reads YAML, options and ``a.b=c`` settings into any of the configuration dataclasses."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped, unused-ignore]

from dearkd.errors import ALIKE, UserError, missing_file, one_line
from dearkd.said import command

__all__ = ["check_range", "complete", "differences", "flattened", "nulls", "to_yaml", "user_tree"]

C = TypeVar("C")

WANTED = {
    r"Value (.+) of type '\w+' could not be converted to Float": "a number",
    r"Value (.+) of type '\w+' could not be converted to Integer": "a whole number",
    r"Value (.+?)(?: of type .+)? is incompatible .+ 'Union\[int, Literal\[auto\]\]'": (
        "a whole number or auto"
    ),
    r"Value (.+) \(\w+\) is incompatible .+ 'typing\.Dict\[.+\]'": "{KEY: VALUE}",
    r"Value (.+) \(\w+\) is incompatible .+ 'typing\.List\[.+\]'": "a list",
    r"Key (.+) \(\w+\) is incompatible with \(str\)": "a name, in quotes",
    r"Value (.+) is not a valid bool \(type \w+\)": "true or false",
}
"""OmegaConf's words about a value of another type, and what it should have been."""


def user_tree(
    kind: type,
    path: Path | None,
    settings: Sequence[str],
    options: dict[str, Any] | None,
) -> DictConfig:
    """The fields that the user gave, without defaults: settings over options over the file.

    Raises:
        UserError: A key that ``kind`` does not have (with the nearest that it has), a value of
            another type, nested too deeply or none (``???``), or a reference to what is not there.
        MissingFileError: If ``path`` does not exist.
    """
    if path is not None:
        _check_file(path, kind)
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--set wants key=value, as in --set seed=1, got {setting!r}")
    layers: list[DictConfig] = []
    try:
        layers += [] if path is None else [_read(path)]
        layers += [_nested(options or {}), OmegaConf.from_dotlist(list(settings))]
        known = _fields(kind)
        if "arms" in layers[0] and "arms" not in known:
            again = command("dearkd", "sweep", path)
            raise UserError(f"{path} is a study of several runs; type {again}")
        for layer in layers:
            _check_containers(OmegaConf.to_container(known), OmegaConf.to_container(layer))
        OmegaConf.to_container(OmegaConf.merge(known, *layers), resolve=True)  # for its checks
        given = OmegaConf.merge(*layers)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(_one_line(error, kind, layers)) from error
    except YAMLError as error:
        raise UserError(
            f"--set {' '.join(settings)} is not YAML ({_problem(error)}); quote the value, or "
            "close its brackets"
        ) from error
    assert isinstance(given, DictConfig)
    _check_missing(given, *layers[-2:])  # what is typed as missing leaves the file's value
    return given


def complete(kind: type[C], *layers: DictConfig | dict[str, Any]) -> C:
    """The dataclass with its defaults overridden by the layers, later layers over earlier ones.

    Raises:
        UserError: Unknown key, wrong type or value out of range.
    """
    known = _fields(cast(type, kind))
    try:
        for layer in layers:
            given = OmegaConf.to_container(OmegaConf.create(layer))
            _check_containers(OmegaConf.to_container(known), given)
        config = OmegaConf.to_object(OmegaConf.merge(known, *layers))
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error, kind, layers)) from error
    assert isinstance(config, kind)
    return config


def differences(kind: type, stored: DictConfig, given: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The given fields that are not as stored, by dotted name: (stored, given)."""
    old, new = (OmegaConf.merge(_fields(kind), tree) for tree in (stored, given))
    names = flattened(cast(dict[str, Any], OmegaConf.to_container(given)))
    pairs = {key: (OmegaConf.select(old, key), OmegaConf.select(new, key)) for key in names}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def check_range(
    name: str, value: float, low: float, high: float, *, open_low: bool = False
) -> None:
    """Refuses a number outside of its range.

    ``open_low``: ``low`` itself is outside, too.

    Raises:
        UserError: Naming the setting, both bounds and the value.
    """
    inside = (low < value if open_low else low <= value) and value <= high
    if not inside:
        bound = f"{'above' if open_low else 'at least'} {low} and at most {high}"
        raise UserError(f"{name} must be {bound}, got {value}")


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every field of a configuration by its dotted name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nulls(values: Mapping[str, Any]) -> list[str]:
    """Those that are None as ``a.b=null`` settings: an option of None is one that is not given."""
    return [f"{key}=null" for key, value in values.items() if value is None]


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that is read back unchanged."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


@functools.cache
def _fields(kind: type) -> DictConfig:
    """Every field of a class with its type and default; `OmegaConf.merge` copies it."""
    fields: DictConfig = OmegaConf.structured(kind)
    return fields


def _problem(error: Exception) -> str:
    """What the parser met and where, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return one_line(error)
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _read(path: Path) -> DictConfig:
    tree: Any
    try:
        tree = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = one_line(error)
        if found := re.search("found duplicate key (.+?) in ", reason):
            raise UserError(
                f"config {path} has the key {found[1]!r} twice; leave one out or rename it"
            ) from error
        raise UserError(f"config {path} is not YAML ({_problem(error)}); correct it") from error
    except OSError as error:
        if error.errno is not None:
            raise
        tree = None  # OmegaConf's own, of a number alone
    if not isinstance(tree, DictConfig):
        held = "a single value" if tree is None else "a list"
        raise UserError(f"config {path} holds {held}; write KEY: VALUE lines, as in configs/")
    return tree


def _check_missing(*trees: DictConfig) -> None:
    """Refuses ``???``, with which OmegaConf marks a value that is still to be given."""
    for tree in trees:
        for key, value in flattened(cast(dict[str, Any], OmegaConf.to_container(tree))).items():
            if value == MISSING:
                raise UserError(f"{key} is ???, which is no value; give it one, or leave it out")


def _check_containers(known: Any, given: Any, prefix: str = "") -> None:
    """Refuses a list where there are fields, and the reverse, which OmegaConf takes for a bug."""
    for key, value in given.items():
        ours, name = known.get(key), f"{prefix}{key}"
        if isinstance(ours, list | tuple) and not isinstance(value, list | tuple):
            raise UserError(f"{name} must be a list, got {value}; write it as [...]")
        if key in known and ours is None and isinstance(value, dict):
            raise UserError(f"{name} has no fields, got {value}; write a value or a list")
        if isinstance(ours, dict):
            if not isinstance(value, dict):
                raise UserError(f"{name} must have fields, got {value}; write it as {{KEY: VALUE}}")
            _check_containers(ours, value, f"{name}.")


def _nested(options: dict[str, Any]) -> DictConfig:
    """Options with dotted names, those that were not given left out, as a config tree."""
    tree = OmegaConf.create({})
    for key, value in options.items():
        if value is not None:
            OmegaConf.update(tree, key, value)
    return tree


def _one_line(
    error: OmegaConfBaseException | RecursionError,
    kind: type,
    layers: Sequence[DictConfig | dict[str, Any]],
) -> str:
    if isinstance(error, RecursionError):
        return "a setting is nested too deeply; correct it"
    message = str(error).splitlines()[0]
    if isinstance(error, ConfigKeyError):
        key = _whole_key(str(error.full_key or error.key), layers)
        return f"unknown config key {key!r}; {_hint(key, _known_keys(kind))}"
    for pattern, wanted in WANTED.items():
        if found := re.fullmatch(pattern, message):
            return f"{error.full_key} must be {wanted}, got {found[1]}"
    if error.full_key:
        return f"{error.full_key}: {message}"
    refused, value = _refused_field(kind, layers)
    message = message.replace("$VALUE", str(value))
    return f"{refused}: {message}" if refused else message


def _refused_field(
    kind: type, layers: Sequence[DictConfig | dict[str, Any]]
) -> tuple[str | None, Any]:
    """The field that is refused by itself, and its value: of a list's element nobody says it."""
    for layer in layers:
        given = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(layer)))
        for key, value in flattened(given).items():
            alone = OmegaConf.create({})
            OmegaConf.update(alone, key, value)
            try:
                OmegaConf.merge(_fields(kind), alone)
            except OmegaConfBaseException:
                return key, value
    return None, None


def _whole_key(key: str, layers: Sequence[DictConfig | dict[str, Any]]) -> str:
    """A key as it was given: the error names no more of it than its first unknown part."""
    for layer in layers:
        value = OmegaConf.select(OmegaConf.create(layer), key, throw_on_resolution_failure=False)
        while isinstance(value, DictConfig) and len(value):
            part = str(next(iter(value)))
            key, value = f"{key}.{part}", value[part]
    return key


def _hint(key: str, known: Sequence[str]) -> str:
    """The key that is probably meant: the same name elsewhere, else one spelled alike."""
    group, _, name = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == group]
    elsewhere = {k.rpartition(".")[2]: k for k in reversed(known)}
    if name in elsewhere:
        return f"did you mean {elsewhere[name]!r}?"
    if near := difflib.get_close_matches(name, siblings, n=1, cutoff=ALIKE):
        return f"did you mean {f'{group}.{near[0]}'.lstrip('.')!r}?"
    if near := difflib.get_close_matches(name, elsewhere, n=1, cutoff=ALIKE):
        return f"did you mean {elsewhere[near[0]]!r}?"
    if siblings and group:
        return f"known in {group}: {', '.join(siblings)}"
    return f"known: {', '.join(dict.fromkeys(re.sub('[.].*', '.*', k) for k in known))}"


def _known_keys(owner: type, prefix: str = "") -> list[str]:
    """Dotted names of all fields, depth first."""
    names = []
    for item in dataclasses.fields(owner):
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            names += _known_keys(item.type, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def _check_file(path: Path, kind: type) -> None:
    if path.is_dir():
        remedy = "name one"
        if "out" in _fields(kind):
            remedy = f"a run to resume: {command('--resume', '--out', path)}"
        if "data" in _fields(kind):
            remedy = f"images: {command('--data', path)}; {remedy}"
        raise UserError(f"config {path} is a folder, not a YAML file; {remedy}")
    if not path.is_file():
        raise missing_file(f"config {path}", path, "configs/train, synth and studies have some")
