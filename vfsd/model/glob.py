"""Pachyderm's globs over paths whose names are any bytes: which paths of a tree are datums, and what is captured.

    glob   = term*                 from the root, to the end; a leading `/` is added, repeated and trailing ones go
    term   = `*`                   any run without `/`, dotfiles too        `**`   any run
           | `?`                   one character but `/`                    `\\x`   the character x
           | `[a-z]` `[!a]` `[^a]` `[[:digit:]]`                            one character, never `/`
           | `{a,b}`               one of these globs
           | `(a|b)` `@(a|b)` `*(a|b)` `+(a|b)` `?(a|b)`                    captures: one, one, any number, 1.., 0..1
           | `!(a|b)`              captures any run without `/` that is none of these
           | any other character   itself

A character is one of UTF-8, or one byte where a name is not UTF-8. `!(a)*` is any run that does not begin with a, as
in Pachyderm; a shell would take it for `*`. Only the glob `/` matches the root. Matching takes time linear in the path;
walking a tree enters no directory that cannot hold a match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import msgspec

from vfsd.model import language as lang
from vfsd.model.errors import InvalidArgument
from vfsd.model.language import Chars, Language

MAX_GLOB = 4096  # characters, as the longest path
MAX_DEPTH = 40  # brackets within brackets
MAX_RUNS = 6  # `*` and `**` in a glob whose captures a regular expression finds: it may try a power of the length
MAX_POSITIONS = 20_000  # remembered at a time; a glob that needs more starts afresh

SLASH = Chars((("/", "/"),))
NAME_CHAR = Chars((("/", "/"),), negated=True)
NAME_RUN = lang.star(NAME_CHAR)
_POSIX = {
    "alnum": ("09", "AZ", "az"), "alpha": ("AZ", "az"), "ascii": ("\0\x7f",), "blank": ("  ", "\t\t"),
    "cntrl": ("\0\x1f", "\x7f\x7f"), "digit": ("09",), "graph": ("!~",), "lower": ("az",), "print": (" ~",),
    "punct": ("!/", ":@", "[`", "{~"), "space": ("  ", "\t\r"), "upper": ("AZ",), "word": ("09", "AZ", "az", "__"),
    "xdigit": ("09", "AF", "af"),
}  # fmt: skip
_TEMPLATE = re.compile(rb"\$(?:(\$)|(\d+)|\{(\d+)\})")


class One(msgspec.Struct, frozen=True):
    """A character out of a set."""

    chars: Chars

    @property
    def language(self) -> Language:
        return self.chars


class Run(msgspec.Struct, frozen=True):
    """Any number of characters out of a set."""

    language: Language


class Group(msgspec.Struct, frozen=True):
    """Brackets. number: of the capture, 0 for braces. quantifier: one of `@*+?!`."""

    quantifier: str
    number: int
    options: tuple[tuple[Term, ...], ...]
    language: Language


class Close(msgspec.Struct, frozen=True):
    """In the search for captures: here ends the group that began at `start`."""

    number: int
    start: int
    language: Language = lang.EMPTY


Term = One | Run | Group | Close


def sequence(terms: Iterable[Term]) -> Language:
    """The language of terms one after the other."""
    return lang.cat(*(term.language for term in terms))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.captures = 0

    def fail(self, why: str) -> InvalidArgument:
        return InvalidArgument(f"glob {self.text!r}: {why}")

    def terms(self, stops: str) -> tuple[Term, ...]:
        found: list[Term] = []
        while self.at < len(self.text) and self.text[self.at] not in stops:
            found.append(self.term())
        return tuple(found)

    def term(self) -> Term:
        char = self.text[self.at]
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 1
        if char in "@*+?!" and following == "(":
            self.at += 1
            return self.group(char, ")", "|")
        if char == "*":
            if following == "*" and self.text[self.at + 1 : self.at + 2] != "(":
                self.at += 1
                return Run(lang.ALL)
            return Run(NAME_RUN)
        match char:
            case "?":
                return One(NAME_CHAR)
            case "(":
                return self.group("@", ")", "|")
            case "{":
                return self.group("{", "}", ",")
            case "[":
                return One(self.char_class())
            case "\\":
                char = self.take("nothing stands behind the last '\\'")
        return One(Chars(((char, char),)))

    def take(self, missing: str) -> str:
        if self.at == len(self.text):
            raise self.fail(missing)
        self.at += 1
        return self.text[self.at - 1]

    def group(self, quantifier: str, closing: str, between: str) -> Group:
        number = 0
        if quantifier == "{":
            quantifier = "@"
        else:
            self.captures += 1
            number = self.captures
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"brackets stand more than {MAX_DEPTH} deep in each other")
        options = []
        end = between
        while end == between:
            options.append(self.terms(closing + between))
            end = self.take(f"a '{closing}' is missing")
        self.depth -= 1
        body = lang.alt(sequence(option) for option in options)
        match quantifier:
            case "*":
                body = lang.star(body)
            case "+":
                body = lang.cat(body, lang.star(body))
            case "?":
                body = lang.alt([body, lang.EMPTY])
            case "!":
                run: Language = NAME_RUN
                if self.text[self.at : self.at + 1] == "*" and self.text[self.at + 1 : self.at + 2] != "(":
                    following = self.term()  # `*` or `**`: the group takes it in
                    run, body = following.language, lang.cat(body, lang.ALL)
                body = lang.both(run, lang.negate(body))
        return Group(quantifier, number, tuple(options), body)

    def char_class(self) -> Chars:
        missing = "a ']' is missing"
        negated = self.text[self.at : self.at + 1] in {"!", "^"}
        self.at += negated
        ranges: list[tuple[str, str]] = [("/", "/")] if negated else []
        first = True
        while (char := self.take(missing)) != "]" or first:
            first = False
            if char == "[" and self.text[self.at : self.at + 1] == ":":
                end = self.text.find(":]", self.at)
                name = self.text[self.at + 1 : end]
                if end < 0 or name not in _POSIX:
                    raise self.fail(f"[:{name if end >= 0 else ''}:] is no class of characters")
                self.at = end + 2
                ranges += [(pair[0], pair[1]) for pair in _POSIX[name]]
                continue
            if char == "\\":
                char = self.take(missing)
            last = char
            if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in {"]", ""}:
                self.at += 1
                last = self.take(missing)
                if last == "\\":
                    last = self.take(missing)
            if last < char:
                raise self.fail(f"the range {char}-{last} runs backwards")
            ranges.append((char, last))
        return Chars(tuple(ranges), True) if negated else Chars(tuple(_without_slash(ranges)))


def _without_slash(ranges: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for first, last in ranges:
        if first <= "/" <= last:
            if first < "/":
                yield first, "."
            if last > "/":
                yield "0", last
        else:
            yield first, last


class Position:
    """Where a walk stands with respect to a glob: behind the name of some file or directory.

    matches: whether the path so far is a datum. Positions are shared and remembered: reaching one twice costs nothing.
    """

    __slots__ = ("_below", "_known", "_language", "_next", "_steady", "matches", "prefix")

    def __init__(self, language: Language, known: dict[Language, Position]) -> None:
        self._language = language
        self._known = known
        self._next: dict[str, Position] = {}
        self._below: Position | None = None
        self.matches = lang.holds_empty(language)
        plain = lang.character_sets(language) <= {lang.ANY, NAME_CHAR, SLASH}
        self._steady = language == lang.NONE or (plain and lang.derive(language, "a") == language)
        self.prefix = lang.forced_prefix(language, "/").encode(errors="surrogateescape")

    def _step(self, char: str) -> Position:
        language = lang.derive(self._language, char)
        position = self._known.get(language)
        if position is None:
            position = self._known[language] = Position(language, self._known)
        self._next[char] = position
        return position

    def behind(self, text: str) -> Position:
        """The position behind more characters; none of them `/`."""
        position = self
        for char in text:
            if position._steady:
                break
            position = position._next.get(char) or position._step(char)
        return position

    @property
    def below(self) -> Position | None:
        """The position inside this directory, None when nothing there can match. Its `prefix` is what every matching
        name or name on the way to a match begins with; `behind` leads from it to a name."""
        if self._below is None:
            self._below = self._step("/")
        return None if self._below._language == lang.NONE else self._below

    def child(self, name: bytes) -> Position | None:
        """The position of a name in this directory; None when nothing there can match."""
        below = self.below
        return None if below is None else below.behind(name.decode(errors="surrogateescape"))

    def holds(self, text: str) -> bool:
        """Whether `text`, which may go over `/`, leads from here to a match."""
        position: Position | None = self
        for number, name in enumerate(text.split("/")):
            if number:
                position = position.below if position else None
            if position is None:
                return False
            position = position.behind(name)
        return position is not None and position.matches


class Match:
    """A path that a glob matches, without a trailing `/`."""

    __slots__ = ("_glob", "path")

    def __init__(self, glob: Glob, path: bytes) -> None:
        self._glob = glob
        self.path = path

    @property
    def captures(self) -> tuple[bytes, ...]:
        """What each bracket captured, in order of their opening; empty for one that took no part."""
        return self._glob.captures(self.path)

    def replace(self, template: str) -> bytes:
        """`template` with `$1`, `${1}` as captures, `$0` as the path, `$$` as `$`; an unknown index is empty."""
        groups = (self.path, *self.captures)

        def one(found: re.Match[bytes]) -> bytes:
            dollar, bare, braced = found.groups()
            if dollar:
                return b"$"
            digits = bare or braced
            return groups[int(digits)] if len(digits) < 10 and int(digits) < len(groups) else b""

        return _TEMPLATE.sub(one, template.encode(errors="surrogateescape"))


def _pattern(terms: tuple[Term, ...]) -> re.Pattern[str] | None:
    """A regular expression that captures as `Glob._fill` does, some fifty times as fast; None for a glob whose
    repetitions could make it try too many ways."""
    runs = 0

    def of(sequence: tuple[Term, ...]) -> str:
        nonlocal runs
        text = ""
        for term in sequence:
            match term:
                case One(chars):
                    text += _class(chars)
                case Run(language):
                    runs += 1
                    text += "(?s:.*)" if language == lang.ALL else "[^/]*"
                case Group("@" | "?") as group:
                    inner = "(?:" + "|".join(map(of, group.options)) + ")" + "?" * (group.quantifier == "?")
                    text += f"({inner})" if group.number else inner
                case _:
                    runs = MAX_RUNS + 1
        return text

    text = of(terms)
    return re.compile(text) if runs <= MAX_RUNS else None


def _class(chars: Chars) -> str:
    if not chars.ranges:
        return "(?s:.)" if chars.negated else "(?!)"
    return f"[{'^' * chars.negated}{''.join(f'{re.escape(one)}-{re.escape(other)}' for one, other in chars.ranges)}]"


class Glob:
    """A compiled glob; `text` is its clean form. InvalidArgument when it cannot be read."""

    def __init__(self, text: str) -> None:
        if not text:
            raise InvalidArgument("a glob may not be empty: '/' stands for the whole repo, '/*' for each file in it")
        if len(text) > MAX_GLOB:
            raise InvalidArgument(f"glob {text[:20]!r}…: a glob has at most {MAX_GLOB} characters")
        inner = re.sub("/+", "/", text).strip("/")
        if text.endswith("\\/"):
            inner = inner.removesuffix("\\")
        self.text = f"/{inner}"
        parser = _Parser(self.text if inner else "")
        self._terms = parser.terms("")
        self.groups = parser.captures
        self._language = sequence(self._terms)
        self._known: dict[Language, Position] = {}
        self._pattern = _pattern(self._terms)

    def _position(self, language: Language) -> Position:
        if len(self._known) > MAX_POSITIONS:
            self._known = {}
        position = self._known.get(language)
        if position is None:
            position = self._known[language] = Position(language, self._known)
        return position

    @property
    def root(self) -> Position:
        """The position of a tree's root."""
        return self._position(self._language)

    def matches(self, path: bytes) -> Match | None:
        """Match a path from the root, with or without `/` at its ends."""
        clean = path.strip(b"/")
        position: Position | None = self.root
        if clean:
            for name in clean.split(b"/"):
                position = position.child(name) if position else None
        return Match(self, b"/" + clean) if position and position.matches else None

    def may_match_below(self, directory: bytes) -> bool:
        """Whether anything below `directory` could match; a False is certain."""
        position: Position | None = self.root
        for name in filter(None, directory.split(b"/")):
            position = position.child(name) if position else None
        return position is not None and position.below is not None

    def captures(self, path: bytes) -> tuple[bytes, ...]:
        """The captures of a path that matches."""
        text = path.decode(errors="surrogateescape") if self._terms else ""
        if self._pattern is not None:
            found = self._pattern.fullmatch(text)
            assert found is not None
            return tuple((group or "").encode(errors="surrogateescape") for group in found.groups())
        spans = [(0, 0)] * (self.groups + 1)
        self._fill(self._terms, text, 0, len(text), spans)
        return tuple(text[start:end].encode(errors="surrogateescape") for start, end in spans[1:])

    def _fill(self, terms: tuple[Term, ...], text: str, at: int, end: int, spans: list[tuple[int, int]]) -> None:
        """Find spans of the groups in `terms`, which match text[at:end]: the first way that a backtracking matcher
        would find, runs as long as they can be, options from left to right. No way is tried that does not lead to
        the end, because the language of what is left to match says beforehand whether it will.
        """
        todo = list(reversed(terms))
        while todo:
            term = todo.pop()
            if isinstance(term, One):
                at += 1
                continue
            if isinstance(term, Close):
                spans[term.number] = (term.start, at)
                continue
            rest = sequence(reversed(todo))
            match term:
                case Run():
                    at = self._longest(term.language, rest, text, at, end)
                case Group("@" | "?"):
                    todo.append(Close(term.number, at))
                    options = (*term.options, ()) if term.quantifier == "?" else term.options
                    for option in options:
                        if self._holds(lang.cat(sequence(option), rest), text, at, end):
                            todo.extend(reversed(option))
                            break
                case Group():
                    stop = self._longest(term.language, rest, text, at, end)
                    if term.quantifier != "!":
                        self._fill_loop(term, text, at, stop, spans)
                    spans[term.number] = (at, stop)
                    at = stop

    def _fill_loop(self, term: Group, text: str, at: int, end: int, spans: list[tuple[int, int]]) -> None:
        """Spans of the groups within a repeated one, which matches text[at:end]: those of the last round stay."""
        again = lang.star(lang.alt(sequence(option) for option in term.options))
        while at < end:
            for option in term.options:
                nonempty = lang.both(sequence(option), lang.NON_EMPTY)
                if self._holds(lang.cat(nonempty, again), text, at, end):
                    stop = self._longest(nonempty, again, text, at, end)
                    self._fill(option, text, at, stop, spans)
                    at = stop
                    break

    def _holds(self, language: Language, text: str, start: int, end: int) -> bool:
        return self._position(language).holds(text[start:end])

    def _longest(self, language: Language, rest: Language, text: str, start: int, end: int) -> int:
        """The largest place where `language` may end, and `rest` go on to `end`."""
        first, second = self._position(language), self._position(rest)
        for stop in range(end, start - 1, -1):
            if second.holds(text[stop:end]) and first.holds(text[start:stop]):
                return stop
        raise ValueError(f"{text!r} does not match {self.text!r}")


def walk(
    glob: Glob, lister: Callable[[bytes, bytes], Iterable[tuple[bytes, bool]]]
) -> Iterator[tuple[bytes, bool]]:
    """Every (path, is it a directory) that `glob` matches, in the order of names, a directory ahead of what it holds.

    `lister(directory, prefix)` gives (name, is it a directory) of the names in a directory, in order; it may leave out
    names that do not begin with `prefix`. Directories are named as paths are: `/`, `/d`, `/d/e`.
    """
    if glob.root.matches:
        yield b"/", True
    below = glob.root.below
    stack = [] if below is None else [(b"", below, iter(lister(b"/", below.prefix)))]
    while stack:
        directory, inside, names = stack[-1]
        for name, is_dir in names:
            position = inside.behind(name.decode(errors="surrogateescape"))
            path = directory + b"/" + name
            if position.matches:
                yield path, is_dir
            if is_dir and (below := position.below) is not None:
                stack.append((path, below, iter(lister(path, below.prefix))))
                break
        else:
            stack.pop()
