"""The chapter on students without a real image: their set, their curve, and the gap to real data.

All of it is in one figure: an image of each class above, below it the accuracy on real test images
over the views seen, of these students and of those that saw real ones, and their teacher's.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate

import plotly.graph_objects as go

from dearkd.data.decode import BadImageError
from dearkd.data.sources import ImageSource
from dearkd.pages.page import Legend, Note, Plot, Plots, Section
from dearkd.pages.pictures import thumbnail_uri
from dearkd.pages.plots import GREY, Line, curves
from dearkd.report.contents import Group, Report, Run, SyntheticSet, teachers_of
from dearkd.report.epoch_views import epoch_views
from dearkd.report.headline import image_kind
from dearkd.said import counted, data_name

__all__ = ["gap_section"]

SHOWN = 10
"""Classes that have an image above the curves at most."""
SIDE = 48  # pixels
STRIP = 0.16
"""Height of the row of images, as a share of the height of the curves."""
HEIGHT = 420  # pixels


def gap_section(
    report: Report, opened: Callable[[SyntheticSet], ImageSource | None]
) -> Section | None:
    """A figure for each synthetic set that a finished run was trained on; None without such a run.

    A run of several sets is in the figure of the first. ``opened`` opens the images of a set, and
    returns None where it can't.
    """
    plots, notes, shown, drawn = list[Plot](), list[Note](), list[Run](), list[Run]()
    for item in report.sets:
        for group in report.groups:
            own = [run for run in group.students if _learned_from(run, item) and run not in drawn]
            if not own:
                continue
            drawn += own
            others = _with_real_images(report, group)
            plots.append(_plot(report, item, [*own, *others], _teachers(group, own), opened(item)))
            notes += [Note(_sentence(run, group, others)) for run in own]
            shown += [run for run in (*own, *others) if run not in shown]
    if not plots:
        return None
    legend = Legend([(run.name, report.style_of(run)) for run in shown])
    return Section("Without a real image", [*notes, legend, Plots(plots)])


def _plot(
    report: Report,
    item: SyntheticSet,
    runs: Sequence[Run],
    teachers: Sequence[Run],
    source: ImageSource | None,
) -> Plot:
    lines = [line for run in runs if (line := _line(run, report.style_of(run))) is not None]
    figure = curves(lines, x_title="views seen, thousands", y_title="top-1 on real images, %")
    for run in teachers:
        figure.add_hline(
            y=run.top1,
            line={"dash": "dot", "width": 1.5, "color": GREY},
            annotation={"text": f"{run.name}, the teacher", "font": {"size": 11}},
        )
    if source is not None:
        _add_images(figure, _first_of_each_class(item, source))
    figure.update_layout(height=HEIGHT)
    caption = "Above: an image of each class that the teacher gave." if source is not None else ""
    return Plot(figure, f"{item.name}: its images, what they teach, and what is missing", caption)


def _line(run: Run, style: int) -> Line | None:
    """Top-1 over the views seen; None where it was not logged, or the views are not known."""
    seen = list(accumulate(epoch_views(run)))
    points = [
        (seen[line["epoch"]] / 1000, line["top1"])
        for line in run.metrics
        if line.get("top1") is not None and line["epoch"] < len(seen)
    ]
    if not points or not any(seen):
        return None
    x, y = zip(*points, strict=True)
    return Line(run.name, x, y, style)


def _add_images(figure: go.Figure, uris: Sequence[str]) -> None:
    """Puts a row of images above the curves."""
    for place, uri in enumerate(uris):
        figure.add_layout_image(
            source=uri,
            xref="paper",
            yref="paper",
            x=(place + 0.5) / len(uris),
            y=1.02 + STRIP,
            sizex=0.95 / len(uris),
            sizey=STRIP,
            xanchor="center",
            yanchor="top",
        )
    figure.update_layout(margin={"t": round(HEIGHT * STRIP) + 16})


def _first_of_each_class(item: SyntheticSet, source: ImageSource) -> list[str]:
    """An image of each of the first classes that can be read, as a data URI."""
    position = {source.name(index): index for index in range(len(source))}
    found: dict[int, str] = {}
    first = sorted({image.record["target"] for image in item.images})[:SHOWN]
    for image in item.images:
        target = image.record["target"]
        if target in found or target not in first or image.name not in position:
            continue
        with suppress(BadImageError):
            found[target] = thumbnail_uri(source.image(position[image.name]), SIDE)
    return [found[target] for target in sorted(found)]


def _sentence(run: Run, group: Group, others: Sequence[Run]) -> str:
    """What a student reaches, and by how much its teacher and its twins on real images are above.

    Only twins with the same network are named.
    """
    above = [(teacher, "its teacher") for teacher in _teachers(group, [run])]
    twins = [other for other in others if other.setting("student") == run.setting("student")]
    above += [(twin, f"the same network on {_images(twin)}") for twin in twins]
    gaps = [f"{_gap(run, other)} {other.name} ({what})" for other, what in above]
    text = f"{run.name} learned from {_images(run)} and reads {run.top1:.2f} % of "
    text += f"{counted(group.images or 0, image_kind(group))}"
    return f"{text}: {', '.join(gaps)}." if gaps else f"{text}."


def _gap(run: Run, other: Run) -> str:
    assert run.top1 is not None
    assert other.top1 is not None
    points = other.top1 - run.top1
    return f"{abs(points):.2f} points {'below' if points >= 0 else 'above'}"


def _images(run: Run) -> str:
    images = run.summary.get("train_images")  # of an older run not known
    count = "images" if images is None else counted(images, "image")
    return f"{count} of {data_name(run.setting('data.train'))}"


def _teachers(group: Group, runs: Sequence[Run]) -> list[Run]:
    """The finished runs of a group that taught one of ``runs``."""
    return [run for run in teachers_of(runs, group.runs) if run.top1 is not None]


def _with_real_images(report: Report, group: Group) -> list[Run]:
    return [run for run in group.students if not any(_learned_from(run, s) for s in report.sets)]


def _learned_from(run: Run, item: SyntheticSet) -> bool:
    return item.is_at(str(run.setting("data.train")))
