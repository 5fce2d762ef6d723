"""The slow suite: `scripts/slow`."""

from tests.mount.conftest import mounted, node

__all__ = ["mounted", "node"]
