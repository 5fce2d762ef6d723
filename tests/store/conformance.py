"""What `vfsd.store.api` promises, as tests. A subclass gives the fixture `store`: an empty store of its kind."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from vfsd.model.errors import Conflict, InvalidArgument, NotFound
from vfsd.store import ETag, ObjectStore

NOWHERE = ETag('"0123456789abcdef0123456789abcdef"')

# In byte order, which is not the order of a walk through folders: `-` and `.` sort before `/`, `0` behind it.
SORTED_KEYS = [
    "format",
    "refs/A/main",
    "refs/a%20b/main",
    "refs/a-b/main",
    "refs/a-b/next",
    "refs/a.b/main",
    "refs/a/main",
    "refs/a/main-2",
    "refs/a/mainly",
    "refs/a0/main",
    "refs/b/main",
    "tags/a/v1",
]
BAD_KEYS = [
    *("", "/", "/a", "a/", "a//b", "a/./b", "../a", "a/..", "naïve", "a b", "a\nb", "tmp/a", "locks/0"),
    *("a" * 256, "/".join(["component"] * 103)),
]


class ObjectStoreConformance:
    """Every object store passes these."""

    keeps_empty_folders = False

    @pytest.mark.parametrize("size", [0, 1, 70_000, 1 << 20])
    @pytest.mark.parametrize("key", ["format", "packs/ab/abcd"])
    def test_an_object_comes_back_as_it_was_written(self, store: ObjectStore, key: str, size: int) -> None:
        data = os.urandom(size)
        etag = store.put(key, data)
        assert store.get(key) == (data, etag)

    def test_any_kind_of_buffer_can_be_written(self, store: ObjectStore) -> None:
        store.put("a", bytearray(b"array"))
        store.put_if_absent("b", memoryview(b"-view-")[1:-1])
        store.put_if_match("a", memoryview(b"other"), store.stat("a").etag)
        assert (store.get("a")[0], store.get("b")[0]) == (b"other", b"view")

    def test_put_replaces_what_was_there(self, store: ObjectStore) -> None:
        first = store.put("refs/r/main", b"long first")
        second = store.put("refs/r/main", b"second")
        assert store.get("refs/r/main") == (b"second", second)
        assert first != second

    @pytest.mark.parametrize("key", ["refs/r/gone", "packs/ab/abcd"])
    def test_reading_what_is_not_there_names_the_key(self, store: ObjectStore, key: str) -> None:
        for read in (store.get, store.stat, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(NotFound, match=key):
                read(key)

    def test_a_folder_is_not_an_object(self, store: ObjectStore) -> None:
        store.put("refs/r/main", b"")
        store.put("packs/ab/abcd", b"")
        for folder in ("refs/r", "packs/ab"):
            for read in (store.get, store.stat, lambda key: store.get_range(key, 0, 1)):
                with pytest.raises(NotFound):
                    read(folder)

    @pytest.mark.parametrize("key", ["packs/ab/abcd", "refs/r/main"])
    def test_a_range_ends_with_the_object(self, store: ObjectStore, key: str) -> None:
        store.put(key, b"0123456789")
        asked = [(0, 10), (3, 4), (8, 100), (9, 1), (10, 1), (500, 5), (4, 0)]
        assert [store.get_range(key, *span) for span in asked] == [b"0123456789", b"3456", b"89", b"9", b"", b"", b""]

    @pytest.mark.parametrize("key", ["packs/ab/abcd", "refs/r/main"])
    def test_a_large_range_ends_with_the_object(self, store: ObjectStore, key: str) -> None:
        content = random.Random(1).randbytes(3_000_000)
        store.put(key, content)
        for start, length in ((0, 3_000_000), (1_000_001, 1_500_000), (1_500_000, 2_000_000), (3_000_000, 1 << 20)):
            assert store.get_large(key, start, length) == content[start : start + length]
        with pytest.raises(NotFound):
            store.get_large("packs/cd/cdef", 0, 1 << 20)

    def test_large_ranges_that_are_held_stay_as_they_are(self, store: ObjectStore) -> None:
        content = random.Random(2).randbytes(8 << 20)
        store.put("packs/ab/abcd", content)
        held = [store.get_large("packs/ab/abcd", at << 20, 1 << 20) for at in range(8)]
        parts = [piece[1000:2000] for piece in held]
        del held
        assert [store.get_large("packs/ab/abcd", at << 20, 1 << 20) for at in range(8)]
        assert parts == [content[(at << 20) + 1000 : (at << 20) + 2000] for at in range(8)]

    @pytest.mark.parametrize("key", ["packs/ab/abcd", "refs/r/main"])
    def test_all_calls_agree_on_an_objects_etag_and_size(self, store: ObjectStore, key: str) -> None:
        begun = time.time()
        etag = store.put_if_absent(key, b"content")
        stat = store.stat(key)
        assert (stat.key, stat.size, stat.etag) == (key, 7, etag)
        assert list(store.list(key)) == [stat]
        assert store.get(key)[1] == etag
        assert abs(stat.modified - begun) < 60

    @pytest.mark.parametrize("key", ["packs/ab/abcd", "refs/r/main"])
    def test_a_new_object_is_made_only_once(self, store: ObjectStore, key: str) -> None:
        etag = store.put_if_absent(key, b"mine")
        with pytest.raises(Conflict, match=key):
            store.put_if_absent(key, b"hers")
        assert store.get(key) == (b"mine", etag)

    @pytest.mark.parametrize("key", ["packs/ab/abcd", "refs/r/main"])
    def test_making_an_object_again_with_the_same_bytes_succeeds(self, store: ObjectStore, key: str) -> None:
        assert store.put_if_absent(key, b"mine") == store.put_if_absent(key, b"mine")

    def test_exactly_the_expected_version_is_replaced(self, store: ObjectStore) -> None:
        first = store.put("refs/r/main", b"1")
        second = store.put_if_match("refs/r/main", b"2", first)
        assert store.get("refs/r/main") == (b"2", second)
        with pytest.raises(Conflict, match="refs/r/main"):
            store.put_if_match("refs/r/main", b"3", first)
        assert store.get("refs/r/main") == (b"2", second)

    def test_replacing_what_was_deleted_is_a_conflict(self, store: ObjectStore) -> None:
        etag = store.put("refs/r/main", b"1")
        store.delete("refs/r/main")
        with pytest.raises(Conflict, match="refs/r/main"):
            store.put_if_match("refs/r/main", b"2", etag)
        with pytest.raises(Conflict):
            store.put_if_match("refs/never/there", b"2", NOWHERE)
        assert list(store.list("refs/")) == []

    def test_a_replacement_that_is_sent_twice_succeeds_twice(self, store: ObjectStore) -> None:
        first = store.put("refs/r/main", b"1")
        second = store.put_if_match("refs/r/main", b"2", first)
        assert store.put_if_match("refs/r/main", b"2", first) == second

    def test_deleting_twice_is_as_deleting_once(self, store: ObjectStore) -> None:
        for key in ("refs/r/main", "packs/ab/abcd"):
            store.put(key, b"1")
            assert store.get_range(key, 0, 1) == b"1"
            store.delete(key)
            store.delete(key)
            for read in (store.get, lambda key: store.get_range(key, 0, 1)):
                with pytest.raises(NotFound):
                    read(key)

    def test_a_deleted_object_can_be_made_anew(self, store: ObjectStore) -> None:
        store.put_if_absent("tags/r/v1", b"1")
        store.delete("tags/r/v1")
        etag = store.put_if_absent("tags/r/v1", b"2")
        assert store.get("tags/r/v1") == (b"2", etag)

    def test_an_empty_store_lists_nothing(self, store: ObjectStore) -> None:
        assert [*store.list(), *store.list("refs/r/"), *store.list_folders(""), *store.list_folders("refs/")] == []

    def test_listings_are_in_byte_order_of_keys(self, store: ObjectStore) -> None:
        _fill(store, reversed(SORTED_KEYS))
        for prefix in ("", "f", "refs/", "refs/a", "refs/a/", "refs/a/main", "refs/a-", "refs/c", "x/"):
            assert _listed(store, prefix) == [key for key in SORTED_KEYS if key.startswith(prefix)], prefix

    def test_a_listing_can_go_on_behind_any_key(self, store: ObjectStore) -> None:
        _fill(store, SORTED_KEYS)
        for after in [*SORTED_KEYS, "a", "refs/a-a/gone", "refs/a/gone", "refs/zz/gone", "zz"]:
            for prefix in ("", "refs/", "refs/a"):
                expected = [key for key in SORTED_KEYS if key.startswith(prefix) and key > after]
                assert _listed(store, prefix, after) == expected, (prefix, after)

    def test_folders_are_named_once_and_in_order(self, store: ObjectStore) -> None:
        _fill(store, SORTED_KEYS)
        assert list(store.list_folders("")) == ["refs", "tags"]
        assert list(store.list_folders("refs/")) == ["A", "a%20b", "a-b", "a.b", "a", "a0", "b"]
        assert list(store.list_folders("refs/a/")) == []

    def test_a_folder_goes_with_its_last_object(self, store: ObjectStore) -> None:
        _fill(store, ["refs/a/main", "refs/b/main"])
        store.delete("refs/a/main")
        assert _listed(store, "refs/") == ["refs/b/main"]
        if not self.keeps_empty_folders:
            assert list(store.list_folders("refs/")) == ["b"]

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_keys_that_not_every_store_can_hold_are_refused(self, store: ObjectStore, key: str) -> None:
        calls = (
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.stat(key),
            lambda: store.put(key, b""),
            lambda: store.put_if_absent(key, b""),
            lambda: store.put_if_match(key, b"", NOWHERE),
            lambda: store.delete(key),
        )
        for call in calls:
            with pytest.raises(InvalidArgument):
                call()

    def test_of_many_threads_one_makes_the_object(self, store: ObjectStore) -> None:
        start = threading.Barrier(4)

        def create(number: int) -> bool:
            start.wait()
            try:
                store.put_if_absent("globals/g", b"%d" % number)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(create, range(4)))
        assert won.count(True) == 1
        assert store.get("globals/g")[0] == b"%d" % won.index(True)

    def test_a_counter_that_threads_raise_by_compare_and_swap_counts_all(self, store: ObjectStore) -> None:
        store.put("refs/r/counter", b"0")

        def count(_: int) -> None:
            for _ in range(3):
                raise_counter(store, "refs/r/counter")

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(count, range(3)))
        assert store.get("refs/r/counter")[0].split()[0] == b"9"

    def test_a_reader_never_sees_half_an_object(self, store: ObjectStore) -> None:
        versions = [bytes([letter]) * 50_000 for letter in b"ab"]
        store.put("refs/r/main", versions[0])
        done = threading.Event()

        def write() -> None:
            try:
                for turn in range(30):
                    store.put("refs/r/main", versions[turn % 2])
            finally:
                done.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not done.is_set():
                assert store.get("refs/r/main")[0] in versions
            writing.result()


def raise_counter(store: ObjectStore, key: str) -> None:
    """Add one to the number that begins `key`, against any competitors. A nonce stands behind it, as in every object
    that is replaced: two writers of the same bytes could not tell who won."""
    while True:
        data, etag = store.get(key)
        try:
            store.put_if_match(key, b"%d %s" % (int(data.split()[0]) + 1, os.urandom(8).hex().encode()), etag)
        except Conflict:
            continue
        return


def _fill(store: ObjectStore, keys: Iterable[str]) -> None:
    for key in keys:
        store.put(key, key.encode())


def _listed(store: ObjectStore, prefix: str, after: str = "") -> list[str]:
    return [item.key for item in store.list(prefix, after=after)]
