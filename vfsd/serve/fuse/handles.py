"""What the kernel has open."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from vfsd.model.entry import Entry
from vfsd.serve.readahead import Reader
from vfsd.serve.view import Node, SnapNode
from vfsd.worktree.node import WorkNode
from vfsd.worktree.runs import Run

POSITIONS = 1 << 16  # names of an open directory that are remembered for seekdir(3)


class OpenFile:
    """An open file description. caller: the thread that opened it; run: what is written through it is of, if known.
    is_torn: a process that had it open was killed."""

    __slots__ = ("caller", "is_torn", "node", "reader", "run", "write")

    def __init__(self, node: SnapNode | WorkNode, caller: int, run: Run | None, *, write: bool) -> None:
        self.node = node
        self.caller = caller
        self.run = run
        self.write = write
        self.is_torn = False
        self.reader = Reader()


class OpenDirectory:
    """An open directory: where its listing is. `number` counts the names that were handed out, the position that the
    kernel knows; `names` are the last of them, so that it may go back to a position whatever was removed meanwhile."""

    __slots__ = ("last", "listing", "names", "node", "number")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.listing: Iterator[tuple[bytes, Node | Entry | None]] | None = None
        self.names: deque[bytes] = deque(maxlen=POSITIONS)
        self.last: bytes | None = None
        self.number = 0

    def handed_out(self, name: bytes) -> None:
        """The kernel has taken a name."""
        self.number += 1
        self.last = name
        self.names.append(name)

    def begin(self) -> None:
        """Go back to the first name."""
        self.number, self.last, self.listing = 0, None, None
        self.names.clear()

    def go_back(self, number: int) -> bool:
        """Go back to behind the first `number` names; whether these are known."""
        back = self.number - number
        if not 0 < number <= self.number or back >= len(self.names):
            return False
        for _ in range(back):
            self.names.pop()
        self.number, self.last, self.listing = number, self.names[-1], None
        return True
