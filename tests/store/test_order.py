"""Listings of servers that go folder by folder come out in byte order, whole, and can go on anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.store.test_local import without_clashes
from vfsd.store.order import in_byte_order, safe_start

_component = st.text("ab0-.%", min_size=1, max_size=3)
_key = st.lists(_component, min_size=1, max_size=3).map("/".join)
_keys = st.sets(_key, max_size=20).map(without_clashes)


def _by_component(key: str) -> list[str]:
    return key.split("/")


def _first(key: str) -> str:
    return key.partition("/")[0]


@given(_keys)
def test_both_orders_become_byte_order(keys: list[str]) -> None:
    for order in (sorted(keys), sorted(keys, key=_by_component)):
        assert list(in_byte_order(order, str, _first)) == sorted(keys)


@given(_keys, _key)
def test_a_safe_start_loses_no_key_in_either_order(keys: list[str], after: str) -> None:
    wanted = {key for key in keys if key > after and not key.startswith(after + "/")}
    start = safe_start(after)
    assert wanted <= {key for key in keys if key > start}
    assert wanted <= {key for key in keys if _by_component(key) > _by_component(start)}


def test_ids_are_given_to_the_server_as_they_are() -> None:
    assert safe_start("commits/ab12") == "commits/ab12"


def test_files_of_one_folder_are_not_held_back() -> None:
    taken = []

    def found() -> object:
        for name in ("a", "b", "c"):
            taken.append(name)
            yield name

    listing = in_byte_order(found(), str, str)  # type: ignore[arg-type]
    assert next(listing) == "a"
    assert taken == ["a", "b"]
