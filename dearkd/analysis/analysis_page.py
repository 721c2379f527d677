"""The HTML page of ``dearkd analyze``."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from dearkd.analysis.attention_maps import LEAST_END, heat_tile, image_tile, scale_of
from dearkd.analysis.attention_plots import (
    distance_by_block,
    distance_by_epoch,
    token_cosine_by_depth,
)
from dearkd.analysis.findings import Analysis, AttentionMaps
from dearkd.analysis.heads import HEAD_TITLES, head_rows
from dearkd.analysis.position_plot import position_heads
from dearkd.analysis.reliability_plot import reliability_diagram
from dearkd.pages.page import (
    Block,
    Cell,
    Details,
    Note,
    Picture,
    Pictures,
    Plot,
    Plots,
    Section,
    Sheet,
    Table,
    page,
)
from dearkd.pages.pictures import picture_uri
from dearkd.said import counted, data_name

__all__ = ["analysis_page"]

HEADS_NOTE = (
    "The square is the patch a head looks from; a ring lies around the patch it looks at, one "
    "standard deviation (sigma) wide. Hover for the numbers."
)


def analysis_page(
    analysis: Analysis,
    metrics: Sequence[Mapping[str, Any]],
    switches: Mapping[float, str],
    by_topic: Mapping[str, Sequence[str]],
) -> str:
    """The analysis as HTML with its figures and pictures.

    ``metrics`` are the lines of ``metrics.jsonl``, ``switches`` the epochs where a stage begins,
    ``by_topic`` the sentences of :func:`dearkd.analysis.remarks.remarks`.
    """
    record = analysis.record
    sections = [
        _distance_section(record, metrics, switches, by_topic["distance"]),
        _position_section(record, by_topic["position"]),
        _token_section(record, by_topic["tokens"]),
        _map_section(analysis.maps),
        _trust_section(record, by_topic["answers"][1:]),  # the first leads the page
    ]
    lead = [
        f"{record['student']}, {record['weights']} weights, on "
        f"{counted(record['head_images'], 'image')} of {data_name(record['data'])} "
        f"({record['images']:,} of them for attention).",
        by_topic["answers"][0],
    ]
    return page(f"What {record['run']} looks at", lead, [part for part in sections if part])


def _distance_section(
    record: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    switches: Mapping[float, str],
    sentences: Sequence[str],
) -> Section:
    now = Plot(
        distance_by_block({record["run"]: record["attention_distance"]}),
        "At the end: every head a dot, the line their mean",
        f"A head that looks everywhere alike is at {record['uniform_distance']:.2f}.",
    )
    plots = [now]
    if sum(bool(line.get("attention_distance")) for line in metrics) > 1:
        caption = "The dotted upright marks where a stage begins." if switches else ""
        figure = distance_by_epoch(metrics, switches, len(record["position"]))
        plots.insert(0, Plot(figure, "Over the epochs, mean of each block's heads", caption))
    lead = "How many patches lie between a patch and those it attends to, on average."
    return Section("Attention distance", [*map(Note, sentences), Plots(plots)], lead)


def _position_section(record: Mapping[str, Any], sentences: Sequence[str]) -> Section | None:
    if not record["position"]:
        return None
    figure = position_heads(record["position"], record["grid"])
    plot = Plot(figure, "Learned centres and widths", HEADS_NOTE, wide=True)
    lead = "MHCA adds to every head a place to look at, relative to the patch it looks from."
    return Section("Heads on the patch grid", [*map(Note, sentences), Plots([plot])], lead)


def _token_section(record: Mapping[str, Any], sentences: Sequence[str]) -> Section | None:
    if not record["token_cosine"]:
        return None
    figure = token_cosine_by_depth({record["run"]: record["token_cosine"]})
    plot = Plot(figure, "Cosine by depth", "1: the two tokens say the same; 0: nothing in common.")
    return Section("Class and distillation token", [*map(Note, sentences), Plots([plot])])


def _map_section(maps: Sequence[AttentionMaps]) -> Section | None:
    if not maps:
        return None
    rows = [_row(one) for one in maps]
    details = [Details(f"{one.label}: every head", [_sheet_of_heads(one)]) for one in maps]
    scale = scale_of(maps[0].weights)
    lead = (
        "Attention of the class token (without one: the mean of all patches) to each patch, block "
        "by block, mean over the heads. Grey is "
        f"what every patch has where attention is uniform, {scale.uniform:.1%}; blue is less, "
        f"yellow more, up to the brightest of the image or {LEAST_END} times the uniform."
    )
    return Section("Attention maps", [Sheet(rows), *details], lead)


def _row(maps: AttentionMaps) -> Pictures:
    """An image and, block by block, its attention averaged over the heads."""
    means = maps.weights.mean(1)
    scale = scale_of(means)
    tiles = [_picture(image_tile(maps.pixels), "image", maps.name)]
    for number, weights in enumerate(means, 1):
        tile = heat_tile(weights, scale)
        tiles.append(_picture(tile, f"block {number}", f"{maps.name}, block {number}"))
    return Pictures(maps.label, scale.reached, tiles)


def _sheet_of_heads(maps: AttentionMaps) -> Sheet:
    """The attention of every head: a row for each block."""
    scale, rows = scale_of(maps.weights), []
    for block, heads in enumerate(maps.weights, 1):
        tiles = [
            _picture(heat_tile(weights, scale), f"head {n}", f"block {block}, head {n}")
            for n, weights in enumerate(heads, 1)
        ]
        rows.append(Pictures(f"block {block}", scale.reached, tiles))
    return Sheet(rows)


def _picture(tile: Image.Image, line: str, title: str) -> Picture:
    return Picture(picture_uri(tile), [Cell(line, tone="muted")], title, tile.width)


def _trust_section(record: Mapping[str, Any], sentences: Sequence[str]) -> Section:
    plot = Plot(
        reliability_diagram(record["heads"]),
        "Reliability",
        "On the dotted line a head is right as often as it says; below it, overconfident. "
        "Larger points hold more images.",
    )
    blocks: list[Block] = [
        *map(Note, sentences),
        Table(HEAD_TITLES, head_rows(record["heads"])),
        Plots([plot]),
    ]
    if record["teacher_missing"] is not None:
        blocks.append(Note(f"No comparison with a teacher: {record['teacher_missing']}."))
    return Section("Answers: label, teacher, confidence", blocks)
