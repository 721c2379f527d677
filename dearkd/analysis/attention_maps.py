"""Pictures, by Pillow, of attention maps beside their images and MHCA heads on the patch grid."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from plotly.colors import hex_to_rgb, sequential
from torch import Tensor

from dearkd.analysis.findings import AttentionMaps
from dearkd.analysis.position_plot import reach_of
from dearkd.pages.plots import COLOURS, GREY, INK

__all__ = [
    "LEAST_END",
    "Scale",
    "attention_sheet",
    "heat_tile",
    "image_tile",
    "position_sheet",
    "scale_of",
]

TILE = 56  # pixels a side
GAP = 3
LEFT = 62  # for the names of the rows
TOP = 76  # for the name of the image, its scale and the names of the columns
ACROSS = 2
"""Images side by side on a sheet."""
PANEL = 220  # pixels a side of a block's heads
PANELS_ACROSS = 4
TEXT, RULE = INK["light"]["text"], INK["light"]["grid"]
FINER = 3  # drawn so much larger, then reduced: Pillow's lines have no smooth edges
HEAT = np.array([hex_to_rgb(colour) for colour in sequential.Cividis], dtype=np.float64)
"""Blue for less attention than a uniform map has, grey for as much, yellow for more."""
CLIPPED = 0.01
"""Share of the patches, over all maps of an image, that lie beyond the end of the scale."""
LEAST_END = 4
"""A scale reaches at least to this multiple of the uniform attention: uniform maps look flat."""
NEARLY_UNIFORM = 2
"""Maps whose brightest patches are below this multiple of the uniform attention are called so."""
BAR = 120  # pixels across
RINGS = (
    "Square: the patch a head looks from. Ring: around the patch it looks at, one standard "
    "deviation (sigma) wide. Cross: it looks at no place (alpha <= 0). A cell is a patch."
)


class Scale(NamedTuple):
    """The colours of attention weights, the same for all maps of an image."""

    uniform: float
    """The weight of each patch if all have the same, shown in the middle colour."""
    brightest: float
    """The weight that all but the share ``CLIPPED`` of the patches are below."""

    @property
    def end(self) -> float:
        """The weight from which on all patches have the last colour, yellow."""
        return max(self.brightest, LEAST_END * self.uniform)

    @property
    def reached(self) -> str:
        """The weight of the brightest patches, as text."""
        nearly = self.brightest < NEARLY_UNIFORM * self.uniform
        return f"brightest: {self.brightest:.1%}{', nearly uniform' if nearly else ''}"

    def colours(self, weights: NDArray[np.float64]) -> NDArray[np.uint8]:
        """RGB (*shape, 3) of each weight: blue below the uniform one, grey at it, yellow above."""
        steps = np.interp(weights, (0, self.uniform, self.end), (0, 0.5, 1))
        stops = np.linspace(0, 1, len(HEAT))
        heat = np.stack([np.interp(steps, stops, HEAT[:, c]) for c in range(3)], axis=-1)
        return heat.round().astype(np.uint8)


def scale_of(weights: Float[Tensor, "*maps rows columns"]) -> Scale:
    """The scale for all of these maps, the weights of each of which sum to 1."""
    brightest = float(np.quantile(weights.double().numpy(), 1 - CLIPPED))
    return Scale(1 / (weights.shape[-2] * weights.shape[-1]), brightest)


def attention_sheet(maps: Sequence[AttentionMaps]) -> Image.Image:
    """A panel for every image: a row for each block, with the mean of the heads and every head.

    All maps of an image have one scale, which a bar shows; uniform attention is grey.
    """
    panels = [_panel(one) for one in maps]
    width, height = panels[0].size
    down = math.ceil(len(panels) / ACROSS)
    across = min(ACROSS, len(panels))
    sheet = Image.new("RGB", (across * width, down * height), "white")
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number % ACROSS * width, number // ACROSS * height))
    return sheet


def heat_tile(weights: Float[Tensor, "rows columns"], scale: Scale) -> Image.Image:
    """An attention map in the colours of a scale, ``TILE`` pixels a side."""
    patches = Image.fromarray(scale.colours(weights.double().numpy()))
    return patches.resize((TILE, TILE), Image.Resampling.NEAREST)


def image_tile(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image (height, width, 3), resized to a tile of ``TILE`` pixels a side."""
    return Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS)


