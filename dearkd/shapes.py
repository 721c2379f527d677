"""What the files of runs and sets are made of: a stranger's may hold anything.

A shape is a type, a tuple of shapes of which one must fit, a list of one shape for all elements, or
a mapping: a key with ``?`` may be missing, and ``...`` stands for all other keys.
"""

from collections.abc import Callable
from typing import Any

__all__ = [
    "ANALYSIS",
    "DIVERSITY",
    "EPOCH",
    "LOSS_CURVES",
    "MANIFEST",
    "METADATA",
    "RECORDED_RUN",
    "STUDY",
    "SUMMARY",
    "misfit",
    "number",
]

Shape = Any
NONE = type(None)


def number(value: Any) -> bool:
    """Whether it is a number that can be shown; a flag is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and number(value)


def table(value: Any) -> bool:
    """Whether it is a list of numbers, or of lists of numbers of one length."""
    if not isinstance(value, list) or not value:
        return False
    if all(map(number, value)):
        return True
    lengths = {len(row) if isinstance(row, list) else -1 for row in value}
    return len(lengths) == 1 and all(isinstance(row, list) and table(row) for row in value)


MOST = 1e300
SHOWN = 40
NUMBER: Shape = (number, NONE)
"""A number, or None where it was not measured."""
PERCENT: Shape = {"top1": number, "top5": number}
LOGGED = {
    **{
        f"{name}?": NUMBER for name in ("images_per_second", "data_wait", "seconds", "top1", "top5")
    },
    **{f"{name}?": (table, NONE) for name in ("attention_distance", "token_cosine")},
}
EPOCH: Shape = {"epoch": whole, "stage": str, **LOGGED, ...: (NUMBER, table)}
"""A line of ``metrics.jsonl``."""
ROUND: Shape = {
    **dict.fromkeys(("round", "train_images", "epochs"), whole),
    **{f"{name}?": NUMBER for name in ("new_images", "recognition", "top1", "teacher_agreement")},
    **{f"{name}?": NUMBER for name in ("loss", "set_seconds", "seconds")},
    ...: object,
}
"""A round of `dearkd distill`."""
SUMMARY: Shape = {
    **{f"{name}?": str for name in ("method", "student", "data", "device", "python", "precision")},
    **{f"{name}?": (str, NONE) for name in ("teacher", "commit", "memory_format")},
    **{f"{name}?": (str, NONE) for name in ("teacher_precision", "teacher_memory_format")},
    **{f"{name}?": NUMBER for name in ("validation", "top1", "top5", "best_top1", "seconds")},
    "teacher_top1?": NUMBER,
    **{f"{name}?": (whole, NONE) for name in ("train_images", "eval_images", "epochs", "seed")},
    **{f"{name}?": (whole, NONE) for name in ("best_epoch", "parameters", "peak_memory_bytes")},
    **{f"{name}?": (whole, NONE) for name in ("threads", "processes")},
    "stages?": {...: whole},
    "rounds?": [ROUND],
    "heads?": {...: PERCENT},
    "trained_heads?": ([str], NONE),
    "head_scales?": ({...: number}, NONE),
    "arithmetic?": {...: str},
    "versions?": {...: str},
    "sessions?": [{"device?": str, "commit?": (str, NONE), "versions?": {...: str}, ...: object}],
    ...: object,
}
"""``summary.json``; older versions left parts of it out."""
METADATA: Shape = {
    "arch": str,
    "num_classes": whole,
    "img_size?": (whole, NONE),
    "class_names?": ([str], NONE),
    "mean?": ([number], NONE),
    "std?": ([number], NONE),
    "interpolation?": (str, NONE),
    "crop_pct?": NUMBER,
    "args?": (dict, NONE),
    "heads?": ([str], NONE),
    "head_scales?": ({...: number}, NONE),
    ...: object,
}
"""What dearkd writes beside weights."""
CURVE: Shape = {
    "epoch": [whole],
    "stage": [str],
    "images_per_second": [number],
    "attention_distance?": [(table, NONE)],
    "token_cosine?": [(table, NONE)],
    ...: [(NUMBER, table)],
}
"""The curve of a run in a study's record: a list an epoch."""
STUDY: Shape = {
    "name": str,
    "arms": [str],
    "seeds": [whole],
    "fractions": [NUMBER],
    "compare": {...: [str]},
    ...: object,
}
"""What a record says of its study."""
RECORDED_RUN: Shape = {
    "arm": str,
    "fraction": NUMBER,
    "seed": whole,
    "hash": str,
    "settings": {
        "epochs": whole,
        "steps": whole,
        "data.batch_size": whole,
        "precision": str,
        "data.validation?": NUMBER,
        ...: object,
    },
    "summary": {
        "top1": NUMBER,
        "train_images": whole,
        "eval_images": (whole, NONE),
        "threads": whole,
        "device": str,
        "commit": (str, NONE),
        ...: object,
    },
    "machine": {"cpu": str, ...: object},
    "curve": CURVE,
    "test?": ({"top1": number, "images": whole, ...: object}, NONE),
    ...: object,
}
"""A run in a study's record."""


