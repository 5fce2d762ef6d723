"""What a kill or a commit may show of a file that is open for writing: docs/semantics.md, "What survives"."""

from __future__ import annotations

from dataclasses import dataclass, field

SMALL = 128 << 10  # bytes up to which what was closed stays as it was while it is written anew


@dataclass
class Written:
    """One inode that is open for writing.

    states: what it held, from the last time that the journal got all of it. absent: neither the journal nor a commit
    has anything of it. closed: what it held each time that nobody was writing it. mtimes: all that it had. synced: the
    journal has been told of it since the writing began, so that later bytes may stand beside those that it knows.
    """

    states: list[bytes]
    absent: bool
    closed: list[bytes]
    mtimes: set[int] = field(default_factory=set)
    synced: bool = False

    def check_survivor(self, content: bytes | None, mtime: int) -> None:
        """After a kill this may be its content; None: it is not there."""
        if content is None:
            assert self.absent, "was journalled, and is gone after the kill"
            return
        if max(map(len, self.states)) <= SMALL and not self.synced:
            assert content in self.states, f"holds {len(content)} bytes that it never held"
        else:
            assert len(content) in map(len, self.states), f"has {len(content)} bytes, as it never had"
            assert _is_made_of(content, self.states, 0, len(content)), "holds bytes that it never held"
        assert mtime in self.mtimes, f"has the mtime {mtime} that it never had"

    def check_committed(self, content: bytes | None) -> None:
        """A commit that is made now may have this content; None: no such file."""
        if not self.closed:
            assert content is None, "is in the commit, and was never closed"
        elif len(self.closed[-1]) <= SMALL:
            assert content == self.closed[-1], "is not in the commit as it was closed"
        else:
            assert content is None or content in self.closed, "was never closed as the commit has it"


def _is_made_of(content: bytes, states: list[bytes], start: int, end: int) -> bool:
    """Whether each byte was there at its place in one of the states, old or new."""
    part = content[start:end]
    if any(state[start:end] == part for state in states):
        return True
    if end - start <= 1:
        return False
    middle = (start + end) // 2
    return _is_made_of(content, states, start, middle) and _is_made_of(content, states, middle, end)
