"""A toy defence: the adapter at half its strength in the modules with the lowest rho."""

from safemerge.selection import Point, Repair, Selection


def halve(*, share: float) -> list[Point]:
    """Scale the `share` of the modules with the lowest rho by one half."""
    return [
        Point(
            "halve",
            f"halve share={share:g}",
            "task",
            Selection("lowest", k=share),
            Repair("scale", alpha=0.5),
        )
    ]
