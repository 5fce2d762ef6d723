"""The mutable head of a branch on this node: staging, journal, and the committer that makes commits of it."""
