"""The result of `dearkd eval` on a set of images as a table, and what its numbers leave out."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from dearkd.measures.cells import measure_cells
from dearkd.said import counted

__all__ = ["print_result"]


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """Prints a row for each measure, a column for the set and one for the reference, and notes."""
    columns = [result, *([result["reference"]] if "reference" in result else [])]
    headings = ["set", "reference"][: len(columns)]
    table = Table("", *headings, title=f"{result['data']}: {counted(result['images'], 'image')}")
    cells = [measure_cells(column) for column in columns]
    for name in cells[0]:
        table.add_row(name, *[of_one.get(name, "") for of_one in cells])
    console.print(table)
    for note in _notes(result):
        console.print(note)


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Sentences on how the numbers were computed and what they leave out."""
    notes = []
    if "lpips" in result or "features" in result:
        notes.append("+/-: one standard error, jackknife over images")
    if "lpips" in result:
        notes.append(result["lpips"]["images_are"])
    if count := len(result["unreadable"]):
        verb = "is" if count == 1 else "are"
        notes.append(f"{counted(count, 'unreadable image')} {verb} left out")
    for part in (result, result.get("reference", {})):
        measured = part.get("lpips") or part.get("features")
        if measured and measured["classes_of_two_or_more"] < part["classes"]:
            single = part["classes"] - measured["classes_of_two_or_more"]
            notes.append(
                f"{part['data']}: {single} of {part['classes']} classes have one image and are "
                "left out within classes"
            )
    near = result.get("nearness")
    if near and min(result["images"], result["reference"]["images"]) <= near["dim"]:
        notes.append(
            f"fewer images than the {near['dim']} dimensions: the Frechet distance is biased "
            "upwards; compare it between sets of one size alone"
        )
    return notes
