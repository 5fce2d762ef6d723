"""The SQLite files of this node: schema, migrations and every SQL statement there is.

`Index` is a cache of the store and may be deleted at any time; `JournalFile` holds what was acknowledged and is not in
the store yet, and may not.
"""
