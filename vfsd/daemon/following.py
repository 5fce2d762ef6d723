"""Follows the logs of a job's datums: of those that run on this node the files that grow, of others what is stored."""

from __future__ import annotations

import sys
from typing import BinaryIO

from vfsd.daemon import control
from vfsd.daemon.output import short
from vfsd.daemon.session import Session
from vfsd.model.datum import DatumState
from vfsd.pipeline.ledger import LedgerReader, job_datums
from vfsd.pipeline.records import JobRecord, JobRecords

FOLLOW_S = 0.1  # seconds between two looks

_Try = tuple[str, int, str]  # datum, number of the try, path of its log


class Following:
    """The logs of one job in flight, of the datums whose ids begin with `prefix`, written to standard output."""

    def __init__(self, opened: Session, record: JobRecord, prefix: str) -> None:
        self._repository = opened.repository
        self._records = JobRecords(opened.repository)
        self._reader = LedgerReader(opened.repository)
        self._control = control.socket_path(opened.settings.node_dir(opened.repository.format.id))
        self._record = record
        self._prefix = prefix
        self._open: dict[_Try, BinaryIO] = {}
        self._written: set[str] = set()  # datums of which something was written as it came
        self._last = ""  # the datum whose output was written last

    def look(self) -> bool:
        """Write what is new; whether there may be more."""
        self._record = self._records.again(self._record)
        running = control.ask(self._control, "logs", job=self._record.id) or {}
        tries = {(datum, attempt, path) for datum, (attempt, path) in running.items() if datum.startswith(self._prefix)}
        for one in tries - self._open.keys():
            if one[1] > 1 and one[0] not in self._written:
                self._write_before(one)
            try:
                self._open[one] = open(one[2], "rb", buffering=0)  # noqa: SIM115  closed when the try has ended
            except FileNotFoundError:
                continue  # it has ended just now
        for one, file in list(self._open.items()):
            self._write(one[0], file.read())
            if one not in tries:
                self._write(one[0], file.read())
                file.close()
                del self._open[one]
        self._write_ended({datum for datum, _, _ in self._open})
        sys.stdout.buffer.flush()
        return not self._record.finished

    def _write_ended(self, running: set[str]) -> None:
        for one in job_datums(self._repository, self._record):
            if one.id.startswith(self._prefix) and one.id not in self._written | running:
                self._written.add(one.id)
                if one.state is not DatumState.SKIPPED:
                    for piece in self._reader.log(one.entry):
                        self._write(one.id, piece)

    def _write_before(self, one: _Try) -> None:
        """Of a log that goes on for ever: what is in the file before this one."""
        try:
            with open(f"{one[2]}.old", "rb") as file:
                self._write(one[0], file.read())
        except FileNotFoundError:
            pass  # it is that of another try

    def _write(self, datum: str, data: bytes) -> None:
        if data:
            if datum != self._last and not (self._prefix and not self._last):
                sys.stdout.buffer.write(f"==> datum {short(datum)}\n".encode())
            self._last = datum
            self._written.add(datum)
            sys.stdout.buffer.write(data)
