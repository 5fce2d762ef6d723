"""The schema, column by column. `migrations` brings an older file up to it, step by step.

Conventions: ids are raw bytes (BLOB) unless said otherwise; times are nanoseconds since 1970; sizes are bytes. A step
that was released is never edited: a change is a new step and a new version.
"""

from __future__ import annotations

INDEX_VERSION = 6  # PRAGMA user_version of a file that has seen every step
JOURNAL_VERSION = 1

INDEX_1 = (
    """
    CREATE TABLE nodes (        -- tree nodes read or written here; any row may go, oldest rowid first
        id      BLOB NOT NULL UNIQUE,   -- of the node and its place: `row_id` of repo/nodes.py, 32 bytes
        stored  BLOB NOT NULL           -- the framed blob as it lies in the store; verified before it came here
    )""",
    """
    CREATE TABLE places (       -- where blobs lie that this node stored or met: found again instead of stored again
        id        BLOB PRIMARY KEY,     -- ChunkId or NodeId, 32 bytes
        container BLOB NOT NULL,        -- PackId (16 bytes) or commit id (32 bytes)
        offset    INTEGER NOT NULL,     -- of the blob's frame in the container
        length    INTEGER NOT NULL      -- of the blob's frame
    ) WITHOUT ROWID""",
    """
    CREATE TABLE commits (      -- commits met
        id       TEXT PRIMARY KEY,      -- 64 hex digits
        head     BLOB NOT NULL,         -- the commit object without its blobs; see repo/commit_object.py
        complete INTEGER NOT NULL       -- 1: all its ancestors are here and complete too; 0: not known
    ) WITHOUT ROWID""",
    """
    CREATE TABLE provenance (   -- one row an edge: downstream was made from upstream
        upstream   TEXT NOT NULL,       -- commit id
        downstream TEXT NOT NULL,       -- commit id
        PRIMARY KEY (upstream, downstream)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE refs (         -- small mutable objects as last read, so that a poll re-reads only what changed
        key   TEXT PRIMARY KEY,         -- the object's key in the store
        etag  TEXT NOT NULL,            -- the store's, of the version that was read
        data  BLOB NOT NULL             -- its bytes
    ) WITHOUT ROWID""",
    """
    CREATE TABLE jobs (         -- jobs that this node runs or ran; the store has the finished ones too
        id       TEXT PRIMARY KEY,      -- 32 hex digits
        pipeline TEXT NOT NULL,         -- its name
        created  INTEGER NOT NULL,      -- when the job was made
        finished INTEGER NOT NULL,      -- 0 while it is in flight
        record   BLOB NOT NULL          -- canonical JSON of pipeline.records.JobRecord
    ) WITHOUT ROWID""",
    "CREATE INDEX jobs_by_pipeline ON jobs (pipeline, created)",
    """
    CREATE TABLE job_datums (   -- datums of jobs in flight that ended, so that a restart does not run them again
        job    TEXT NOT NULL,           -- jobs.id
        datum  TEXT NOT NULL,           -- 64 hex digits
        result BLOB NOT NULL,           -- msgpack; see pipeline/ledger.py
        PRIMARY KEY (job, datum)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE segments (     -- files of the chunk cache; while a process fills one, it holds flock(2) on it
        id      INTEGER PRIMARY KEY,    -- 63 random bits, never used twice; the file's name is its 16 hex digits
        size    INTEGER NOT NULL,       -- bytes in it, as of the last time that its writer told
        used    INTEGER NOT NULL        -- when a block was last written or read from disk; the lowest goes first
    )""",
    """
    CREATE TABLE blocks (       -- chunks in the cache; each one's segment has a row
        id      BLOB PRIMARY KEY,       -- ChunkId
        segment INTEGER NOT NULL,       -- segments.id
        offset  INTEGER NOT NULL,       -- of the plain bytes in the segment
        length  INTEGER NOT NULL,       -- of the plain bytes
        check64 INTEGER NOT NULL        -- xxh3-64 of the plain bytes, as a signed 64-bit number
    ) WITHOUT ROWID""",
    "CREATE INDEX blocks_by_segment ON blocks (segment)",
    "PRAGMA user_version = 1",
)

