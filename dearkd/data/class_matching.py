"""Finds a model's class for each class of the data by name, ImageNet's synonyms included."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from timm.data.imagenet_info import ImageNetInfo

from dearkd.data.sources import Classes
from dearkd.errors import UserError

__all__ = [
    "class_keys",
    "find_names",
    "match_classes",
    "match_names",
    "order_note",
    "with_descriptions",
]

_SYNSET = re.compile(r"n\d{8}")
_IN_ORDER = 0.9
"""Share of names that must be found, each at its own index, for the rest to follow by index."""
SHOWN = 4
"""Names that an error lists."""
NAMING = "name the model's (label_names in its default_cfg, as in scripts/example_cnn.py)"


def match_classes(
    data: Classes, model_names: Sequence[str] | None, model_count: int
) -> tuple[int, ...]:
    """The model's index of each data class: by name where both are known, by count otherwise.

    Names match exactly, or else without case, spaces, dashes and underscores. ImageNet's
    descriptions ("tench, Tinca tinca", as torchvision and Hugging Face have them) match its synsets
    (n01440764) by timm's tables. Synthetic data keeps the indices of the teacher it came from,
    two classes of one name apart.

    Raises:
        UserError: If a class is unknown to the model, two fall together, or the counts differ.
    """
    if data.indices is not None and data.total == model_count:
        own = None if model_names is None else tuple(model_names[index] for index in data.indices)
        if own is None or data.names is None or own == tuple(data.names):
            return data.indices
    if data.names is not None and model_names is not None:
        return match_names(data.names, model_names)
    count = data.total or data.count
    if count != model_count:
        remedy = "use data with class names" if data.names is None else NAMING
        raise UserError(
            f"the data has {count} classes, the model {model_count}, and no class names tell how "
            f"they correspond; {remedy}, or use a model trained on these classes"
        )
    return tuple(range(data.count))


def order_note(data: Classes, model_names: Sequence[str] | None) -> str | None:
    """A line that says what is assumed where the data names its classes and the model does not."""
    if model_names is not None or data.names is None or data.indices is not None:
        return None
    if all(map(str.isdecimal, data.names)):
        return None
    return (
        "the model's classes have no names, so the data's are taken in the order of theirs "
        f"({_first(data.names)}); if that is another, {NAMING}"
    )


def match_names(data_names: Sequence[str], model_names: Sequence[str]) -> tuple[int, ...]:
    """The index in ``model_names`` of each data class; equal lists match in order.

    Raises:
        UserError: If a class is unknown to the model or two fall together.
    """
    found = find_names(data_names, model_names)
    if -1 in found and _is_in_order(found, data_names, model_names):
        return tuple(range(len(found)))
    missing = [name for name, index in zip(data_names, found, strict=True) if index < 0]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(data_names)} data classes are unknown to the model's "
            f"{len(model_names)} ({_first(model_names)}): {_first(missing)}; rename them, remove "
            "them, or use a model trained on them"
        )
    if len(set(found)) < len(found):
        first = next(index for index in found if found.count(index) > 1)
        raise UserError(
            f"several data classes match the model's {model_names[first]!r}; rename all but one"
        )
    return tuple(found)


def find_names(data_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """As :func:`match_names`, with -1 for a class that is unknown to the model."""
    if list(data_names) == list(model_names):  # ImageNet has two cranes
        return list(range(len(data_names)))
    exact = {name: index for index, name in enumerate(model_names)}
    loose = {_plain(name): index for index, name in enumerate(model_names)}
    found = [exact.get(name, loose.get(_plain(name), -1)) for name in data_names]
    return _with_synsets(found, data_names, model_names) if -1 in found else found


def _first(names: Sequence[str]) -> str:
    """The first few names, and whether there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def with_descriptions(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with its description behind each where they are ImageNet's synsets."""
    if not all(map(_SYNSET.fullmatch, names)):
        return tuple(names)
    lemmas = _lemmas()
    return tuple(f"{name} {lemmas[name]}" if name in lemmas else name for name in names)


def class_keys(labels: Iterable[int], names: Sequence[str] | None) -> dict[int, str]:
    """What results call each class: its name, with its number where another has the same name.

    ImageNet has two cranes. Without names it is the number.
    """
    if names is None:
        return {label: str(label) for label in labels}
    times = Counter(names)
    return {
        label: names[label] if times[names[label]] == 1 else f"{names[label]} ({label})"
        for label in labels
    }


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " -_")


def _with_synsets(
    found: list[int], data_names: Sequence[str], model_names: Sequence[str]
) -> list[int]:
    """``found`` with ImageNet's synsets on one side matched to descriptions on the other."""
    if all(map(_SYNSET.fullmatch, model_names)):
        matched = _by_description(data_names, model_names)
    elif all(map(_SYNSET.fullmatch, data_names)):
        back = _by_description(model_names, data_names)
        place = {synset: index for index, synset in enumerate(back) if synset >= 0}
        matched = [place.get(index, -1) for index in range(len(data_names))]
    else:
        return found
    return [old if old >= 0 else new for old, new in zip(found, matched, strict=True)]


def _is_in_order(
    found: Sequence[int], data_names: Sequence[str], model_names: Sequence[str]
) -> bool:
    """Whether these are synsets and descriptions of one list, of which some are reworded."""
    if not any(all(map(_SYNSET.fullmatch, names)) for names in (data_names, model_names)):
        return False
    known = sum(index >= 0 for index in found)
    ordered = all(index in (-1, place) for place, index in enumerate(found))
    return ordered and len(found) == len(model_names) and known >= _IN_ORDER * len(found)


def _by_description(names: Sequence[str], synsets: Sequence[str]) -> list[int]:
    """The index in ``synsets`` of each name, -1 for one that fits none or several.

    ImageNet has two cranes and two maillots: names that come as often as synsets have them take
    those in order. A name that is all of another class of ImageNet-1k is no word of these.
    """
    lemmas = _lemmas()
    others = {_plain(text) for name, text in _listed("imagenet-1k").items() if name not in synsets}
    whole, single = defaultdict(list), defaultdict(list)
    for index, synset in enumerate(synsets):
        lemma = lemmas.get(synset, synset)
        whole[_plain(lemma)].append(index)
        for word in set(map(_plain, lemma.split(","))):
            single[word].append(index)
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[_plain(name)].append(place)
    found = [-1] * len(names)
    for name, at in places.items():
        candidates = whole.get(name) or ([] if name in others else single.get(name, []))
        if len(candidates) == len(at):
            for place, index in zip(at, candidates, strict=True):
                found[place] = index
    return found


@cache
def _lemmas() -> dict[str, str]:
    """Descriptions by synset, of two lists: ImageNet-22k lacks the teddy bear of ImageNet-1k."""
    return _listed("imagenet-22k") | _listed("imagenet-1k")


@cache
def _listed(subset: str) -> dict[str, str]:
    info: Any = ImageNetInfo(subset)  # type: ignore[no-untyped-call, unused-ignore]
    return info.label_descriptions(as_dict=True)
