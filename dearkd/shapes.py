"""What the files of runs and sets are made of: a stranger's may hold anything.

`dearkd.misfit` says what a shape is, and where a value differs from one.
"""

from typing import Any

from dearkd.misfit import NONE, Shape, matrix, number, row, table, whole

__all__ = [
    "ANALYSIS",
    "DIVERSITY",
    "EPOCH",
    "LABELS",
    "LOSS_CURVES",
    "MANIFEST",
    "METADATA",
    "PRINTS",
    "RECORDED_RUN",
    "RUN_DATA",
    "RUN_TEACHER",
    "STUDY",
    "SUMMARY",
]

NUMBER: Shape = (number, NONE)
"""A number, or None where it was not measured."""
PERCENT: Shape = {"top1": number, "top5": number}
LOGGED = {
    **{
        f"{name}?": NUMBER for name in ("images_per_second", "data_wait", "seconds", "top1", "top5")
    },
    "attention_distance?": (matrix, NONE),
    "token_cosine?": (row, NONE),
}
EPOCH: Shape = {"epoch": whole, "stage": str, **LOGGED, ...: (NUMBER, table)}
"""A line of ``metrics.jsonl``."""
PRINTS: Shape = {...: (str, NONE)}
"""Fingerprints of a run's images and teacher."""
ROUND: Shape = {
    **dict.fromkeys(("round", "train_images", "epochs"), whole),
    **{f"{name}?": NUMBER for name in ("new_images", "recognition", "top1", "teacher_agreement")},
    **{f"{name}?": NUMBER for name in ("loss", "set_seconds", "seconds")},
    "epoch_views?": (whole, NONE),
    ...: object,
}
"""A round of `dearkd distill`."""
SUMMARY: Shape = {
    **{f"{name}?": str for name in ("method", "student", "data", "device", "python", "precision")},
    **{f"{name}?": (str, NONE) for name in ("teacher", "commit", "memory_format")},
    **{f"{name}?": (str, NONE) for name in ("teacher_precision", "teacher_memory_format")},
    **{f"{name}?": NUMBER for name in ("validation", "top1", "top5", "best_top1", "seconds")},
    "teacher_top1?": NUMBER,
    "compile?": bool,
    "epoch_views?": (whole, NONE),
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
    "sessions?": [
        {
            **{"device?": str, "commit?": (str, NONE), "versions?": {...: str}},
            **{"fingerprints?": PRINTS, ...: object},
        }
    ],
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
    "crop_mode?": (str, NONE),
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
    "attention_distance?": [(row, NONE)],
    "token_cosine?": [(row, NONE)],
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
RUN_DATA: Shape = {
    "train?": str,
    "evaluation?": (str, NONE),
    "validation?": NUMBER,
    "labels?": str,
    "on_bad_image?": str,
    ...: object,
}
"""``data`` in a run's ``config.yaml``, as far as judging reads it."""
RUN_TEACHER: Shape = {**{f"{name}?": (str, NONE) for name in ("name", "weights")}, ...: object}
"""``teacher`` in a run's ``config.yaml``, likewise."""
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
        "compile?": bool,
        ...: object,
    },
    "machine": {"cpu": str, ...: object},
    "curve": CURVE,
    "test?": ({"top1": number, "images": whole, ...: object}, NONE),
    ...: object,
}
"""A run in a study's record."""

LABELS: Shape = {
    "format": whole,
    "answers": lambda form: form in ("labels", "logits"),
    "key": str,
    "of": dict,
    "versions": {...: str},
    "pictures": [([number], NONE)],
    ...: object,
}
"""``labels.json`` of a label cache."""

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
    "reliability": matrix,
    **dict.fromkeys(("top1", "confidence", "ece"), number),
    "agreement_teacher": NUMBER,
    ...: object,
}
ANALYSIS: Shape = {
    "data?": (str, NONE),
    **{f"{name}?": (str, NONE) for name in ("weights", "weights_sha256")},
    "remarks?": [str],
    "grid?": [whole],
    "position?": [{"alpha": row, "sigma": [NUMBER], "centres": matrix, ...: object}],
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
    "limit?": (whole, NONE),
    ...: object,
}
MEASURES: dict[Any, Shape] = {
    **{f"{name}?": (DISTANCES, NONE) for name in ("lpips", "features")},
    ...: object,
}
NEARNESS: dict[Any, Shape] = {
    "network": str,
    **{f"{name}?": number for name in ("frechet_distance", "density", "coverage")},
    "limit?": (whole, NONE),
    ...: object,
}
VERDICT: dict[Any, Shape] = {
    "network": str,
    "top1": number,
    "limit?": (whole, NONE),
    ...: object,
}
DIVERSITY: dict[Any, Shape] = {
    **MEASURES,
    "reference?": (MEASURES, NONE),
    "nearness?": (NEARNESS, NONE),
    "verifier?": (VERDICT, NONE),
    "probe_top1?": NUMBER,
    ...: object,
}
"""``diversity.json`` of `dearkd eval` on a set."""
