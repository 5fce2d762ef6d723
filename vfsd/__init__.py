"""vfsd: versioned data as directories. See docs/architecture.md for the layers."""

__version__ = "0.1.0"
