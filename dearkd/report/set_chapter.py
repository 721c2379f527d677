"""The chapter on synthetic sets: how each was made, what networks recognise, and its images."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dearkd.data.sources import ImageSource
from dearkd.data.synthetic_set import CONFIG_FILE
from dearkd.measures.cells import measure_cells
from dearkd.misfit import number
from dearkd.pages.page import Block, Legend, Note, Plot, Plots, Section, Table
from dearkd.pages.plots import Line, bars, curves
from dearkd.report.contents import Report, SyntheticSet
from dearkd.report.rows import set_row
from dearkd.report.set_ranking import rankings
from dearkd.report.sheet import ROLES, SHEET_CLASSES, class_names, sheet
from dearkd.said import command, counted, data_name, seconds_text

__all__ = ["synthetic_section"]

TERMS = {
    "objective": "Objective: the weighted sum",
    "cross_entropy": "Cross-entropy of the targets",
    "bn_statistics": "Distance to the BatchNorm statistics",
    "total_variation": "Total variation",
    "l2": "Norm of the pixels",
    "easy_positive": "Easy positive (boundary-preserving)",
    "triplet": "Triplet (boundary-preserving)",
    "competition": "Competition with a student",
    "adversary": "Distance from an agreeing student (L_adv)",
}


def synthetic_section(
    report: Report, opened: Callable[[SyntheticSet], ImageSource | None]
) -> Section:
    """Verdicts, origin, contact sheets by class and loss curves of all synthetic sets.

    ``opened`` opens the images of a set, and returns None where it can't.
    """
    blocks: list[Block] = [
        Note(f"{item.name}: {note}.", warning=True) for item in report.sets for note in item.notes
    ]
    finished = [item for item in report.sets if item.manifest]
    if finished:
        blocks += [_verdict_table(finished), *_measured(finished)]
    blocks += [Table(found.titles, found.rows, found.note) for found in rankings(report)]
    if known := [item for item in report.sets if item.config]:
        blocks.append(_origin_table(known))
    for item in finished:
        blocks += sheet(item, opened(item))
    plots = [plot for item in finished for plot in _verdict_plots(item)]
    plots += _loss_plots(report.sets)
    blocks += [Note(text) for item in report.sets if (text := _logged_once(item))]
    if len(report.sets) > 1:
        blocks.append(Legend([(item.name, place) for place, item in enumerate(report.sets)]))
    return Section("Synthetic images", [*blocks, Plots(plots)] if plots else blocks)


def _verdict_table(sets: Sequence[SyntheticSet]) -> Table:
    """A row for each set: its size, its stages, and how much the networks recognise."""
    titles = [
        "set",
        "images",
        "classes",
        "pixels",
        "iterations",
        "teacher",
        "recognised by it",
        "verifier",
        "recognised by it",
        "time",
    ]
    rows = []
    for item in sets:
        row = set_row(item)
        cells = [item.name, f"{row['images']:,}", f"{row['classes']:,}"]
        cells += [_stages(row["resolutions"]), _stages(row["iterations"])]
        for role in ROLES:
            further = row["other_teachers"] if role == "teacher" else []
            names = [data_name(name) for name in (row[role], *further) if name]
            cells += [" + ".join(names) or "none", _share(row, role)]
        rows.append([*cells, seconds_text(row["seconds"])])
    return Table(titles, rows, left=(5, 7))


def _origin_table(sets: Sequence[SyntheticSet]) -> Table:
    """How each set was made: engine, seed, weights and kernels, and the command to repeat it."""
    titles = ["set", "engine", "seed", "weights of the objective", "lr", "kernels", "torch"]
    rows = []
    for item in sets:
        config, versions = item.config, item.part("versions")
        objective = config.get("objective", {}) | {"bn_weight": item.settings.get("bn_weight")}
        cells = [item.name, _engine(item), str(config.get("seed", "")), _weights(objective)]
        cells += [_rate(item), _kernels(item.part("kernels"))]
        cells += [str(versions.get("torch", ""))]
        file = item.path / CONFIG_FILE
        words = command("dearkd", "synthesize", file, "--out", f"{item.path}-again")
        rows.append([*cells, words if file.exists() else ""])
    return Table([*titles, "repeat with"], rows, left=(1, 3, 5, 7))


def _engine(item: SyntheticSet) -> str:
    """The engine, and what inversion optimises where it is not the pixels."""
    basis = item.config.get("basis", "pixels")
    return item.engine if basis == "pixels" else f"{item.engine}, {basis}"


def _rate(item: SyntheticSet) -> str:
    """Adam's rate: on the images, or on a generator's weights."""
    part = item.config.get("generator") if item.engine == "generator" else item.config
    return str(part.get("lr", "")) if isinstance(part, dict) else ""


def _weights(objective: dict[str, Any]) -> str:
    """The weights that are not 0, as ``bn 0.2 (relative), tv 0.02``."""
    parts = []
    for key, value in objective.items():
        name = key.removesuffix("_weight")
        if name != key and number(value) and value:
            how = " (relative)" if name == "bn" and objective.get("bn_relative") else ""
            parts.append(f"{name} {value:.3g}{how}")
    return ", ".join(parts)


def _kernels(kernels: dict[str, Any]) -> str:
    """Precision, layout, compiler, device and threads, as ``fp32, contiguous, cpu, 1 thread``."""
    if not kernels:
        return ""
    layout = "channels_last" if kernels["channels_last"] else "contiguous"
    compiled = ["compiled"] if kernels.get("compile") else []
    threads = counted(kernels["threads"], "thread")
    return ", ".join([kernels["precision"], layout, *compiled, kernels["device"], threads])


def _stages(values: Sequence[int] | None) -> str:
    return ", ".join(map(str, values or ()))


def _share(row: dict[str, Any], role: str) -> str:
    share = row[f"{role}_recognition"]
    return "" if share is None else f"{100 * share:.1f} %"


def _measured(sets: Sequence[SyntheticSet]) -> list[Block]:
    """A table of all measures, a column for each set; none where nothing was measured."""
    columns = [_measures(item) for item in sets]
    names = dict.fromkeys(name for column in columns for name in column)
    if not names:
        return []
    rows = [[name, *[column.get(name, "") for column in columns]] for name in names]
    titles = ["measure", *[item.name for item in sets]]
    errors = any("\u00b1" in cell for row in rows for cell in row)
    text = "\u00b1 is the jackknife's standard error over images" if errors else ""
    return [Table(titles, rows, text)]


def _measures(item: SyntheticSet) -> dict[str, str]:
    """The measures of a set by name, from its manifest and from ``dearkd eval``."""
    row, stored = set_row(item), item.diversity
    found = {
        f"distance within a class, {role}'s embedding": f"{row[f'{role}_diversity']:.4f}"
        for role in ROLES
        if row[f"{role}_diversity"] is not None
    }
    reference = measure_cells(stored.get("reference") or {})
    found |= measure_cells(stored)
    found |= {f"{name}, reference": cell for name, cell in reference.items()}
    return {name: cell.replace("+/-", "\u00b1") for name, cell in found.items()}


def _verdict_plots(item: SyntheticSet) -> list[Plot]:
    """Histograms of the confidence in the target, and the recognised share of each class."""
    quality = item.manifest.get("quality", {})
    roles = [role for role in ROLES if role in quality]
    if not roles:
        return []
    bins = len(quality[roles[0]]["confidence_histogram"])
    edges = [f"{100 * n // bins}-{100 * (n + 1) // bins}" for n in range(bins)]
    histogram = {role: quality[role]["confidence_histogram"] for role in roles}
    plots = [
        Plot(
            bars(edges, histogram, y_title="images", x_title="confidence in the target, %"),
            f"{item.name}: how sure the networks are of the target",
            "The further right, the clearer a case of its class an image is to that network.",
        )
    ]
    targets = sorted({record["target"] for record in item.manifest["images"]})
    if len(targets) <= SHEET_CLASSES:
        shares = {
            role: [100 * quality[role]["recognition"]["per_class"][str(t)] for t in targets]
            for role in roles
        }
        names = list(map(class_names(item), targets))
        figure = bars(names, shares, y_title="recognised, %")
        plots.append(Plot(figure, f"{item.name}: recognised images of each class"))
    return plots


def _loss_plots(sets: Sequence[SyntheticSet]) -> list[Plot]:
    """A plot of each term over the iterations: mean and range over the groups of each set."""
    plots = []
    for term, title in TERMS.items():
        lines, switches = [], dict[float, str]()
        for style, item in enumerate(sets):
            line = _term_line(item, term, style)
            if line is not None:
                lines.append(line)
                switches |= _resolution_switches(item)
        if lines:
            figure = curves(lines, x_title="iteration", switches=switches)
            plots.append(Plot(figure, title))
    return plots


def _term_line(item: SyntheticSet, term: str, style: int) -> Line | None:
    """The curve of a term; None unless all groups logged it equally often, more than once."""
    values = [
        [step["terms"][term] for step in steps if term in step["terms"]]
        for steps in item.curves.values()
    ]
    lengths = {len(row) for row in values}
    if len(lengths) != 1 or lengths <= {0, 1}:
        return None
    table = np.array(values)
    x = _iterations(next(iter(item.curves.values())))
    band = {} if len(table) == 1 else {"low": table.min(0).tolist(), "high": table.max(0).tolist()}
    return Line(item.name, x, table.mean(0).tolist(), style, **band)


def _logged_once(item: SyntheticSet) -> str:
    """A sentence with the losses of a set whose groups were logged once; empty for other sets."""
    terms = [steps[0]["terms"] for steps in item.curves.values() if len(steps) == 1]
    if not terms or len(terms) < len(item.curves):
        return ""
    parts = [
        f"{title}: {np.mean([one[term] for one in terms]):.4g}"
        for term, title in TERMS.items()
        if all(term in one for one in terms)
    ]
    return f"{item.name}, losses logged once. {'. '.join(parts)}."


def _iterations(steps: Sequence[dict[str, Any]]) -> list[int]:
    """The iterations, counted over all stages, that were done at each step."""
    ends = {step["stage"]: step["iteration"] for step in steps}  # the last step of each stage
    return [
        step["iteration"] + sum(end for stage, end in ends.items() if stage < step["stage"])
        for step in steps
    ]


def _resolution_switches(item: SyntheticSet) -> dict[float, str]:
    """The iterations after which a further stage begins, and its resolution as text."""
    steps = next(iter(item.curves.values()))
    done = _iterations(steps)
    return {
        done[index]: f"{after['resolution']} px"
        for index, (before, after) in enumerate(pairwise(steps))
        if before["stage"] != after["stage"]
    }
