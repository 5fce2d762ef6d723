from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model import glob as glob_module
from vfsd.model.errors import InvalidArgument
from vfsd.model.glob import Glob, walk


class Tree:
    """A tree out of its files' paths, listed as walk() wants it; remembers which directories were listed."""

    def __init__(self, files: Iterable[bytes]) -> None:
        self.names: dict[bytes, dict[bytes, bool]] = {b"/": {}}
        self.listed: list[bytes] = []
        for path in files:
            parts = path[1:].split(b"/")
            for depth, name in enumerate(parts):
                inside = depth + 1 < len(parts)
                self.names.setdefault(b"/" + b"/".join(parts[:depth]), {})[name] = inside

    def lister(self, directory: bytes, prefix: bytes) -> Iterator[tuple[bytes, bool]]:
        self.listed.append(directory)
        return ((name, is_dir) for name, is_dir in sorted(self.names[directory].items()) if name.startswith(prefix))

    def paths(self, directory: bytes = b"/") -> Iterator[tuple[bytes, bool]]:
        if directory == b"/":
            yield b"/", True
        for name, is_dir in sorted(self.names[directory].items()):
            path = directory.rstrip(b"/") + b"/" + name
            yield path, is_dir
            if is_dir:
                yield from self.paths(path)


@pytest.mark.parametrize(
    ("glob", "path", "captures"),
    [
        ("/*", b"/.hidden", ()),
        ("/?.txt", b"/a.txt", ()),
        ("/?", "/é".encode(), ()),
        ("/?", b"/\xff", ()),
        ("/??", b"/\xff\xfe", ()),
        ("/[a-c]", b"/b", ()),
        ("/[!a]", b"/b", ()),
        ("/[^a]", b"/b", ()),
        ("/[]a]", b"/]", ()),
        ("/[a-]", b"/-", ()),
        ("/[[:digit:]x]+([[:alpha:]])", b"/7up", (b"up",)),
        ("/{a,b}.txt", b"/b.txt", ()),
        ("/{a,b/c}.txt", b"/b/c.txt", ()),
        ("/{,x}a", b"/a", ()),
        ("/(a|b)", b"/b", (b"b",)),
        ("/@(a|b)", b"/b", (b"b",)),
        ("/*(ab|c)", b"/abcab", (b"abcab",)),
        ("/+(ab|c)", b"/c", (b"c",)),
        ("/x?(a|b)", b"/x", (b"",)),
        ("/!(a|b)", b"/abc", (b"abc",)),
        ("/!(a).txt", b"/ab.txt", (b"ab",)),
        ("/(*)-(*).txt", b"/a-b-c.txt", (b"a-b", b"c")),
        ("/(a|ab)(c|bcd)", b"/abcd", (b"a", b"bcd")),
        ("/(*(a)|b)x", b"/aax", (b"aa", b"aa")),
        ("/*(@(a|b)c)", b"/acbc", (b"acbc", b"b")),
        ("/*({,a})", b"/aa", (b"aa",)),
        ("/(*)/(**)", b"/a/b/c", (b"a", b"b/c")),
        ("/d/**(.js)", b"/d/foo.js", (b"",)),
        ("/a\\*\\(", b"/a*(", ()),
        ("/a!b@c+d", b"/a!b@c+d", ()),
        ("/a|b,c)}", b"/a|b,c)}", ()),
        ("/(*)", b"/\xff\xc3\xa9", (b"\xff\xc3\xa9",)),
    ],
)  # fmt: skip
def test_a_glob_matches_and_captures(glob: str, path: bytes, captures: tuple[bytes, ...]) -> None:
    match = Glob(glob).matches(path)
    assert match is not None
    assert match.captures == captures


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/*", b"/"), ("/**", b"/"), ("/", b"/a"), ("/*", b"/a/b"), ("/a", b"/a/b"), ("/a", b"/ab"), ("/?", b"/"),
        ("/a?b", b"/a/b"), ("/a[!x]b", b"/a/b"), ("/a[+-9]b", b"/a/b"), ("/[!a]", b"/a"), ("/??", "/é".encode()),
        ("/+(a)", b"/"), ("/!(a|b)", b"/a"), ("/!(a|b)", b"/c/d"), ("/!(foo)*", b"/foobar"), ("/!(a)**", b"/ab/c"),
        ("/(a|b)", b"/ab"), ("/A", b"/a"), ("/a.txt", b"/aXtxt"), ("/*.txt", b"/a.txt\n"),
    ],
)  # fmt: skip
def test_a_glob_leaves_out_what_it_does_not_name(glob: str, path: bytes) -> None:
    assert Glob(glob).matches(path) is None


def test_nested_repetition_does_not_take_exponential_time() -> None:
    glob = Glob("/*(*(*(a|aa)|a))*(**)*b")
    assert glob.matches(b"/" + b"a" * 2000) is None
    found = glob.matches(b"/" + b"a" * 60 + b"b")
    assert found is not None
    assert found.captures[0] == b"a" * 60


@pytest.mark.parametrize(
    ("template", "key"),
    [("$1", b"x"), ("${2}-$1", b"y-x"), ("$0", b"/x-y"), ("$$1", b"$1"), ("$3|${99}", b"|"), ("$a $", b"$a $")],
)
def test_a_template_is_filled_with_captures(template: str, key: bytes) -> None:
    match = Glob("/(*)-(*)").matches(b"/x-y/")
    assert match is not None
    assert match.replace(template) == key


@pytest.mark.parametrize(
    ("glob", "why"),
    [
        ("", "may not be empty"),
        ("/(a", "a ')' is missing"),
        ("/{a,b", "a '}' is missing"),
        ("/[ab", "a ']' is missing"),
        ("/[z-a]", "runs backwards"),
        ("/[[:nope:]]", "no class of characters"),
        ("/a\\", "nothing stands behind"),
        ("(" * 100, "deep in each other"),
        ("a" * 5000, "at most"),
    ],
)
def test_a_glob_that_cannot_be_read_is_refused_in_one_line(glob: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(why)) as error:
        Glob(glob)
    assert "\n" not in str(error.value)


def test_a_walk_goes_straight_to_where_matches_can_be() -> None:
    tree = Tree([b"/a/x/1", b"/b/x/1", b"/b/xy/2", b"/c/x/1"])
    assert list(walk(Glob("/b/x/*"), tree.lister)) == [(b"/b/x/1", False)]
    assert tree.listed == [b"/", b"/b", b"/b/x"]
    asked: list[bytes] = []

    def lister(directory: bytes, prefix: bytes) -> Iterator[tuple[bytes, bool]]:
        asked.append(prefix)
        return tree.lister(directory, prefix)

    list(walk(Glob("/b/x*/*"), lister))
    assert asked == [b"b", b"x", b"", b""]


