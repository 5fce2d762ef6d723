"""Which user of this machine the commands of datums run as: never root by accident.

A daemon that is not root can only run them as itself. One that is root runs them as one of the users that the setting
`pipeline_users` lists, the first unless a spec names another; a root that is not listed there is nobody's to name.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

import msgspec

from vfsd.model.errors import InvalidArgument


class Account(msgspec.Struct, frozen=True):
    """A user as the kernel knows it. home: of its own, also where that is not there. groups: all that it is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class Accounts:
    """Who may run datums here. allowed: names of users, the one for those who name none first."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)
        self._root = os.geteuid() == 0

    def of(self, wanted: str) -> Account:
        """The account for a spec's `transform.user`, which may be empty. InvalidArgument says why there is none."""
        if not self._root:
            me = _me()
            if wanted not in {"", me.name}:
                raise InvalidArgument(
                    f"transform.user: this vfsd runs as {me.name} and cannot run anything as {wanted}: mount as root,"
                    f" or leave the user out"
                )
            return me
        name = wanted or self._allowed[0]
        if name not in self._allowed:
            raise InvalidArgument(
                f"transform.user: {name} may not run datums here: the setting pipeline_users lists"
                f" {', '.join(self._allowed)}"
            )
        return _account(name)


def _account(name: str) -> Account:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise InvalidArgument(f"this machine has no user {name} to run datums as: see pipeline_users") from None
    return Account(name, found.pw_uid, found.pw_gid, tuple(os.getgrouplist(name, found.pw_gid)), found.pw_dir)


def _me() -> Account:
    uid, gid = os.geteuid(), os.getegid()
    try:
        found = pwd.getpwuid(uid)
        return Account(found.pw_name, uid, gid, tuple(os.getgroups()), found.pw_dir)
    except KeyError:
        return Account(str(uid), uid, gid, tuple(os.getgroups()), "/")