INDEX_2 = (
    """
    CREATE TABLE verdicts (     -- lists of condemned blobs that were taken in; see repo/condemned.py
        number   INTEGER PRIMARY KEY,   -- of the list, counted over the life of the store
        parts    TEXT NOT NULL,         -- keys of the objects that were read, a space between two
        pardoned INTEGER NOT NULL       -- how many of its blobs are in `pardons`
    )""",
    """
    CREATE TABLE condemned (    -- blobs that nothing may be made to point to any more
        container BLOB NOT NULL,        -- PackId (16 bytes) or commit id (32 bytes)
        offset    INTEGER NOT NULL,     -- of the blob; 0: the whole container
        number    INTEGER NOT NULL,     -- verdicts.number
        PRIMARY KEY (container, offset, number)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE pardons (      -- blobs of such lists that were needed all the same
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,     -- of the blob; 0: a commit object's header
        number    INTEGER NOT NULL,     -- verdicts.number
        PRIMARY KEY (container, offset, number)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE drops (        -- commits whose contents were dropped
        id     TEXT PRIMARY KEY,        -- commit id, 64 hex digits
        time   INTEGER NOT NULL,        -- when
        author TEXT NOT NULL,           -- who did it
        reason TEXT NOT NULL,           -- why, one line
        head   BLOB NOT NULL            -- as in commits, of an object without blobs and hints, in case that is gone
    ) WITHOUT ROWID""",
    "DELETE FROM nodes",  # which were found by their ids alone
    "PRAGMA user_version = 2",
)

INDEX_3 = (
    "DELETE FROM blocks",
    "DROP TABLE segments",
    """
    CREATE TABLE segments (     -- files of the chunk cache; while a process fills one, it holds flock(2) on it
        id      INTEGER PRIMARY KEY,    -- 63 random bits, never used twice; the file's name is its 16 hex digits
        size    INTEGER NOT NULL,       -- bytes in it; while it is being filled, the bytes that it may come to have
        born    INTEGER NOT NULL,       -- when it was begun
        used    INTEGER NOT NULL,       -- when half of it had been read once more, the last time; at first as `born`
        kept    INTEGER NOT NULL        -- 1: goes only when no other does, by `used`; 0: goes by `born`
    )""",
    """
    CREATE TABLE cache_reads (  -- of what use the chunk cache on disk was; the last few days
        day     INTEGER PRIMARY KEY,    -- days since 1970, in UTC
        wanted  INTEGER NOT NULL,       -- bytes of chunks that somebody read and that were not in memory
        store   INTEGER NOT NULL        -- bytes of chunks that came from the store; ahead of their reader too
    )""",
    "PRAGMA user_version = 3",
)

INDEX_4 = (
    "DROP TABLE verdicts",
    """
    CREATE TABLE verdicts (     -- lists of condemned blobs that were taken in; see repo/condemned.py
        number  INTEGER PRIMARY KEY,    -- of the list, counted over the life of the store
        parts   TEXT NOT NULL,          -- keys of the objects that were read, a space between two
        pardons TEXT NOT NULL           -- which of its pardons are in `pardons`: Verdict.pardons
    )""",
    """
    CREATE TABLE gc_state (     -- how far the store's `gc/state` was followed; one row, or none
        version INTEGER NOT NULL,       -- GcState.version: what is here is no older
        number  INTEGER NOT NULL        -- GcState.number: of the last list there was
    )""",
    "DELETE FROM condemned",
    "DELETE FROM pardons",
    "PRAGMA user_version = 4",
)

INDEX_5 = (
    "ALTER TABLE gc_state RENAME TO gc_state_4",
    """
    CREATE TABLE gc_state (     -- how far the store's `gc/state` was followed; one row, or none
        version  INTEGER NOT NULL,      -- GcState.version: what is here is no older
        number   INTEGER NOT NULL,      -- GcState.number: of the last list there was
        nonce    TEXT NOT NULL,         -- GcState.nonce: of that version; empty while it is not known
        put_back INTEGER NOT NULL       -- how often an older copy was found in the store's place
    )""",
    "INSERT INTO gc_state SELECT version, number, '', 0 FROM gc_state_4",
    "DROP TABLE gc_state_4",
    "PRAGMA user_version = 5",
)

INDEX_6 = (
    """
    CREATE TABLE skips (        -- commits behind which some were dropped, along first parents
        id    TEXT PRIMARY KEY,     -- commit id, 64 hex digits
        older TEXT NOT NULL         -- its newest ancestor that was not dropped when that was looked at; empty for none
    ) WITHOUT ROWID""",
    "PRAGMA user_version = 6",
)

JOURNAL_1 = (
    """
    CREATE TABLE branches (     -- branches with a mutable head on this node
        id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- of this node alone, never used twice
        repo    TEXT NOT NULL,
        branch  TEXT NOT NULL,
        base    TEXT NOT NULL,          -- commit id that the journal's records apply to; empty: no commit yet
        done    INTEGER NOT NULL,       -- its records up to this number are in the commit; they may be gone
        held    TEXT NOT NULL DEFAULT '',  -- message of the open transaction with a leading 't'; empty: none
        UNIQUE (repo, branch)
    )""",
    f"PRAGMA user_version = {JOURNAL_VERSION}",
)
