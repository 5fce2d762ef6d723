"""The commands, a file a group. Each is loaded when it is used; vfsd.daemon.cli has the list."""
