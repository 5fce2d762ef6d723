from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pipeline.workshop import Workshop, spec
from vfsd.model.errors import AlreadyExists, InvalidArgument, NotFound, ReadOnly, Refused, VfsdError
from vfsd.model.ids import JobId
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.registry import PipelineHead, PipelineState, pipeline_of, read_head
from vfsd.repo.refs import check_writable
from vfsd.repo.repository import now_ns


def create(shop: Workshop, wanted: PipelineSpec) -> PipelineHead:
    return shop.registry.create(wanted, now_ns())


def test_a_new_pipeline_has_an_output_branch_that_users_cannot_write(shop: Workshop) -> None:
    head = create(shop, spec(output_branch="results"))
    assert (head.version, head.state) == (1, PipelineState.RUNNING)
    branch = shop.repository.refs.head("count", "results")
    assert branch.commit is None
    with pytest.raises(ReadOnly, match="only the pipeline writes to it"):
        check_writable(branch)


def test_a_pipeline_is_found_as_it_was_made(shop: Workshop) -> None:
    made = create(shop, spec(datum_tries=5, transform={"cmd": ["wc"], "env": {"b": "ü", "a": "\n"}}))
    assert shop.registry.get("count") == made
    assert list(shop.registry.all()) == [made]
    data, _ = shop.store.get("pipelines/count/head")
    assert read_head(data, "pipelines/count/head") == made
    assert pipeline_of("pipelines/count/head") == "count"
    assert pipeline_of("pipelines/count/specs/1") is None
    assert pipeline_of("refs/count/head") is None


def test_any_name_that_a_pipeline_may_have_stands_in_a_key(shop: Workshop) -> None:
    name = "zählen-数える"
    create(shop, spec(name))
    assert [head.name for head in shop.registry.all()] == [name]
    keys = [stat.key for stat in shop.store.list("pipelines/")]
    assert [pipeline_of(key) for key in keys] == [name, None]


def test_two_pipelines_of_one_name_cannot_be(shop: Workshop) -> None:
    create(shop, spec())
    with pytest.raises(AlreadyExists, match="pipeline count exists already: `vfsd pipeline update` changes it"):
        create(shop, spec(cmd="false"))


def test_of_many_who_create_a_pipeline_one_does(shop: Workshop) -> None:
    def attempt(number: int) -> PipelineHead | VfsdError:
        try:
            return create(shop, spec(cmd=f"echo {number}"))
        except VfsdError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, range(8)))
    (made,) = [one for one in found if isinstance(one, PipelineHead)]
    assert shop.registry.get("count") == made
    assert shop.registry.spec("count", 1) == made.spec


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (spec(repo="nowhere"), "pipeline count: its input nowhere/main: there is no repo nowhere"),
        (
            spec(input={"pfs": {"repo": "texts", "branch": "dev", "glob": "/"}}),
            "pipeline count: its input texts/dev: there is no branch dev in repo texts",
        ),
    ],
)
def test_a_missing_input_is_named(shop: Workshop, wanted: PipelineSpec, message: str) -> None:
    with pytest.raises(NotFound) as caught:
        create(shop, wanted)
    assert str(caught.value).startswith(message)
    assert list(shop.repository.refs.repos()) == ["texts"]


def test_a_repo_with_data_does_not_become_an_output_repo(shop: Workshop) -> None:
    shop.repo("count")
    shop.put({"precious": "1"}, "count")
    with pytest.raises(AlreadyExists, match="its output repo count exists already, with data on branch main"):
        create(shop, spec())
    assert shop.repository.refs.head("count", "main").head.pipeline == ""


def test_an_empty_repo_of_the_name_is_taken(shop: Workshop) -> None:
    shop.repo("count")
    create(shop, spec())
    assert shop.repository.refs.head("count", "main").head.pipeline == "count"


def test_pipelines_in_a_circle_are_refused(shop: Workshop) -> None:
    create(shop, spec("one"))
    create(shop, spec("two", "one"))
    create(shop, spec("three", "two"))
    with pytest.raises(InvalidArgument, match="would read what it writes: one reads three reads two reads one"):
        shop.registry.update(spec("one", "three"), now_ns())
    assert shop.registry.get("one").version == 1


def test_an_update_counts_versions_and_keeps_the_old_ones(shop: Workshop) -> None:
    create(shop, spec())
    second = shop.registry.update(spec(cmd="false"), now_ns())
    assert second.version == 2
    assert shop.registry.spec("count", 1) == spec()
    assert shop.registry.spec("count", 2) == spec(cmd="false")
    with pytest.raises(NotFound, match="no version 3"):
        shop.registry.spec("count", 3)


def test_an_update_to_the_same_spec_changes_nothing(shop: Workshop) -> None:
    made = create(shop, spec())
    assert shop.registry.update(spec(), now_ns()) == made


def test_the_output_branch_stays(shop: Workshop) -> None:
    create(shop, spec())
    with pytest.raises(InvalidArgument, match="its output branch is main and stays so"):
        shop.registry.update(spec(output_branch="other"), now_ns())


def test_requests_stand_in_the_head(shop: Workshop) -> None:
    first = create(shop, spec())
    asked = shop.registry.run("count")
    assert asked.run not in {"", first.run}
    assert shop.registry.run("count").run != asked.run
    assert shop.registry.stop_job("count", JobId("1" * 32)).stop == "1" * 32
    assert shop.registry.set_state("count", PipelineState.STOPPED).state is PipelineState.STOPPED
    with pytest.raises(Refused, match="pipeline count is stopped: `vfsd pipeline start count` starts it"):
        shop.registry.run("count")
    assert shop.registry.set_state("count", PipelineState.RUNNING).version == 1


def test_changes_made_at_once_are_all_made(shop: Workshop) -> None:
    create(shop, spec())
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: shop.registry.run("count").run, range(4)))
    assert len(set(made)) == 4
    assert shop.registry.get("count").run in made


def test_a_deleted_pipeline_leaves_its_data_as_ordinary_data(shop: Workshop) -> None:
    create(shop, spec())
    shop.registry.delete("count")
    assert list(shop.registry.all()) == []
    check_writable(shop.repository.refs.head("count", "main"))
    shop.put({"mine": "now"}, "count")
    with pytest.raises(NotFound, match="there is no pipeline count"):
        shop.registry.delete("count")


def test_a_pipeline_that_another_reads_is_not_deleted(shop: Workshop) -> None:
    create(shop, spec())
    create(shop, spec("total", "count"))
    with pytest.raises(Refused, match="pipeline count is needed: pipeline total reads what it writes"):
        shop.registry.delete("count")
    shop.registry.delete("total")
    shop.registry.delete("count")


def test_a_pipeline_made_again_counts_its_versions_on(shop: Workshop) -> None:
    create(shop, spec())
    shop.registry.delete("count")
    assert create(shop, spec(cmd="false")).version == 2
    assert shop.registry.spec("count", 1) == spec()


def test_whatever_is_done_to_a_pipeline_that_is_not_there_is_told(shop: Workshop) -> None:
    for attempt in (
        lambda: shop.registry.get("count"),
        lambda: shop.registry.update(spec(), now_ns()),
        lambda: shop.registry.run("count"),
        lambda: shop.registry.set_state("count", PipelineState.STOPPED),
        lambda: shop.registry.spec("count", 1),
    ):
        with pytest.raises(NotFound, match="pipeline count"):
            attempt()
