"""Moves branches that have triggers. Blocks.

Where a trigger moves its branch is a function of both heads and the time, and the move is one compare-and-swap. So it
does not matter who looks, how many do, or how often: the first one moves the branch, and the others find it there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec

from vfsd.model.commit import BranchHead
from vfsd.model.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, Refused
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.schedule import parse_schedule
from vfsd.model.trigger import Trigger, check_trigger, parse_size
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.refs import Head
from vfsd.repo.repository import Repository

CAS_TRIES = 16
MOST_LOOKS = 4096  # that are remembered


class Looks:
    """What looks came to, so that the next one goes back over the commits that came since, and no further.

    counts: (repo, branch, commit that the counting stops before) → the commit that was looked at, how many there were.
    states: (repo, branch, commit where the trigger's branch stood, moment) → the same, what the branch held at the
    moment.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, CommitId | None], tuple[CommitId, int]] = {}
        self.states: dict[tuple[str, str, CommitId | None, int], tuple[CommitId, CommitObject | None]] = {}

    def tidy(self) -> None:
        """Keep within bounds."""
        for known in (self.counts, self.states):
            if len(known) > MOST_LOOKS:
                known.clear()


def set_trigger(repository: Repository, repo: str, branch: str, trigger: Trigger, now: int) -> Head:
    """Give a branch a trigger; it is made when it is not there. See check_settable; Conflict."""
    for _ in range(CAS_TRIES):
        old = check_settable(repository, repo, branch, trigger)
        try:
            if old is None:
                old = repository.refs.create_branch(repo, branch, None, now)
            if old.head.trigger == trigger:
                return old
            return repository.refs.mark(old, msgspec.structs.replace(old.head, trigger=trigger, moved=now))
        except (AlreadyExists, Conflict):
            continue
    raise Conflict(f"{repo}/{branch} is being moved by others all the time: try again")


def check_settable(repository: Repository, repo: str, branch: str, trigger: Trigger) -> Head | None:
    """The branch, if it is there and may have a trigger. NotFound when there is nothing to wait for; InvalidArgument
    for a trigger that makes no sense, or with others goes in a circle; Refused when the branch is a pipeline's, or has
    commits that it would be moved away from."""
    refs = repository.refs
    if (wrong := check_trigger(trigger, branch)) is not None:
        raise InvalidArgument(f"the trigger of {repo}/{branch}: {': '.join(filter(None, wrong))}")
    source = refs.head(repo, trigger.branch)
    way = [branch, trigger.branch]
    following = source
    while (next_ := following.head.trigger) is not None:
        way.append(next_.branch)
        if next_.branch == branch:
            raise InvalidArgument(f"the trigger of {repo}/{branch} goes in a circle: {' waits for '.join(way)}")
        if next_.branch in way[:-1]:
            break
        try:
            following = refs.head(repo, next_.branch)
        except NotFound:
            break
    try:
        head = refs.head(repo, branch)
    except NotFound:
        return None
    if head.head.pipeline:
        raise Refused(errno.EBUSY, f"{repo}/{branch} belongs to pipeline {head.head.pipeline}")
    if head.commit is None or head.head.trigger is not None:
        return head
    if source.commit is None or not repository.commits.leads_to(source.commit, head.commit):
        raise Refused(
            errno.EBUSY,
            f"{repo}/{branch} stands at {head.commit[:SHORT]}, to which {trigger.branch} does not lead: a trigger would"
            " move it away from that; take another branch",
        )
    return head


def take_trigger(repository: Repository, repo: str, branch: str) -> Head:
    """Let a branch stay where it is. NotFound; Conflict."""
    for _ in range(CAS_TRIES):
        old = repository.refs.head(repo, branch)
        if old.head.trigger is None:
            return old
        try:
            return repository.refs.mark(old, msgspec.structs.replace(old.head, trigger=None))
        except Conflict:
            continue
    raise Conflict(f"{repo}/{branch} is being moved by others all the time: try again")