NETWORK: Shape = {"name?": (str, NONE), "weights_sha256?": str, "mean?": [number], ...: object}
JUDGED: Shape = (
    {"prediction": whole, "confidence": number, "cross_entropy?": NUMBER, ...: object},
    NONE,
)
MANIFEST: Shape = {
    "config": {
        "engine?": str,
        "resolutions?": ([whole], NONE),
        "iterations?": ([whole], NONE),
        "seed?": whole,
        "objective?": {...: (NUMBER, bool, str)},
        "generator?": {...: (NUMBER, bool, str)},
        ...: object,
    },
    "teacher": NETWORK,
    "verifier?": (NETWORK, NONE),
    "other_teachers?": [NETWORK],
    "bn_weight?": NUMBER,
    "kernels?": (
        {
            "precision": str,
            "channels_last": bool,
            "compile?": bool,
            "threads": whole,
            "device": str,
            ...: object,
        },
        {},
        NONE,
    ),
    "versions?": {...: str},
    "classes": {"indices": [whole], "names": [str], "total": whole, ...: object},
    "class_names?": ([str], NONE),
    "quality": {
        ...: {
            "recognition": {"overall": number, "per_class": {...: number}, ...: object},
            "confidence_histogram": [number],
            "diversity?": ({"overall": NUMBER, "per_class": {...: NUMBER}, ...: object}, NONE),
            ...: object,
        }
    },
    "groups": [{"seconds?": NUMBER, "terms?": {...: NUMBER}, ...: object}],
    "images": [
        {
            "file": str,
            "target": whole,
            "teacher?": JUDGED,
            "verifier?": JUDGED,
            "terms?": {...: NUMBER},
            ...: object,
        }
    ],
    ...: object,
}
"""``manifest.json`` of a synthetic set, as far as chapters and checks read it."""
LOSS_CURVES: Shape = {
    "groups": {
        ...: [
            {
                "iteration": whole,
                "resolution": whole,
                "stage": whole,
                "terms": {...: number},
                ...: object,
            }
        ]
    },
    ...: object,
}
"""``loss_curves.json`` of a synthetic set."""
HEAD: Shape = {
    "reliability?": [[number]],
    **{f"{name}?": NUMBER for name in ("top1", "confidence", "ece", "agreement_teacher")},
    ...: object,
}
ANALYSIS: Shape = {
    "data?": (str, NONE),
    "remarks?": [str],
    "grid?": [whole],
    "position?": [{"alpha": table, "sigma": table, "centres": table, ...: object}],
    "head_images?": (whole, NONE),
    "heads?": {...: HEAD},
    **LOGGED,
    ...: object,
}
"""``analysis.json`` of `dearkd analyze`."""
DISTANCES: Shape = {
    "net?": (str, NONE),
    "network?": (str, NONE),
    **dict.fromkeys(("within_class", "overall"), NUMBER),
    **{f"{name}_standard_error": NUMBER for name in ("within_class", "overall")},
    ...: object,
}
MEASURES: dict[Any, Shape] = {
    **{f"{name}?": (DISTANCES, NONE) for name in ("lpips", "features")},
    ...: object,
}
NEARNESS: dict[Any, Shape] = {
    "network": str,
    **{f"{name}?": number for name in ("frechet_distance", "density", "coverage")},
    ...: object,
}
DIVERSITY: dict[Any, Shape] = {
    **MEASURES,
    "reference?": (MEASURES, NONE),
    "nearness?": (NEARNESS, NONE),
    "probe_top1?": NUMBER,
    ...: object,
}
"""``diversity.json`` of `dearkd eval` on a set."""


def misfit(value: Any, shape: Shape, name: str = "") -> str | None:
    """Where a value differs from a shape, in words; None where it fits."""
    match shape:
        case type():
            return None if isinstance(value, shape) else f"{name or 'it'} is {_told(value)}"
        case tuple():
            faults = [misfit(value, one, name) for one in shape]
            within = [fault for fault in faults if fault != f"{name or 'it'} is {_told(value)}"]
            return None if None in faults else (within or faults)[0]
        case list():
            return _misfit_of_list(value, shape[0], name)
        case dict():
            return _misfit_of_mapping(value, shape, name)
    check: Callable[[Any], bool] = shape
    return None if check(value) else f"{name or 'it'} is {_told(value)}"


def _misfit_of_list(value: Any, shape: Shape, name: str) -> str | None:
    if not isinstance(value, list):
        return f"{name or 'it'} is {_told(value)}"
    faults = (misfit(item, shape, f"{name}[{place}]") for place, item in enumerate(value))
    return next((fault for fault in faults if fault is not None), None)


def _misfit_of_mapping(value: Any, shape: dict[Any, Shape], name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name or 'it'} is {_told(value)}"
    prefix = f"{name}." if name else ""
    if not shape and value:
        return f"{name or 'it'} is a mapping"
    known = {key.rstrip("?"): key for key in shape if key is not ...}
    for key, named in known.items():
        if key not in value and not named.endswith("?"):
            return f"{prefix}{key} is missing"
    for key, item in value.items():
        wanted = shape.get(known.get(key, ...), object)
        if (fault := misfit(item, wanted, f"{prefix}{key}")) is not None:
            return fault
    return None


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
