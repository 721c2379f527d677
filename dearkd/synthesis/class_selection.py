"""The classes that ``--classes`` selects: ``all``, ``0-99``, ``3,5-7``, or a file of names."""

import difflib
import re
from contextlib import suppress
from pathlib import Path

from dearkd.data.class_matching import match_names
from dearkd.errors import MissingFileError, UserError
from synth.classifier import Classifier

__all__ = ["choose_classes", "is_range"]

SYNSET = re.compile(r"n\d{8}")


def choose_classes(text: str, teacher: Classifier) -> tuple[int, ...] | None:
    """The teacher's class indices that a text selects; None: all of them.

    The text is ``all``, ``0-99``, ``3,5-7``, or the path of a file with a class name a line.

    Raises:
        UserError: If the teacher does not have one of the classes.
        MissingFileError: If the text is neither a range nor an existing file.
    """
    if text == "all":
        return None
    if is_range(text):
        return _ranges(text, teacher.num_classes)
    file = Path(text)
    if not file.is_file():
        raise MissingFileError(
            f"classes {text!r} are no file, nor a range; give all, 0-99, 3,5-7, or a text file "
            "with a class name a line"
        )
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text; write a class name a line") from error
    found = [_class_index(line, teacher, file) for line in lines if line]
    classes = tuple(index for index in found if index is not None)
    if not classes:
        raise UserError(f"{file} names no class; write a class name a line")
    return classes


def is_range(text: str) -> bool:
    """Whether a text selects classes by itself, and names no file."""
    return text == "all" or re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text) is not None


def _ranges(text: str, count: int) -> tuple[int, ...]:
    """The indices in ``3,5-7``, all below ``count``."""
    indices: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if low > high:
            raise UserError(f"classes {part} run backwards; write {high}-{low}")
        if not high < count:
            raise UserError(
                f"classes {part} are not among the teacher's {count}; give a range in 0-{count - 1}"
            )
        indices += range(low, high + 1)
    return tuple(indices)


def _class_index(line: str, teacher: Classifier, file: Path) -> int | None:
    """The class that a line of the file names; None if it holds a comment alone.

    A line is a class name, or an index or synset, which a description may follow. A # begins a
    comment unless it is part of a class name (C#).
    """
    names = teacher.class_names or ()
    plain = line.partition("#")[0].strip()
    for name in (line, plain):
        if names.count(name) > 1:
            places = " and ".join(str(i) for i, other in enumerate(names) if other == name)
            raise UserError(
                f"{file} has class {line!r}, the name of the classes {places}; give the index"
            )
        if name in names:
            return names.index(name)
    if not plain:
        return None
    word = plain.split()[0]
    if word.isdecimal() and int(word) < teacher.num_classes:
        return int(word)
    if SYNSET.fullmatch(word) and word in names:
        return names.index(word)
    if not re.fullmatch(r"[-+]\d+", word):  # which would be taken for the name without its sign
        with suppress(ValueError):  # ImageNet's words for a synset: goldfish
            return match_names([plain], names)[0]
    hint = _hint(plain, names, teacher.num_classes)
    raise UserError(f"{file} has class {line!r}, which {teacher.name} does not know; {hint}")


def _hint(plain: str, names: tuple[str, ...], count: int) -> str:
    """What may have been meant by an unknown class."""
    if not names:
        return f"its names are unknown, so give indices 0-{count - 1}"
    near = difflib.get_close_matches(plain, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"first ones: {', '.join(names[:3])}"
