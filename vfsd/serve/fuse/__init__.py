"""The view as a kernel filesystem: the kernel's FUSE protocol, spoken here."""
