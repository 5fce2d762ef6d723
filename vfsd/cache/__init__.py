"""Local copies of immutable chunks: in memory, and on disk where the store is far. May be deleted at any time."""
