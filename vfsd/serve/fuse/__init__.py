"""The view as a kernel filesystem: pyfuse3's one owner."""
