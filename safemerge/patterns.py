"""PEFT's patterns of module names, matched in a time that no pattern can stretch. Imports no torch.

A pattern comes with an adapter, from whoever made it, and Python's `re` may try every way of cutting a name into pieces.
`(a+)+b` takes centuries for forty letters: refused, since PEFT and servers match it with `re` when they load the adapter.
`.*.*.*.*b` takes minutes: here the *set* of places where a match may end is carried through the pattern, and no way is
tried twice. The syntax is Python's own, read by its parser; what cannot be matched in this way (back-references, looking
behind, atomic groups) is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

LONGEST = 500  # characters of a pattern, and of the name that it is held against
DEEPEST = 20  # groups in each other
#: Letters that may be tried by `re` itself, one at a time: they have no choice of length.
_SINGLE = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT)

Ends = frozenset[int]


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> tuple[Any, int, re.Pattern[str] | None]:
    """The pattern as PEFT matches it, the whole name or its end after a dot: its tree, flags, and `re`'s own if quick.

    Raises:
        ValueError: it is no regular expression, or one that is not matched here; says which part.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern)} characters, above {LONGEST}")
    try:
        tree = _parser.parse(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    _check(tree, 0)
    # A name without choices in it, as most are, `re` matches soon.
    plain = not set(pattern) & set("*+?{|()")
    return tree, tree.state.flags, re.compile(rf"(.*\.)?({pattern})$") if plain else None


def matches(pattern: str, name: str) -> bool:
    """Whether `re.match(rf"(.*\\.)?({pattern})$", name)` would find something.

    Raises:
        ValueError: as `compiled`.
    """
    tree, flags, quick = compiled(pattern)
    if len(name) > LONGEST:  # the name of no module
        return False
    return bool(quick.match(name) if quick else _after(tree, name, frozenset([0]), flags))


def _check(tree: Iterable[tuple[Any, Any]], depth: int, repeated: bool = False) -> None:
    """repeated: inside of something that may stand several times."""
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} groups in each other")
    for kind, value in tree:
        if kind in _SINGLE or kind is op.AT:
            continue
        if repeated and (kind is op.BRANCH or (kind in _REPEATS and value[0] != value[1])):
            raise ValueError("a repetition of alternatives or of repetitions may take forever")
        if kind is op.SUBPATTERN:
            _check(value[3], depth + 1, repeated)
        elif kind is op.BRANCH:
            for part in value[1]:
                _check(part, depth + 1)
        elif kind in _REPEATS:
            _check(value[2], depth + 1, repeated or value[1] > 1)
        elif kind in (op.ASSERT, op.ASSERT_NOT) and value[0] == 1:
            _check(value[1], depth + 1, repeated)
        else:
            raise ValueError(f"{str(kind).lower()} is not taken; write it without")


def _after(tree: Sequence[tuple[Any, Any]], name: str, ends: Ends, flags: int) -> Ends:
    """Where a match of the tree may end, of those that begin at one of `ends`."""
    for kind, value in tree:
        if not ends:
            break
        ends = _step(kind, value, name, ends, flags)
    return ends


def _step(kind: Any, value: Any, name: str, ends: Ends, flags: int) -> Ends:
    if kind in _SINGLE:
        return frozenset(i + 1 for i in ends if i < len(name) and _is(kind, value, name[i], flags))
    if kind is op.SUBPATTERN:
        _, add, drop, inner = value
        return _after(inner, name, ends, (flags | add) & ~drop)
    if kind is op.BRANCH:
        return frozenset().union(*(_after(part, name, ends, flags) for part in value[1]))
    if kind is op.AT:
        return frozenset(i for i in ends if _at(value, name, i, flags))
    if kind in (op.ASSERT, op.ASSERT_NOT):
        there = kind is op.ASSERT
        return frozenset(i for i in ends if bool(_after(value[1], name, frozenset([i]), flags)) == there)
    least, most, inner = value
    return _repeated(least, most, inner, name, ends, flags)


def _repeated(
    least: int, most: int, tree: Sequence[tuple[Any, Any]], name: str, ends: Ends, flags: int
) -> Ends:
    for _ in range(least):
        before, ends = ends, _after(tree, name, ends, flags)
        if ends == before:  # as after any further one
            break
    found, new, times = ends, ends, least
    while new and times < most:
        new = _after(tree, name, new, flags) - found
        found, times = found | new, times + 1
    return found


@lru_cache(maxsize=65536)
def _letter(kind: Any, value: Any, letter: str, flags: int) -> bool:
    """One letter against one letter's pattern, which `re` decides: classes, ranges, letter case."""
    from re import _compiler  # type: ignore[attr-defined]

    state = _parser.State()
    state.flags, state.str = flags, ""
    tree = _parser.SubPattern(state, [(kind, list(value) if kind is op.IN else value)])
    return _compiler.compile(tree, flags).match(letter) is not None


def _is(kind: Any, value: Any, letter: str, flags: int) -> bool:
    if kind is op.LITERAL and not flags & re.IGNORECASE:
        return bool(value == ord(letter))
    return _letter(kind, _hashable(value), letter, flags)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_PLACES = {
    op.AT_BEGINNING: "^",
    op.AT_BEGINNING_STRING: r"\A",
    op.AT_END: "$",
    op.AT_END_STRING: r"\Z",
    op.AT_BOUNDARY: r"\b",
    op.AT_NON_BOUNDARY: r"\B",
}


def _at(value: Any, name: str, i: int, flags: int) -> bool:
    return re.compile(_PLACES[value], flags & (re.MULTILINE | re.ASCII)).match(name, i) is not None
