"""Line charts as SVG text, without a library, so that a report is one small file.

Rule: numbers in, text out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import ceil, floor, log10
from typing import Final

COLORS: Final = ("#2a78d6", "#d9572b", "#1f9d6b", "#a24bc4", "#c9a227", "#5a6b7b", "#c2185b", "#00838f")
_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 38, 40

# Up to this many powers of ten on an axis, ticks at 2 and 5 fit between them.
_FEW_POWERS: Final = 4
# Width of a letter of a band's name, in pixels.
_LETTER: Final = 6.5

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Points
    dashed: bool = False
    marked: bool = False
    """Whether each point is drawn too."""
    gap: float | None = None
    """Points further apart than this are not joined, because nothing was measured between them."""


@dataclass(frozen=True)
class Axis:
    """An axis: its label, with the unit, and whether it is logarithmic."""

    label: str
    log: bool = False
    ends: tuple[float, float] | None = None
    """Its fixed ends, which make charts comparable; None means from the values."""


@dataclass(frozen=True)
class Band:
    """A named period of the horizontal axis."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class _Scale:
    """A map from values of an axis to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(max(value, self.low))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], bands: Sequence[Band] = ()) -> str:
    """Return an SVG figure with a legend, or a note if there is nothing to draw."""
    lines = [line for line in (_within(line, x.ends) for line in lines) if line.points]
    if not lines:
        return f"<figure><figcaption>{escape(title)}: no data</figcaption></figure>"
    there = list(x.ends or [px for line in lines for px, _ in line.points])
    across = _scale(there, x.log, _LEFT, _WIDTH - _RIGHT, from_zero=False)
    up = _scale([py for line in lines for _, py in line.points], y.log, _HEIGHT - _BOTTOM, _TOP, from_zero=True)
    parts = [
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>',
        *_bands(bands, across),
        *_grid(across, up, x, y),
        *(_polyline(line, across, up, COLORS[i % len(COLORS)]) for i, line in enumerate(lines)),
        "</svg>",
        _legend(lines),
        "</figure>",
    ]
    return "\n".join(parts)


def _within(line: Line, ends: tuple[float, float] | None) -> Line:
    """Return the line without the points outside the horizontal axis."""
    if ends is None:
        return line
    return replace(line, points=[point for point in line.points if ends[0] <= point[0] <= ends[1]])


def _scale(values: Sequence[float], log: bool, start: float, end: float, *, from_zero: bool) -> _Scale:
    low, high = min(values), max(values)
    if log:
        low = 10 ** floor(log10(max(low, 1e-6)))
        high = 10 ** ceil(log10(max(high, low * 10)))
    elif from_zero:
        low, high = min(low, 0.0), high * 1.05
    if high <= low:
        high = low + 1
    return _Scale(low, high, start, end, log)


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Return round values between two ends: powers of ten, with 2 and 5 if few, or about five steps of 1, 2 or 5."""
    if log:
        powers = range(round(log10(low)), round(log10(high)) + 1)
        steps = (1, 2, 5) if len(powers) <= _FEW_POWERS else (1,)
        return [step * 10.0**power for power in powers for step in steps if step * 10.0**power <= high]
    raw = (high - low) / 5
    magnitude = 10 ** floor(log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first = ceil(low / step)
    return [round(n * step, 10) for n in range(first, floor(high / step + 1e-9) + 1)]


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in ticks(up.low, up.high, log=up.log):
        at = up(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(across.low, across.high, log=across.log):
        at, bottom = across(value), _HEIGHT - _BOTTOM
        parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    center = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{center}" text-anchor="middle" transform="rotate(-90 14 {center})">{escape(y.label)}</text>'
    )
    return parts


def _bands(bands: Sequence[Band], across: _Scale) -> list[str]:
    """Return the bands: every second one shaded, each with its name if it fits."""
    parts = []
    for number, band in enumerate(bands):
        left, right = (min(max(across(end), _LEFT), _WIDTH - _RIGHT) for end in (band.start, band.end))
        if number % 2:
            parts.append(
                f'<rect class="band" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
                f'height="{_HEIGHT - _BOTTOM - _TOP}"/>'
            )
        if right - left > _LETTER * len(band.name):
            middle = (left + right) / 2
            parts.append(
                f'<text class="band" x="{middle:.1f}" y="{_TOP - 5}" text-anchor="middle">{escape(band.name)}</text>'
            )
    return parts


def _polyline(line: Line, across: _Scale, up: _Scale, color: str) -> str:
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    drawn = []
    for run in _runs(line):
        at = [(across(px), up(py)) for px, py in run]
        if len(at) == 1 or line.marked:
            drawn += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in at]
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in at)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')
    return "".join(drawn)


def _runs(line: Line) -> list[list[tuple[float, float]]]:
    """Return the points of a line, split where two are further apart than `gap`."""
    runs: list[list[tuple[float, float]]] = []
    for point in line.points:
        if runs and (line.gap is None or point[0] - runs[-1][-1][0] <= line.gap):
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _legend(lines: Sequence[Line]) -> str:
    items = (
        f'<span><i{" class=dashed" if line.dashed else ""} style="color:{COLORS[i % len(COLORS)]}"></i>'
        f"{escape(line.name)}</span>"
        for i, line in enumerate(lines)
    )
    return f"<figcaption>{''.join(items)}</figcaption>"