def test_what_cannot_match_below_a_directory_is_known() -> None:
    glob = Glob("/{a,b}/*.d/**")
    assert glob.may_match_below(b"/")
    assert glob.may_match_below(b"/a/x.d/y")
    assert not glob.may_match_below(b"/c")
    assert not glob.may_match_below(b"/a/x")
    assert not Glob("/*").may_match_below(b"/a")


# A slow plain reference: a glob as nested tuples, and the set of places where a match that begins at `at` may end.

LETTERS = "ab."
Item = tuple  # ("text", "a") | ("class", "ab", negated) | ("?",) | ("*",) | ("**",) | ("@*+?!{" , [options])


def items(depth: int) -> st.SearchStrategy[list[Item]]:
    leaf = st.one_of(
        st.sampled_from(["a", "b", ".", "ab"]).map(lambda text: ("text", text)),
        st.tuples(st.just("class"), st.sampled_from(["a", "ab"]), st.booleans()),
        st.sampled_from([("?",), ("*",), ("**",)]),
    )
    if depth:
        option = st.one_of(items(depth - 1), st.just([("text", "a/b")]))
        leaf = leaf | st.tuples(st.sampled_from("@*+?!{"), st.lists(option, min_size=1, max_size=2))
    return st.lists(leaf, min_size=1, max_size=3).map(one_run_at_a_time)


def one_run_at_a_time(found: list[Item]) -> list[Item]:
    kept: list[Item] = []
    for item in found:
        if not (kept and kept[-1][0] in {"*", "**"} and item[0] in {"*", "**"}):
            kept.append(item)
    return kept


def text_of(sequence: list[Item]) -> str:
    text = ""
    for item in sequence:
        match item:
            case ("text", letters):
                text += letters
            case ("class", letters, negated):
                text += f"[{'!' if negated else ''}{letters}]"
            case ("{", options):
                text += "{" + ",".join(map(text_of, options)) + "}"
            case (quantifier, options):
                text += f"{quantifier}(" + "|".join(map(text_of, options)) + ")"
            case (wildcard,):
                text += wildcard
    return text


