"""Every error has its errno, S3 code and exit code, and the tree in the docstring is the tree."""

from __future__ import annotations

import errno
import re

from vfsd.model import errors


def subclasses(kind: type) -> list[type[errors.VfsdError]]:
    found = [kind]
    for below in kind.__subclasses__():
        found += subclasses(below)
    return [each for each in found if each.__module__ == errors.__name__]


def test_every_error_says_what_each_protocol_makes_of_it() -> None:
    for kind in subclasses(errors.VfsdError):
        assert kind.errno in errno.errorcode
        assert kind.exit_code in {1, 2}
        assert kind.s3_code


def test_the_docstring_draws_the_whole_tree() -> None:
    drawn = set(re.findall(r"^[ │├└─]*([A-Z]\w+) +(?:E[A-Z]+|\(own\))", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__ for kind in subclasses(errors.VfsdError)}
