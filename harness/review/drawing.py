"""Pictures for the pages, as SVG: the evidence of a gate as it grew, its interval, and who came from whom.

Rules: coordinates are numbers that were formatted here, text goes through `_text` (spelt out, then escaped), and
there is no style, no script and no link but to pages of this set. Colours are classes of the pages' style sheet.
Nothing is drawn that was not logged: a path is the points of the evidence, from a wealth of 1 before the first item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from harness.plain import plain

__all__ = ["Node", "interval", "lineage", "process", "times"]

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 20, 34
_LOG10 = math.log(10)
_MOST_TICKS = 6
_VERDICTS = {verdict: verdict for verdict in ("pass", "fail", "inconclusive")}
"""Classes of the style sheet: what evidence calls a verdict is no more trusted than the rest of it."""


def process(gate: dict[str, Any]) -> str:
    """Draw a gate's e-process: the wealth of the bet against the null, item by item, and where it had to get."""
    goal = gate["threshold"] / _LOG10
    points = [(0.0, 0.0), *((float(n), log_e / _LOG10) for n, log_e in gate["trajectory"])]
    items = max(points[-1][0], 1.0)
    low = min(0.0, *(y for _, y in points))
    high = max(goal, *(y for _, y in points))
    room = (high - low) or 1.0
    low, high = low - 0.08 * room, high + 0.12 * room

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / items

    def down(y: float) -> float:
        return TOP + float((HEIGHT - TOP - BOTTOM) * (high - y) / (high - low))

    end_x, end_y = across(points[-1][0]), down(points[-1][1])
    parts = [
        f'<rect class="beyond" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{_n(down(goal) - TOP)}"/>'
    ]
    for power in _powers(low, high):
        y = _n(down(power))
        parts += [
            f'<line class="{"one" if power == 0 else "grid"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
            f'<text class="tick" x="{LEFT - 6}" y="{_n(down(power) + 3.5)}" text-anchor="end">{_power(power)}</text>',
        ]
    y = _n(down(goal))
    parts += [
        f'<line class="goal" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
        f'<text class="goal-name" x="{LEFT + 4}" y="{_n(down(goal) - 5)}">must reach {times(gate["threshold"])}</text>',
    ]
    for at in _items(items):
        anchor = "end" if at == items else "middle"
        parts.append(
            f'<text class="tick" x="{_n(across(at))}" y="{HEIGHT - 18}" text-anchor="{anchor}">{at:,.0f}</text>'
        )
    path = " ".join(f"{_n(across(x))},{_n(down(y))}" for x, y in points)
    parts += [
        f'<polyline class="path {_VERDICTS.get(gate["verdict"], "")}" points="{path}"/>',
        _mark(gate["verdict"], end_x, end_y),
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">held-out items</text>',
    ]
    label = (
        f"evidence of {gate['name']}: {times(gate['log_e'])} after {gate['n']} items, {times(gate['threshold'])} asked"
    )
    return _svg("process", WIDTH, HEIGHT, label, parts)


def interval(mean: float | None, low: float, high: float, null: float, asks: str) -> str:
    """Draw a mean with its interval against what is asked of it; `asks` is `above` or `below`."""
    height, pad = 40, 12
    ends = [low, high, null]
    left, right = min(ends), max(ends)
    room = (right - left) or 1.0

    def across(x: float) -> float:
        return pad + (WIDTH - 2 * pad) * (x - left) / room

    x = _n(across(null))
    side = (across(null), WIDTH - pad / 2) if asks == "above" else (pad / 2, across(null))
    parts = [
        f'<rect class="beyond" x="{_n(side[0])}" y="6" width="{_n(max(side[1] - side[0], 0))}" height="18"/>',
        f'<line class="goal" x1="{x}" x2="{x}" y1="3" y2="27"/>',
        f'<line class="span" x1="{_n(across(low))}" x2="{_n(across(high))}" y1="15" y2="15"/>',
    ]
    if mean is not None:
        parts.append(f'<circle class="mean" cx="{_n(across(mean))}" cy="15" r="4.5"/>')
    at = across(null)
    anchor = "start" if at < WIDTH / 3 else "end" if at > 2 * WIDTH / 3 else "middle"
    parts.append(f'<text class="goal-name" x="{x}" y="38" text-anchor="{anchor}">{asks} {null:g}</text>')
    return _svg("interval", WIDTH, height, f"interval from {low:.3f} to {high:.3f}, asked: {asks} {null:g}", parts)


@dataclass(frozen=True)
class Node:
    """One candidate of the lineage: where it stands, what it came from, what became of it."""

    name: str
    """What is written beside it."""
    title: str
    fate: str
    """`baseline`, `promoted`, `undone`, `rejected`, `voided` or `open`."""
    row: int
    column: int
    parent: int | None
    """The place of the node that it came from, in the list of all."""
    link: str | None
    """A page of this set."""
    live: bool = False
    ancestor: bool = False
    """Whether the live version came from it, or is it."""


STEP_X, STEP_Y, MARGIN = 56, 66, 34