def ends(sequence: list[Item], text: str, at: int) -> set[int]:
    if not sequence:
        return {at}
    item, rest = sequence[0], sequence[1:]
    run = next((end for end in range(at, len(text)) if text[end] == "/"), len(text))
    match item:
        case ("text", letters):
            here = {at + len(letters)} if text.startswith(letters, at) else set()
        case ("class", letters, negated):
            here = {at + 1} if at < run and (text[at] in letters) != negated else set()
        case ("?",):
            here = {at + 1} if at < run else set()
        case ("*",):
            here = set(range(at, run + 1))
        case ("**",):
            here = set(range(at, len(text) + 1))
        case ("!", options):
            barred = {end for option in options for end in ends(option, text, at)}
            if rest and rest[0] in [("*",), ("**",)]:  # as Pachyderm has it: what the two take does not begin so
                limit = run if rest[0] == ("*",) else len(text)
                here = {end for end in range(at, limit + 1) if not any(stop <= end for stop in barred)}
                rest = rest[1:]
            else:
                here = set(range(at, run + 1)) - barred
        case (quantifier, options):
            here = {end for option in options for end in ends(option, text, at)}
            if quantifier in {"*", "+"}:
                todo = set(here)
                while todo:
                    place = todo.pop()
                    more = {end for option in options for end in ends(option, text, place)} - here
                    here |= more
                    todo |= more
            if quantifier in {"*", "?"}:
                here |= {at}
    return {last for end in here for last in ends(rest, text, end)}


PATHS = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=3).map("/".join).map("/".__add__)
GLOBS = st.lists(items(2), min_size=1, max_size=2)


def joined(components: list[list[Item]]) -> list[Item]:
    return [item for component in components for item in [("text", "/"), *component]]


@given(GLOBS, st.lists(PATHS, min_size=1, max_size=8))
def test_matching_agrees_with_a_plain_reference(components: list[list[Item]], paths: list[str]) -> None:
    sequence = joined(components)
    glob = Glob(text_of(sequence))
    for path in paths:
        assert (glob.matches(path.encode()) is not None) == (len(path) in ends(sequence, path, 0)), (glob.text, path)


@given(GLOBS, st.sets(PATHS, max_size=8))
def test_a_walk_finds_what_matching_every_path_finds(components: list[list[Item]], paths: set[str]) -> None:
    files = [path.encode() for path in paths if not any(other.startswith(path + "/") for other in paths)]
    glob = Glob(text_of(joined(components)))
    tree = Tree(files)
    everything = list(tree.paths())
    assert list(walk(glob, tree.lister)) == [found for found in everything if glob.matches(found[0])]
    assert all(glob.may_match_below(directory) for directory in tree.listed)
    for path, _ in everything:
        if glob.matches(path):
            parts = path.split(b"/")
            assert all(glob.may_match_below(b"/".join(parts[:depth])) for depth in range(1, len(parts)))


def regex_of(sequence: list[Item]) -> str:
    text = ""
    for item in sequence:
        match item:
            case ("text", letters):
                text += re.escape(letters)
            case ("class", letters, negated):
                text += f"[{'^/' if negated else ''}{letters}]"
            case ("{", options):
                text += "(?:" + "|".join(map(regex_of, options)) + ")"
            case ("@", options):
                text += "(" + "|".join(map(regex_of, options)) + ")"
            case ("?", options):
                text += "((?:" + "|".join(map(regex_of, options)) + ")?)"
            case (wildcard,):
                text += {"?": "[^/]", "*": "[^/]*", "**": ".*"}[wildcard]
    return text


def only_simple(sequence: list[Item]) -> bool:
    return all(
        len(item) == 1 or item[0] in {"text", "class"} or (item[0] in "@?{" and all(map(only_simple, item[1])))
        for item in sequence
    )


@given(GLOBS.map(joined).filter(only_simple), PATHS)
def test_captures_are_those_of_a_backtracking_regex(sequence: list[Item], path: str) -> None:
    found = Glob(text_of(sequence)).matches(path.encode())
    wanted = re.fullmatch(regex_of(sequence), path)
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        assert found.captures == tuple((group or "").encode() for group in wanted.groups())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(glob_module, "MAX_RUNS", -1)  # so that no regular expression is used
            slow = Glob(text_of(sequence)).matches(path.encode())
        assert slow is not None
        assert slow.captures == found.captures
