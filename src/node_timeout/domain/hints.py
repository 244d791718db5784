"""Hints in error texts: the wrong value, cut short, and the word that was probably meant.

Every function here takes at most linear time, whatever its input is.
"""

from __future__ import annotations

import heapq
import operator
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

HINTED_PROBLEMS = 3
"""How many problems of a list get a hint: each hint costs a pass over all known words."""
COMPARED = 20
"""How many known words are compared thoroughly."""
SHOWN_CHARACTERS = 120

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def shown(value: object) -> str:
    """The value as Python writes it, cut short; never raises, whatever the value holds."""
    try:
        text = _repr.repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def nearest(word: object, known: Iterable[object], *, likeness: float = 0.6) -> str | None:
    """The known word that was probably meant, or None. Linear in the number of known words.

    ``likeness`` is that of `difflib`, from 0 to 1.
    """
    word = str(word)
    words = [each for each in known if isinstance(each, str)]
    if len(words) > COMPARED:
        backwards = word[::-1]
        words = heapq.nlargest(
            COMPARED,
            words,
            key=lambda each: (
                sum(map(operator.eq, word, each)) + sum(map(operator.eq, backwards, each[::-1]))
            ),
        )
    close = get_close_matches(word, words, n=1, cutoff=likeness)
    return close[0] if close else None


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """``", did you mean 'x'?"`` for a near miss, else the empty string."""
    close = nearest(word, known)
    return f", did you mean {close!r}?" if close else ""


class Problems(list[str]):
    """One sentence for each fault; only the first of them get a hint."""

    def did_you_mean(self, word: object, known: Iterable[object]) -> str:
        return did_you_mean(word, known) if len(self) < HINTED_PROBLEMS else ""