def position_sheet(position: Sequence[dict[str, Any]], grid: Sequence[int]) -> Image.Image:
    """A panel for each MHCA block: a ring of one sigma around the place that each head looks at.

    A square marks the patch that they look from. A head with alpha <= 0 has a cross.
    """
    reach = reach_of(position, grid)
    down = math.ceil(len(position) / PANELS_ACROSS)
    across = min(PANELS_ACROSS, len(position))
    width = across * PANEL
    lines = textwrap.wrap(RINGS, width // 6)
    sheet = Image.new("RGB", (width, down * PANEL + 16 * len(lines) + 8), "white")
    text = ImageDraw.Draw(sheet)
    text.multiline_text((8, down * PANEL), "\n".join(lines), fill=TEXT, font=_font(11))
    for number, block in enumerate(position):
        panel = _heads(block, reach, f"block {number + 1}")
        sheet.paste(panel, (number % PANELS_ACROSS * PANEL, number // PANELS_ACROSS * PANEL))
    return sheet


def _panel(maps: AttentionMaps) -> Image.Image:
    """An image and all its attention maps, with names and a colour bar."""
    depth, heads = maps.weights.shape[:2]
    step, scale = TILE + GAP, scale_of(maps.weights)
    panel = Image.new("RGB", (LEFT + (heads + 2) * step + 12, TOP + depth * step + 8), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((6, 3), f"{maps.label}   {maps.name[-60:]}", fill=TEXT, font=_font(13))
    _draw_bar(panel, scale)
    columns = ["image", "mean", *[f"head {n}" for n in range(1, heads + 1)]]
    for number, name in enumerate(columns):
        draw.text((LEFT + number * step, TOP - 17), name, fill=GREY, font=_font(11))
    panel.paste(image_tile(maps.pixels), (LEFT, TOP))
    for block in range(depth):
        y = TOP + block * step
        draw.text((6, y + TILE // 2 - 7), f"block {block + 1}", fill=GREY, font=_font(11))
        for number, weights in enumerate((maps.weights[block].mean(0), *maps.weights[block])):
            panel.paste(heat_tile(weights, scale), (LEFT + (number + 1) * step, y))
    return panel


def _draw_bar(panel: Image.Image, scale: Scale) -> None:
    """Draws the colour bar of a panel, from 0 over the uniform weight to the end of the scale."""
    draw = ImageDraw.Draw(panel)
    half = np.linspace(0, scale.uniform, BAR // 2), np.linspace(scale.uniform, scale.end, BAR // 2)
    ramp = np.tile(np.concatenate(half), (10, 1))
    panel.paste(Image.fromarray(scale.colours(ramp)), (LEFT + 16, 25))
    draw.text((LEFT, 22), "0", fill=GREY, font=_font(11))
    draw.text((LEFT + 22 + BAR, 22), f"{scale.end:.1%} or more", fill=GREY, font=_font(11))
    draw.text(
        (6, 39), f"grey is uniform: {scale.uniform:.1%}; {scale.reached}", fill=GREY, font=_font(11)
    )


def _heads(block: dict[str, Any], reach: float, title: str) -> Image.Image:
    """The panel of one block, ``reach`` patches from its middle to its border."""
    side = PANEL * FINER
    panel = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(panel)
    border, head_room = 8 * FINER, 24 * FINER
    unit = (side - border - head_room) / (2 * reach)
    middle = (border / 2 + reach * unit, head_room + reach * unit)

    def box(right: float, down: float, half: float) -> tuple[float, float, float, float]:
        x, y = middle[0] + right * unit, middle[1] + down * unit
        return x - half * unit, y - half * unit, x + half * unit, y + half * unit

    for edge in np.arange(-math.floor(reach) - 0.5, reach + 0.01):
        x, y = middle[0] + edge * unit, middle[1] + edge * unit
        if abs(edge) <= reach:
            draw.line((x, head_room, x, side - border), fill=RULE, width=FINER)
            draw.line((border / 2, y, side - border / 2, y), fill=RULE, width=FINER)
    draw.rectangle(box(0.0, 0.0, 0.5), outline=GREY, width=2 * FINER)
    for number, (down, right) in enumerate(block["centres"]):
        colour, sigma = COLOURS[number % len(COLOURS)], block["sigma"][number]
        if sigma is None:
            left, top, end, bottom = box(right, down, 0.2)
            draw.line((left, top, end, bottom), fill=colour, width=2 * FINER)
            draw.line((left, bottom, end, top), fill=colour, width=2 * FINER)
        else:
            draw.ellipse(box(right, down, sigma), outline=colour, width=2 * FINER)
            draw.ellipse(box(right, down, 0.06), fill=colour)
    draw.rectangle((0, 0, side, head_room - 1), fill="white")
    draw.text((border, 3 * FINER), title, fill=TEXT, font=_font(13 * FINER))
    return panel.resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
