"""One HTML page from sections of tables, plots and pictures; it loads nothing from elsewhere."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import plotly.graph_objects as go
import plotly.offline
from markupsafe import Markup

from dearkd.pages.plots import COLOURS, DASHES, templates

__all__ = [
    "Block",
    "Cell",
    "Details",
    "Legend",
    "Note",
    "Picture",
    "Pictures",
    "Plot",
    "Plots",
    "Section",
    "Sheet",
    "Table",
    "WidePicture",
    "page",
]

ASSETS = Path(__file__).parent / "assets"
STROKES = {"solid": "none", "dash": "6 3", "dot": "2 3", "dashdot": "7 2 2 2"}
"""plotly's dash patterns as SVG draws them."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a tone, a run's colour or a second line."""

    text: str
    tone: str = ""
    """``good``, ``bad``, ``best`` or ``muted``."""
    style: int | None = None
    """The number of the run that it names; the run's colour is shown in front."""
    below: str = ""
    """A second line in small print."""


@dataclass(frozen=True)
class Table:
    """Rows under titles; the first column names the row. A wide table scrolls by itself.

    The columns whose numbers are in ``left`` hold words and are aligned left; others hold numbers.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    left: Collection[int] = ()
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Plot:
    """A figure with a title and a caption."""

    figure: go.Figure
    title: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Plots:
    """Figures, side by side where the page is wide enough."""

    plots: Sequence[Plot]
    kind: ClassVar[str] = "plots"


@dataclass(frozen=True)
class Picture:
    """A small picture as a data URI, with lines below it and a longer text on hover."""

    uri: str
    lines: Sequence[Cell]
    title: str
    size: int


@dataclass(frozen=True)
class Pictures:
    """A row of pictures with a name and a note in front."""

    name: str
    note: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Sheet:
    """Rows of pictures, side by side where the page is wide enough."""

    rows: Sequence[Pictures]
    kind: ClassVar[str] = "sheet"

    @property
    def width(self) -> int:
        """Width in pixels of its widest row."""
        return 118 + max(sum(p.size + 8 for p in row.pictures) for row in self.rows)


@dataclass(frozen=True)
class WidePicture:
    """A picture in its own size, reduced to the width of the page if it is wider."""

    uri: str
    title: str
    kind: ClassVar[str] = "wide_picture"


@dataclass(frozen=True)
class Legend:
    """The names of curves with their colour and dash; a click hides a curve in all figures."""

    names: Sequence[tuple[str, int]]
    kind: ClassVar[str] = "legend"


@dataclass(frozen=True)
class Note:
    """A sentence; ``warning`` marks it as one."""

    text: str
    warning: bool = False
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Details:
    """Blocks (but no plots) or a plain text, folded away under a title until it is clicked."""

    title: str
    blocks: Sequence["Block"] = ()
    text: str = ""
    kind: ClassVar[str] = "details"


Block = Table | Plots | Sheet | WidePicture | Legend | Note | Details


@dataclass(frozen=True)
class Section:
    """A chapter of the page."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """A page as HTML that contains the plot library, styles, data and pictures.

    It follows the device's light or dark mode, fits a phone, and prints on white.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures: list[str] = []

    def number(figure: go.Figure) -> int:
        """Adds a figure to the page's data and returns its number there."""
        figures.append(_figure_json(figure))
        return len(figures) - 1

    anchored = list(zip(_anchors(sections), sections, strict=True))
    body = environment.get_template("body.html").render(
        sections=anchored,
        number=number,
        colours=COLOURS,
        dashes=[STROKES[dash] for dash in DASHES],
    )
    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=anchored,
        body=Markup(body),
        footer=f"Made by dearkd {version('dearkd')}. This page is one file and needs no network.",
        css=_asset("page.css"),
        js=_asset("page.js"),
        plotly=Markup(plotly.offline.get_plotlyjs() if figures else ""),
        data=Markup('{"templates":%s,"figures":[%s]}')
        % (Markup(_safe(json.dumps(templates()))), Markup(",".join(figures))),
    )


def _anchors(sections: Sequence[Section]) -> list[str]:
    """What links to each chapter name: its title, and a number where several have the same."""
    found: list[str] = []
    for section in sections:
        plain = "-".join(section.title.lower().split())
        names = (plain, *(f"{plain}-{number}" for number in range(2, len(sections) + 1)))
        found.append(next(name for name in names if name not in found))
    return found


def _figure_json(figure: go.Figure) -> str:
    """A figure's data and layout as JSON, without its template: the page has one for all."""
    content: dict[str, Any] = json.loads(figure.to_json())
    content["layout"].pop("template", None)
    return _safe(json.dumps(content, separators=(",", ":")))


def _safe(text: str) -> str:
    """The JSON text with every < escaped, so that it can't end the script element around it."""
    return text.replace("<", "\\u003c")


def _asset(name: str) -> Markup:
    return Markup((ASSETS / name).read_text(encoding="utf-8"))
