"""The log of what goes on for ever: its last output is kept, and its files are no larger than they may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsd.pipeline.rolling_log import SIZE, RollingLog, whole


@pytest.mark.parametrize("piece", [1000, SIZE - 1, 3 * SIZE])
def test_the_last_output_is_kept_and_not_much_more(tmp_path: Path, piece: int) -> None:
    path = os.fsencode(tmp_path / "log")
    printed = b"".join(b"%07d\n" % number for number in range(5 * SIZE // 8))
    rolls = []
    with RollingLog(path, (), lambda: rolls.append(1)) as log:
        for at in range(0, len(printed), piece):
            log.write(printed[at : at + piece])
            assert os.path.getsize(path) <= SIZE
    with open(whole(path), "rb") as file:
        kept = file.read()
    assert printed.endswith(kept)
    assert SIZE <= len(kept) <= 2 * SIZE
    assert len(rolls) >= 4
    assert not log.error


def test_secrets_are_masked_and_a_short_log_is_whole(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "log")
    with RollingLog(path, (b"sesame",), lambda: None) as log:
        log.write(b"open ses")
        log.write(b"ame now")
    with open(whole(path), "rb") as file:
        assert file.read() == b"open *** now"
