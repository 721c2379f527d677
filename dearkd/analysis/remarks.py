"""Sentences that describe an analysis, computed from its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dearkd.models.position import initial_positions

__all__ = ["remarks"]

MHCA = "MHCA, attention with a learned place to look at"
CALIBRATED = 0.01
"""Confidence and accuracy (in [0, 1]) that differ by less are called equal."""


def remarks(
    record: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Sentences on ``analysis.json`` (``record``) and the lines of ``metrics.jsonl``, by topic.

    The topics are ``distance``, ``position``, ``tokens`` and ``answers``.
    """
    found = {
        "distance": [_distance(record), _over_epochs(metrics)],
        "position": [_positions(record)],
        "tokens": [_cosine(record)],
        "answers": [_calibration(record), *_agreement(record)],
    }
    return {topic: [text for text in texts if text] for topic, texts in found.items()}


def _distance(record: Mapping[str, Any]) -> str:
    blocks = np.asarray([np.mean(heads) for heads in record["attention_distance"]])
    first = len(record["position"]) if 0 < len(record["position"]) < len(blocks) else 0
    first = first or len(blocks) // 2
    ends = f"a head that looks everywhere alike would be at {record['uniform_distance']:.1f}"
    if first == 0:
        return f"The heads look {blocks[0]:.1f} patches away on average; {ends}."
    mixed = first == len(record["position"])
    kinds = (f" ({MHCA})", " (MHSA, without)") if mixed else ("", "")
    return (
        f"Heads of {_span(1, first)}{kinds[0]} look {blocks[:first].mean():.1f} patches away on "
        f"average, those of {_span(first + 1, len(blocks))}{kinds[1]} {blocks[first:].mean():.1f}; "
        f"{ends}."
    )


def _over_epochs(metrics: Sequence[Mapping[str, Any]]) -> str:
    lines = [line for line in metrics if line.get("attention_distance")]
    if not lines:
        return "The run did not log attention distances, so how they came about is not known."
    means = [float(np.mean(line["attention_distance"])) for line in lines]
    first = f"{means[0]:.2f} (epoch {lines[0]['epoch'] + 1})"
    if len(lines) == 1:
        return f"The run logged one epoch, whose mean distance is {first}."
    text = f"Over the epochs the mean distance went from {first}"
    switch = next((i for i, line in enumerate(lines) if line["stage"] == "stage2"), None)
    if switch:
        text += f" to {means[switch - 1]:.2f} at the end of stage 1"
    return f"{text} to {means[-1]:.2f} (epoch {lines[-1]['epoch'] + 1})."


def _positions(record: Mapping[str, Any]) -> str:
    blocks = record["position"]
    if not blocks:
        return ""
    start = initial_positions(len(blocks[0]["alpha"]))[1].numpy()
    moved = [np.hypot(*(np.asarray(block["centres"]) - start).T) for block in blocks]
    widths = [width for block in blocks for width in block["sigma"] if width is not None]
    total = sum(len(block["sigma"]) for block in blocks)
    text = f"The MHCA centres moved {np.mean(moved):.2f} patches from where they began"
    if widths:
        text += (
            "; half of the heads have a standard deviation around it (sigma) below "
            f"{np.median(widths):.2f} patches"
        )
    if len(widths) < total:
        text += f", and {total - len(widths)} of {total} look away from their centre (alpha <= 0)"
    return f"{text}."


def _cosine(record: Mapping[str, Any]) -> str:
    cosines = record["token_cosine"]
    if not cosines:
        return ""
    return (
        f"Class and distillation token have cosine {cosines[0]:.2f} at the input and "
        f"{cosines[-1]:.2f} after the last block (DeiT reports 0.06 and 0.93)."
    )


def _agreement(record: Mapping[str, Any]) -> list[str]:
    heads, between = record["heads"], record["agreement_between_heads"]
    if between is None:
        return []
    text = f"The two heads give the same answer to {between:.1f} % of the images"
    if record["teacher_top1"] is None:
        return [f"{text}; with the teacher they are not compared: {record['teacher_missing']}."]
    with_teacher = {name: heads[name]["agreement_teacher"] for name in ("class", "distillation")}
    return [
        f"{text}; the class head agrees with the teacher on {with_teacher['class']:.1f} %, the "
        f"distillation head on {with_teacher['distillation']:.1f} % (the teacher is right on "
        f"{record['teacher_top1']:.1f} %)."
    ]


def _calibration(record: Mapping[str, Any]) -> str:
    head = record["heads"]["logits"]
    says, right = head["confidence"], head["top1"] / 100
    verdict = "overconfident" if says > right else "underconfident"
    if abs(says - right) < CALIBRATED:
        verdict = "as confident as it is right"
    return (
        f"The model says {100 * says:.1f} % on average and is right on {100 * right:.1f} %: "
        f"{verdict}, calibration error {head['ece']:.3f}."
    )


def _span(first: int, last: int) -> str:
    return f"block {first}" if first == last else f"blocks {first}-{last}"
