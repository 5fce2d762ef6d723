"""Handlers that may not block made into ones that are answered all the same: what is missing is loaded, and the handler
called again from its beginning; errors become errnos.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

from vfsd.model.errors import NotCached, VfsdError
from vfsd.serve.fuse.channel import After, Answer, Body, Failure, Handler, Request
from vfsd.serve.loads import Loads

log = logging.getLogger(__name__)


class Restarting:
    """Wraps the handlers of one mount."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._reported: set[str] = set()

    def handler(self, handler: Callable[[Request], Answer]) -> Handler:
        """One that raises Failure only."""

        def answer(request: Request) -> Answer:
            try:
                found = handler(request)
            except NotCached as miss:
                request.keep()
                return self._after(miss, handler, request)
            except Exception as error:
                raise self._failure(error, handler) from None
            return self._checked(found, handler) if isinstance(found, CoroutineType) else found

        return answer

    async def _after(self, miss: NotCached, handler: Callable[[Request], Answer], request: Request) -> Body:
        """Load what is missing, and begin again."""
        request.waited = True
        try:
            await self._loads.load(miss)
            found = await self._loads.run(lambda: handler(request))
        except Exception as error:
            raise self._failure(error, handler) from None
        if isinstance(found, CoroutineType):
            return await self._checked(found, handler)
        assert found is not None
        if isinstance(found, After):
            found.rest()
            return found.body
        return found  # type: ignore[return-value]  # mypy knows no CoroutineType that narrows

    async def _checked(self, coming: Coroutine[Any, Any, Body], handler: Callable[[Request], Answer]) -> Body:
        try:
            return await coming
        except Exception as error:
            raise self._failure(error, handler) from None

    def _failure(self, error: Exception, handler: Callable[[Request], Answer]) -> Failure:
        """The errno of an error; EIO, with where it was in the log, of one that nobody foresaw."""
        if isinstance(error, Failure):
            return error
        if isinstance(error, OSError):
            return Failure(error.errno or errno.EIO)
        if not isinstance(error, VfsdError):
            log.error("%s failed", handler.__name__, exc_info=error)
            return Failure(errno.EIO)
        if error.errno == errno.EIO:
            # The caller sees only "Input/output error": the log says what and where, once.
            text = str(error)
            if text not in self._reported:
                self._reported.add(text)
                log.error("%s", text)
        return Failure(error.errno)
