"""Provenance asked both ways: what something was made from, and what was made from it. `graph` is the way in."""
