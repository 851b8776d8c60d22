"""Draw docs/images/benchmarks.svg from the table of figures in docs/performance.md; `--check` only compares."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs/performance.md"
CHART = ROOT / "docs/images/benchmarks.svg"

MORE_IS_BETTER = "per second"
"""Rows with these words are left out: the chart shows costs."""
LEFT, WIDTH, RIGHT = 350, 450, 90
TOP, ROW, BAR = 92, 26, 14
MOST = 1.75
"""The ratio at the right end of the axis."""

FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title about">
  <title id="title">Cost relative to the baseline</title>
  <desc id="about">For each measurement, a bar with the ratio of its figure to the baseline, and a mark at
    its goal. The numbers are in the table of the page.</desc>
  <style>
    .page {{ fill: #ffffff; stroke: #d0d7de; }}
    .reached {{ fill: #2da44e; }}
    .missed {{ fill: #d4792a; }}
    .goal {{ stroke: #1f2328; stroke-width: 2; }}
    .grid {{ stroke: #d8dee4; }}
    .one {{ stroke: #8c959f; stroke-dasharray: 4 3; }}
    text {{
      font-family: -apple-system, "Segoe UI", "DejaVu Sans", Helvetica, Arial, sans-serif;
      fill: #1f2328; font-size: 13px;
    }}
    .head {{ font-weight: 600; font-size: 15px; }}
    .note {{ fill: #57606a; font-size: 12px; }}
    @media (prefers-color-scheme: dark) {{
      .page {{ fill: #0d1117; stroke: #30363d; }}
      .reached {{ fill: #3fb950; }}
      .missed {{ fill: #db8e3c; }}
      .goal {{ stroke: #e6edf3; }}
      .grid {{ stroke: #21262d; }}
      .one {{ stroke: #8b949e; }}
      text {{ fill: #e6edf3; }}
      .note {{ fill: #9198a1; }}
    }}
  </style>
  <rect class="page" x="1" y="1" width="{inner_width}" height="{inner_height}" rx="12"/>
  <text class="head" x="24" y="34">Cost relative to the baseline</text>
  <text class="note" x="24" y="54">
    Less is better; 1 is the baseline. The mark is the goal; orange exceeds it.
  </text>
{content}
</svg>
"""


class Bar(NamedTuple):
    """One measurement, as a ratio of its baseline."""

    name: str
    goal: float
    figure: float


def bars(text: str) -> list[Bar]:
    """Return the measurements of the table whose goal is a ratio and for which less is better."""
    found: list[Bar] = []
    for line in text.split("## Goals and figures", 1)[1].split("###", 1)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or MORE_IS_BETTER in cells[0]:
            continue
        goal = re.fullmatch(r"([\d.]+) x", cells[2])
        figures = re.findall(r"([\d.]+) x", re.sub(r"\[.*?\]|\(.*?\)", "", cells[3]))
        if goal is None or not figures:
            continue
        names = _names(cells[0], len(figures))
        found += [Bar(name, float(goal[1]), float(figure)) for name, figure in zip(names, figures, strict=True)]
    return found


def _names(cell: str, count: int) -> list[str]:
    """Split `java, kotlin, typescript hello, first run, p50` into a name for each of its figures."""
    cell = cell.replace("`", "")
    if count == 1:
        return [cell]
    *first, last = cell.split(", ", count - 1)
    tool, rest = last.split(" ", 1)
    return [f"{name} {rest}" for name in (*first, tool)]


def draw(shown: list[Bar]) -> str:
    """Return the chart as SVG, in light and dark colours."""
    bottom = TOP + ROW * len(shown)
    lines = []
    for quarter in range(int(MOST * 4) + 1):
        x, style = _x(quarter / 4), "one" if quarter == 4 else "grid"
        lines.append(f'  <path class="{style}" d="M{x:g} {TOP - 4} V{bottom}"/>')
        lines.append(
            f'  <text class="note" x="{x:g}" y="{TOP - 10}" text-anchor="middle">{quarter / 4:g}</text>'
        )
    for index, bar in enumerate(shown):
        lines += _row(bar, TOP + ROW * index + (ROW - BAR) // 2)
    width, height = LEFT + WIDTH + RIGHT, bottom + 24
    return FRAME.format(
        width=width, height=height, inner_width=width - 2, inner_height=height - 2, content="\n".join(lines)
    )


def _row(bar: Bar, top: int) -> list[str]:
    style, end = "reached" if bar.figure <= bar.goal else "missed", _x(bar.figure)
    return [
        f'  <text x="{LEFT - 12}" y="{top + 12}" text-anchor="end">{escape(bar.name)}</text>',
        f'  <rect class="{style}" x="{LEFT}" y="{top}" width="{end - LEFT:g}" height="{BAR}" rx="3"/>',
        f'  <path class="goal" d="M{_x(bar.goal):g} {top - 3} v{BAR + 6}"/>',
        f'  <text x="{LEFT + WIDTH + 16}" y="{top + 12}">{bar.figure:.2f} x</text>',
    ]


def _x(ratio: float) -> float:
    return round(LEFT + WIDTH * min(ratio, MOST) / MOST, 1)


def main() -> None:
    """Write the chart, or check that it shows the figures of the table."""
    chart = draw(bars(TABLE.read_text(encoding="utf-8")))
    if sys.argv[1:] != ["--check"]:
        CHART.write_text(chart, encoding="utf-8")
    elif CHART.read_text(encoding="utf-8") != chart:
        sys.exit(
            "docs/images/benchmarks.svg does not show the figures of docs/performance.md; run scripts/chart.py"
        )


if __name__ == "__main__":
    main()
