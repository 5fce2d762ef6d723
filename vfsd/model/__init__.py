"""Pure values: ids, paths, revs, trees, commits, specs, datums, job states, errors. No I/O, no clock."""