def pull(repository: Repository, repo: str, branch: str, clock: Callable[[], int]) -> Head | None:
    """Move a branch if its trigger says so; None when it does not, or somebody else was faster. NotFound."""
    head = repository.refs.head(repo, branch)
    trigger = head.head.trigger
    if trigger is None:
        return None
    source = repository.refs.head(repo, trigger.branch)
    now = clock()
    commit = goal(repository, head.head, source.commit, now)
    if commit is None:
        return None
    try:
        return repository.move_branch(head, commit, now)
    except Conflict:
        return None  # whoever was faster left a head that is looked at again


def next_look(head: BranchHead, now: int) -> int | None:
    """When a branch has to be looked at though no head has moved; None for never."""
    if head.trigger is None or not head.trigger.cron_spec:
        return None
    return parse_schedule(head.trigger.cron_spec, head.moved).after(now)


def goal(
    repository: Repository, head: BranchHead, source: CommitId | None, now: int, looks: Looks | None = None
) -> CommitId | None:
    """The commit that a branch with a trigger goes to; None to stay. source: where the other branch stands. looks: what
    earlier ones came to."""
    looks = looks or Looks()
    trigger = head.trigger
    if trigger is None or source is None or source == head.commit:
        return None
    commits = repository.commits
    old = None if head.commit is None else commits.get(head.commit)
    if old is not None and commits.leads_to(old.id, source):
        return None  # it is there, and further
    newest = commits.get(source)
    due = _as_of_schedule(repository, head, newest, now, looks) if trigger.cron_spec else newest
    if trigger.all:
        found = due if due is not None and all(_conditions(repository, trigger, old, due, looks)) else None
    elif any(_conditions(repository, trigger, old, newest, looks)):
        found = newest
    else:
        found = due if trigger.cron_spec else None
    return None if found is None else found.id


def _conditions(
    repository: Repository, trigger: Trigger, old: CommitObject | None, new: CommitObject, looks: Looks
) -> list[bool]:
    """Whether those hold, of size, commits and rate_limit_spec, that are given."""
    found = []
    if trigger.size:
        grown = new.header.size - (0 if old is None else old.header.size)
        found.append(grown >= parse_size(trigger.size))
    if trigger.commits:
        found.append(_count(repository, old, new, trigger.commits, looks) >= trigger.commits)
    if trigger.rate_limit_spec:
        following = None
        if old is not None:
            following = parse_schedule(trigger.rate_limit_spec, old.header.time).after(old.header.time)
        found.append(old is None or (following is not None and following <= new.header.time))
    return found


def _count(repository: Repository, old: CommitObject | None, new: CommitObject, enough: int, looks: Looks) -> int:
    """How many commits came since `old`; of more than enough, some number that is."""
    key = (new.header.repo, new.header.branch, None if old is None else old.id)
    place, there = looks.counts.get(key, (None, 0))
    count = 0
    for commit in repository.commits.log(new.id):
        if commit.id == place:
            count += there
            break
        if count == enough or (old is not None and commit.id == old.id):
            break
        count += 1
    looks.counts[key] = (new.id, count)
    looks.tidy()
    return count


def _as_of_schedule(
    repository: Repository, head: BranchHead, newest: CommitObject, now: int, looks: Looks
) -> CommitObject | None:
    """Where the other branch was at the last time of cron_spec, if that was since the branch was moved."""
    trigger = head.trigger
    assert trigger is not None
    moment = parse_schedule(trigger.cron_spec, head.moved).until(now)
    if moment is None or moment <= head.moved:
        return None
    key = (newest.header.repo, newest.header.branch, head.commit, moment)
    place, there = looks.states.get(key, (None, None))
    found = None
    for commit in repository.commits.log(newest.id):
        if commit.id == place:
            found = there
            break
        if commit.id == head.commit:
            break
        if commit.header.time <= moment:
            found = None if _is_behind(repository, head, commit) else commit
            break
    looks.states[key] = (newest.id, found)
    looks.tidy()
    return found


def _is_behind(repository: Repository, head: BranchHead, commit: CommitObject) -> bool:
    return head.commit is not None and repository.commits.leads_to(head.commit, commit.id)