def lineage(nodes: Sequence[Node], rows: Sequence[str]) -> str:
    """Draw which candidate came from which: a row for each generation, the baseline above them."""
    columns = max((node.column for node in nodes), default=0) + 1
    width, height = max(320, 2 * MARGIN + 40 + STEP_X * (columns - 1)), 2 * MARGIN + STEP_Y * max(len(rows) - 1, 0)

    def place(node: Node) -> tuple[float, float]:
        return MARGIN + 40 + STEP_X * node.column, MARGIN + STEP_Y * node.row - 6

    parts = []
    for row, name in enumerate(rows):
        y: float = MARGIN + STEP_Y * row - 6
        parts.append(f'<line class="grid" x1="30" x2="{width - 8}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="4" y="{y + 4}">{_text(name, 12)}</text>')
    for node in nodes:
        if node.parent is None:
            continue
        (x, y), (fx, fy) = place(node), place(nodes[node.parent])
        kind = "main" if node.ancestor else "lost" if node.fate in ("rejected", "voided") else ""
        if fy == y:  # from a candidate of the same generation
            curve = f"M{_n(fx)} {_n(fy)}Q{_n((fx + x) / 2)} {_n(y - 34)} {_n(x)} {_n(y)}"
        else:
            middle = (fy + y) / 2
            curve = f"M{_n(fx)} {_n(fy)}C{_n(fx)} {_n(middle)} {_n(x)} {_n(middle)} {_n(x)} {_n(y)}"
        parts.append(f'<path class="edge {kind}" d="{curve}"/>')
    for node in nodes:
        x, y = place(node)
        drawn = f"<title>{_text(node.title, 300)}</title>{_node(node, x, y)}"
        drawn += f'<text class="name" x="{_n(x)}" y="{_n(y + 25)}" text-anchor="middle">{_text(node.name, 12)}</text>'
        parts.append(f"<g>{drawn}</g>" if node.link is None else f'<a href="{escape(node.link)}">{drawn}</a>')
    return _svg("lineage", width, height, "which candidate came from which", parts, group="group")


def _node(node: Node, x: float, y: float) -> str:
    """Shapes, not colours alone, tell fates apart."""
    ring = f'<circle class="ring" cx="{_n(x)}" cy="{_n(y)}" r="13"/>' if node.live else ""
    match node.fate:
        case "baseline" | "promoted":
            return f'{ring}<circle class="node good" cx="{_n(x)}" cy="{_n(y)}" r="8"/>'
        case "undone":
            return (
                f'{ring}<circle class="node undone" cx="{_n(x)}" cy="{_n(y)}" r="7"/>'
                f'<path class="stroke" d="M{_n(x - 8)} {_n(y + 8)}L{_n(x + 8)} {_n(y - 8)}"/>'
            )
        case "open":
            return f'<circle class="node open" cx="{_n(x)}" cy="{_n(y)}" r="6"/>'
        case _:
            return (
                f'<circle class="node back" cx="{_n(x)}" cy="{_n(y)}" r="7"/>'
                f'<path class="cross" d="M{_n(x - 4)} {_n(y - 4)}L{_n(x + 4)} {_n(y + 4)}'
                f'M{_n(x - 4)} {_n(y + 4)}L{_n(x + 4)} {_n(y - 4)}"/>'
            )


def _mark(verdict: str, x: float, y: float) -> str:
    match verdict:
        case "pass":
            return f'<circle class="end pass" cx="{_n(x)}" cy="{_n(y)}" r="4.5"/>'
        case "fail":
            return (
                f'<path class="end fail" d="M{_n(x - 4)} {_n(y - 4)}L{_n(x + 4)} {_n(y + 4)}'
                f'M{_n(x - 4)} {_n(y + 4)}L{_n(x + 4)} {_n(y - 4)}"/>'
            )
        case _:
            return f'<circle class="end inconclusive" cx="{_n(x)}" cy="{_n(y)}" r="4"/>'


def times(log_e: float) -> str:
    """How many times the wealth grew, for the eye: `1,437`, `0.21`, `10^12`."""
    if log_e >= 6 * _LOG10:
        return f"10^{log_e / _LOG10:.0f}"
    value = math.exp(log_e)
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _powers(low: float, high: float) -> list[int]:
    """Powers of ten within a range, a handful, 0 always among them."""
    step = max(1, math.ceil((high - low) / _MOST_TICKS))
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def _power(power: int) -> str:
    if power > 5:
        return f"10^{power}"
    return f"{10**power:,}" if power >= 0 else f"1/{10**-power:,}" if power > -4 else f"10^{power}"


def _items(items: float) -> list[float]:
    """A few round counts of items, and the last."""
    step = 10 ** math.floor(math.log10(items)) if items >= 1 else 1
    step = next(s for s in (step / 2, step, 2 * step, 5 * step) if items / s <= 5)
    step = max(step, 1)
    ticks = [step * k for k in range(int(items // step) + 1)]
    return [*(tick for tick in ticks if items - tick > 0.4 * step or tick == 0), items]


def _svg(kind: str, width: float, height: float, label: str, parts: Sequence[str], group: str = "img") -> str:
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<svg class="{kind}" {size} role="{group}" aria-label="{_text(label, 300)}">{"".join(parts)}</svg>'


def _text(text: str, limit: int) -> str:
    return escape(plain(text, limit))


def _n(value: float) -> str:
    """A coordinate: a tenth of a pixel suffices, and nothing but a finite number gets through."""
    return f"{value if math.isfinite(value) else 0.0:.1f}".removesuffix(".0")
