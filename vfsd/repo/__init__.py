"""Versions: chunks, packs, trees, commits, refs, diff and merge over an object store. `repository` is the way in."""
