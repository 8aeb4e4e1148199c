"""The verdict multiverse as a table."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.sections import points_text
from evaluation.specifications import BROKEN_TEXT, Curve
from evaluation.tables import Table


def multiverse_table(curves: Sequence[Curve]) -> Table:
    """A row per claim: how often its sign and its significance flip."""
    table = Table(
        "Our claims under every reading of the stored rows",
        [
            *("Claim", "Dimensions", "Specifications", "As reported [95 %]", "Least to most as claimed"),
            *("Significant as claimed", "Not significant", "Significant against"),
            *("Side flips", "Significance flips"),
        ],
        note=(
            "Differences have the claimed direction: above zero is as claimed (of “up to”: above the margin). Flips: "
            "specifications that disagree with the report's own in the side that the difference lies on, or in what its "
            "95 % interval says of it. Specifications share their prompts and replies, so they are no independent tests; "
            "a share of them is no probability. "
            f"Broken: {BROKEN_TEXT} replies (see Quality)."
        ),
    )
    for curve in curves:
        total = len(curve.cells)
        head = curve.headline.found
        first, *ends = (curve.sign * value for value in (head.difference, head.low, head.high))
        spread = sorted(curve.sign * cell.found.difference for cell in curve.cells)
        low, high = sorted(ends)
        table.add(
            f"{curve.says} ({curve.id})",
            "; ".join(f"{len(choices)} {name}" for name, choices in curve.dimensions.items()),
            (str(total), float(total)),
            (f"{_text(first, curve)} [{_text(low, curve)}, {_text(high, curve)}] {curve.unit}", first),
            f"{_text(spread[0], curve)} to {_text(spread[-1], curve)}",
            *(
                (f"{n}/{total}", n / total)
                for n in (curve.count("as claimed"), curve.count("not significant"))
            ),
            (f"{curve.count('against')}/{total}", curve.count("against") / total),
            (f"{curve.flipped_signs}/{total}", curve.flipped_signs / total),
            (f"{curve.flipped_significance}/{total}", curve.flipped_significance / total),
        )
        if not curve.flipped_signs and not curve.flipped_significance:
            table.marked.add(len(table.rows) - 1)
    if table.marked:
        table.note += " Marked: claims that no specification flips."
    return table


def _text(value: float, curve: Curve) -> str:
    return points_text(value) if curve.unit == "points" else f"{value:+.2f}"
