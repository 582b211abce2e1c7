"""
The picture that ``tailrace demo --record FILE`` writes: the demo's output as SVG.

The picture holds the lines that stay on the screen, and single frames of the live view. It does not
depend on the terminal: it has its own width, height and colors. Rich's own template loads a font
from the web; the template here names fonts that readers have.
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.style import Style

__all__ = ["Recording"]

TITLE = "tailrace demo"
#: In columns. The letters of a wider picture are too small in a README.
WIDTH = 84
#: In lines. The live view lists as many tables as fit.
HEIGHT = 12
FRAME_STYLE = Style(bgcolor="#1b2a38")
#: The width of a character, in parts of the font size.
FONT_ASPECT_RATIO = 0.6

#: ``Console.export_svg`` fills it in. See ``rich.console.CONSOLE_SVG_FORMAT``.
SVG_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{
  font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
  font-size: 18px;
  font-weight: bold;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Recording:
    """Collects what the demo prints. ``save`` writes the picture."""

    def __init__(self) -> None:
        self._console = Console(
            record=True,
            file=io.StringIO(),
            force_terminal=True,
            color_system="truecolor",
            no_color=False,
            width=WIDTH,
            height=HEIGHT,
        )

    def print(self, what: RenderableType) -> None:
        """Add something that stays on the screen."""
        self._console.print(what, highlight=False)

    def frame(self, view: RenderableType) -> None:
        """Add a frame of the live view. Its background tells it from the lines that stay."""
        frame = Padding(view, (0, 1), style=FRAME_STYLE)
        self._console.print(Padding(frame, (0, 0, 0, 2)))

    def save(self, path: Path) -> None:
        """Write the picture to ``path``."""
        svg = self._console.export_svg(
            title=TITLE,
            code_format=SVG_FORMAT,
            font_aspect_ratio=FONT_ASPECT_RATIO,
            unique_id=TITLE.replace(" ", "-"),
        )
        # Each text has a length. A font of another width is stretched to it, not only spaced.
        svg = svg.replace(" textLength=", ' lengthAdjust="spacingAndGlyphs" textLength=')
        path.write_text(svg, encoding="utf-8")
