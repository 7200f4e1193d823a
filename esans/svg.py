"""Pictures as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Text and axes are drawn in this colour and then handed to the page's own.
INK = "#0a0b0c"


def inline_svg(draw: Callable[[Axes], None], size: tuple[float, float], font_size: float) -> str:
    """What `draw` puts on the axes, as an SVG element for an HTML page; the same bytes for the same picture.

    Args:
        draw: draws on the only axes of the figure.
        size: width and height, in inches.
        font_size: in points.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    style = {
        **ink,
        "svg.fonttype": "none",
        "svg.hashsalt": "esans",
        "font.size": font_size,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue())


def _inline(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs none, and the report names no address outside itself
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1), count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    return svg.replace(INK, "currentColor")
