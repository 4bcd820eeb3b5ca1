"""Stacked bars as figures for a template: which rectangle is where. Pure, no markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 160
_WIDEST = 40.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a chart, in its own units.

    :param series: What it stands for, which is also its class.
    :param label: What a pointer on it shows.
    """

    series: str
    label: str
    x: float
    y: float
    width: float
    height: float


def stacked_bars(stacks: Sequence[tuple[str, Mapping[str, int]]], series: Sequence[str]) -> list[Bar]:
    """The bars of a chart, one stack for each column.

    :param stacks: The name of each column, and its counts by series.
    :param series: The series, from the bottom up.
    """
    highest = max((sum(counts.values()) for _, counts in stacks), default=0) or 1
    step = WIDTH / max(len(stacks), 1)
    width = min(step * 0.8, _WIDEST)
    bars = []
    for number, (name, counts) in enumerate(stacks):
        top = float(HEIGHT)
        for one in series:
            if count := counts.get(one, 0):
                height = HEIGHT * count / highest
                top -= height
                x = round(number * step + (step - width) / 2, 2)
                bars.append(
                    Bar(
                        one,
                        f"{name}: {count} {one}",
                        x,
                        round(top, 2),
                        round(width, 2),
                        round(height, 2),
                    )
                )
    return bars
