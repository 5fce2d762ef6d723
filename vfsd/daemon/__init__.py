"""Composition root: configuration, the command line, and what wires the layers together."""
