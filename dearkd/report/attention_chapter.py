"""The chapter on attention: its distance, the learned heads, and how alike the two tokens are."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from dearkd.analysis.attention_plots import (
    average_distance_by_epoch,
    distance_by_block,
    distance_by_epoch,
    token_cosine_by_depth,
)
from dearkd.analysis.heads import HEAD_TITLES, head_rows
from dearkd.analysis.position_plot import position_heads
from dearkd.analysis.reliability_plot import reliability_diagram
from dearkd.data.decode import BadImageError, open_image
from dearkd.pages.page import Block, Details, Note, Plot, Plots, Section, Table, WidePicture
from dearkd.pages.pictures import picture_uri
from dearkd.pages.plots import mark_switches
from dearkd.report.contents import Report, Run
from dearkd.report.curves_chapter import switch_marks
from dearkd.said import command, counted, data_name

__all__ = ["attention_section"]

MAPS = "attention_maps.png"
DISTANCE, COSINE = "attention_distance", "token_cosine"


def attention_section(report: Report) -> Section | None:
    """Figures that compare all runs, then the figures and tables of each analysed run.

    None where no run has an attention distance, logged or analysed.
    """
    if not any(_measure(run, DISTANCE) for run in report.runs):
        return None
    plots = [
        _average(report),
        _by_run(
            report,
            DISTANCE,
            distance_by_block,
            "Attention distance of each block, in patches",
            "At the end of the run; a dot is a head.",
        ),
        _by_run(
            report,
            COSINE,
            token_cosine_by_depth,
            "Cosine of class and distillation token",
            "0 is the input. Near 1 the two tokens say the same; DeiT reports 0.06 to 0.93.",
        ),
    ]
    plots += [plot for run in report.runs for plot in _own(run)]
    blocks: list[Block] = [Plots([plot for plot in plots if plot is not None])]
    analysed = [run for run in report.runs if run.analysis]
    blocks += [_trust_table(analysed)] if analysed else []
    for run in analysed:
        if run.analysis.get("remarks"):
            blocks.append(Note(f"{run.name}: {' '.join(run.analysis['remarks'])}"))
        blocks += _maps(run)
    blocks += _how_to_see_more(report)
    lead = "Attention distance: how many patches away a patch looks, on average."
    return Section("Attention", blocks, lead)


def _average(report: Report) -> Plot | None:
    """The mean distance of each run over the epochs; None where no run logged it twice."""
    runs = {run.name: run.metrics for run in report.runs if _logged(run)}
    if max(map(len, map(_logged, report.runs))) < 2:
        return None
    figure = average_distance_by_epoch(runs, styles=_styles(report))
    mark_switches(figure, *switch_marks(report, [run for run in report.runs if _logged(run)]))
    return _untitled(
        figure,
        "Attention distance of all heads, in patches",
        "The paper's figure 4 has it flat late in stage 1 and rising in stage 2.",
    )


def _by_run(
    report: Report,
    key: str,
    draw: Callable[[dict[str, Any], dict[str, int]], go.Figure],
    title: str,
    caption: str,
) -> Plot | None:
    """One measure of all runs that have it, drawn by ``draw``; None where none has."""
    measures = {run.name: found for run in report.runs if (found := _measure(run, key))}
    if not measures:
        return None
    parts = [caption]
    for run in report.runs:
        if run.analysis.get(key) and (weights := _other_weights(run.analysis)):
            parts.append(f"{run.name}: of its {weights} weights.")
    return _untitled(draw(measures, _styles(report)), title, " ".join(parts))


def _untitled(figure: go.Figure, title: str, caption: str) -> Plot:
    """A plot without axis title and legend: its heading names the axis, the page has a legend."""
    figure.update_layout(showlegend=False)
    figure.update_yaxes(title_text="")
    return Plot(figure, title, caption)


def _own(run: Run) -> list[Plot]:
    """The plots of one run alone: distance by epoch, learned heads, calibration."""
    plots = []
    if len(_logged(run)) > 1:
        figure = distance_by_epoch(run.metrics, run.switches, len(run.analysis.get("position", ())))
        figure.update_yaxes(title_text="")
        plots.append(Plot(figure, f"{run.name}: attention distance of each block, in patches"))
    if run.analysis.get("position"):
        figure = position_heads(run.analysis["position"], run.analysis["grid"])
        caption = (
            "MHCA is attention with a learned place to look at. Seen from the square patch: a ring "
            "lies around that place, one standard deviation (sigma) wide; a cross looks nowhere."
        )
        plots.append(Plot(figure, f"{run.name}: learned MHCA heads", caption))
    if run.analysis.get("heads"):
        figure = reliability_diagram(run.analysis["heads"])
        caption = "On the diagonal a head is right as often as it says; below, it is too sure."
        plots.append(Plot(figure, f"{run.name}: calibration", caption))
    return plots


def _trust_table(runs: list[Run]) -> Table:
    """Accuracy and calibration of the heads of all analysed runs."""
    rows = [
        [run.name, _seen(run.analysis), *row]
        for run in runs
        for row in head_rows(run.analysis.get("heads", {}))
    ]
    titles = ["run", "on", *HEAD_TITLES]
    return Table(titles, rows, "The two heads, and the mean of their logits", left=(1, 2))


def _seen(analysis: dict[str, Any]) -> str:
    """The images and weights of an analysis, which may be others than the run was judged by."""
    name = data_name(analysis.get("data"))
    weights = _other_weights(analysis)
    seen = f"{name}, {counted(analysis.get('head_images') or 0, 'image')}"
    return f"{seen}, {weights} weights" if weights else seen


def _other_weights(analysis: dict[str, Any]) -> str:
    """``best`` or ``raw`` where an analysis is of these weights; empty where of the final ones."""
    weights = analysis.get("weights") or "final"
    return "" if weights == "final" else str(weights)


def _maps(run: Run) -> list[Block]:
    """The attention maps that ``dearkd analyze`` left in the run's folder."""
    file = run.path / MAPS
    if not file.is_file():
        return []
    try:
        picture = open_image(file, MAPS)
    except BadImageError as error:
        return [Note(f"{run.name}: {error}.", warning=True)]
    title = "From the class token, or else the mean of all patches; grey is uniform attention"
    maps = WidePicture(picture_uri(picture), title)
    return [Details(f"{run.name}: where each head looks in some images", [maps])]


def _how_to_see_more(report: Report) -> list[Block]:
    """The commands that analyse the runs that were not analysed yet."""
    bare = [run for run in report.runs if run.finished and _logged(run) and not run.analysis]
    if not bare:
        return []
    commands = "\n".join(command("dearkd", "analyze", run.path) for run in bare)
    title = f"To see MHCA heads, attention maps and calibration of {counted(len(bare), 'more run')}"
    return [Details(title, text=commands)]


def _styles(report: Report) -> dict[str, int]:
    """The number of each run's colour and dash, by name."""
    return {run.name: style for style, run in enumerate(report.runs)}


def _logged(run: Run) -> list[dict[str, Any]]:
    """The epochs with an attention distance."""
    return [line for line in run.metrics if line.get(DISTANCE)]


def _measure(run: Run, key: str) -> list[Any]:
    """A measure from the analysis, else from the last epoch that logged it; empty without both."""
    lines = [run.analysis, *reversed(run.metrics)]
    return next((line[key] for line in lines if line.get(key)), [])
