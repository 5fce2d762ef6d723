"""Regular languages over characters, with complement: what a glob denotes.

A language answers two questions, whether it holds the empty text and which language is left after one character (its
derivative: Brzozowski, "Derivatives of Regular Expressions", 1964). Deriving step by step matches a text in time
linear in its length, whatever the language; equal languages in the forms built here compare equal, so that steps can
be remembered. Syntax is left to vfsd.model.glob.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Chars(msgspec.Struct, frozen=True):
    """One character out of `ranges` (first, last), or out of all others when `negated`."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False

    def holds(self, char: str) -> bool:
        """Whether `char` is one of them."""
        return any(first <= char <= last for first, last in self.ranges) != self.negated


class Cat(msgspec.Struct, frozen=True):
    """One after the other."""

    items: tuple[Language, ...]


class Alt(msgspec.Struct, frozen=True):
    """Any of these."""

    options: frozenset[Language]


class Star(msgspec.Struct, frozen=True):
    """Any number of times."""

    body: Language


class Both(msgspec.Struct, frozen=True):
    """What is in each of the two."""

    one: Language
    other: Language


class Not(msgspec.Struct, frozen=True):
    """Every text that `body` does not hold."""

    body: Language


Language = Chars | Cat | Alt | Star | Both | Not

ANY = Chars((), negated=True)
EMPTY = Cat(())  # only the empty text
NONE = Alt(frozenset())  # no text at all
ALL = Star(ANY)
NON_EMPTY = Cat((ANY, ALL))


def cat(*items: Language) -> Language:
    """Concatenation, flattened."""
    flat: list[Language] = []
    for item in items:
        if item == NONE:
            return NONE
        if isinstance(item, Cat):
            flat.extend(item.items)
        else:
            flat.append(item)
    return flat[0] if len(flat) == 1 else Cat(tuple(flat))


def alt(options: Iterable[Language]) -> Language:
    """Union, flattened."""
    flat: set[Language] = set()
    for option in options:
        if isinstance(option, Alt):
            flat |= option.options
        else:
            flat.add(option)
    if ALL in flat:
        return ALL
    return flat.pop() if len(flat) == 1 else Alt(frozenset(flat))


def star(body: Language) -> Language:
    """Repetition."""
    if body in {EMPTY, NONE}:
        return EMPTY
    return body if isinstance(body, Star) else Star(body)


def both(one: Language, other: Language) -> Language:
    """Intersection."""
    if one == ALL or other == NONE:
        return other
    return one if other in {ALL, one} or one == NONE else Both(one, other)


def negate(body: Language) -> Language:
    """Complement."""
    if isinstance(body, Not):
        return body.body
    if body == NONE:
        return ALL
    return NONE if body == ALL else Not(body)


def holds_empty(language: Language) -> bool:
    """Whether the empty text is in the language."""
    match language:
        case Chars():
            return False
        case Cat(items):
            return all(holds_empty(item) for item in items)
        case Alt(options):
            return any(holds_empty(option) for option in options)
        case Star():
            return True
        case Both(one, other):
            return holds_empty(one) and holds_empty(other)
        case Not(body):
            return not holds_empty(body)


def derive(language: Language, char: str) -> Language:
    """What may follow `char` in texts of the language."""
    match language:
        case Chars():
            return EMPTY if language.holds(char) else NONE
        case Cat(items):
            found = []
            for position, item in enumerate(items):
                found.append(cat(derive(item, char), *items[position + 1 :]))
                if not holds_empty(item):
                    break
            return alt(found)
        case Alt(options):
            return alt(derive(option, char) for option in options)
        case Star(body):
            return cat(derive(body, char), language)
        case Both(one, other):
            return both(derive(one, char), derive(other, char))
        case Not(body):
            return negate(derive(body, char))


def character_sets(language: Language) -> set[Chars]:
    """All sets of characters that the language is built from."""
    match language:
        case Chars():
            return {language}
        case Cat(items):
            return {chars for item in items for chars in character_sets(item)}
        case Alt(options):
            return {chars for option in options for chars in character_sets(option)}
        case Star(body) | Not(body):
            return character_sets(body)
        case Both(one, other):
            return character_sets(one) | character_sets(other)


def forced_prefix(language: Language, stop: str) -> str:
    """Text, free of `stop`, with which everything in the language begins, as far as it can be seen at once."""
    text = ""
    for item in language.items if isinstance(language, Cat) else (language,):
        if not isinstance(item, Chars) or item.negated or len(item.ranges) != 1:
            break
        first, last = item.ranges[0]
        if first != last or first == stop:
            break
        text += first
    return text
