"""Events as the OpenLineage specification has them: what is required, in which form.

Read from https://openlineage.io/spec/2-0-2/OpenLineage.json (BaseEvent, RunEvent, Run, Job, Dataset, BaseFacet) and
from the facets in https://openlineage.io/spec/facets: DatasetVersionDatasetFacet 1-0-1, ErrorMessageRunFacet 1-0-1,
JobTypeJobFacet 2-0-4, ProcessingEngineRunFacet 1-1-1.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from vfsd.lineage.openlineage import COMPLETE, FAIL, START, run_event
from vfsd.model.commit import Provenance
from vfsd.model.ids import CommitId

FACETS = {
    "version": ("DatasetVersionDatasetFacet", {"datasetVersion"}),
    "errorMessage": ("ErrorMessageRunFacet", {"message", "programmingLanguage"}),
    "jobType": ("JobTypeJobFacet", {"processingType", "integration"}),
    "processing_engine": ("ProcessingEngineRunFacet", {"version"}),
}
READ = [Provenance("data", "main", CommitId("a" * 64), kind="observed"), Provenance("data", "main", CommitId("a" * 64))]


def check_event(event: dict[str, Any]) -> None:
    """AssertionError where an event is not as the specification says."""
    assert {"eventTime", "producer", "schemaURL", "run", "job"} <= set(event)
    assert event["eventType"] in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    schema_url = r"https://openlineage\.io/spec/\d+-\d+-\d+/OpenLineage\.json#/\$defs/RunEvent"
    assert re.fullmatch(schema_url, event["schemaURL"])
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    datasets = [*event.get("inputs", []), *event.get("outputs", [])]
    for named in (event["job"], *datasets):
        assert named["namespace"]
        assert named["name"]
    for holder in (event["run"], event["job"], *datasets):
        for name, facet in holder.get("facets", {}).items():
            schema, fields = FACETS[name]
            assert urlsplit(facet["_schemaURL"]).path.endswith(f"/{schema}.json")
            assert facet["_schemaURL"].endswith(f"#/$defs/{schema}")
            assert fields <= set(facet)
            assert facet["_producer"] == event["producer"]
    for url in (event["producer"], event["schemaURL"]):
        assert urlsplit(url).scheme == "https"


@pytest.mark.parametrize("kind, error", [(START, ""), (COMPLETE, ""), (FAIL, "datum a failed: exit code 1")])
def test_an_event_has_what_the_specification_requires(kind: str, error: str) -> None:
    event = run_event(
        kind, "file:///store", "count", "f" * 32, 1_700_000_000_000_000_000, READ, [("count/main", "b" * 64)],
        is_pipeline=True, error=error,
    )  # fmt: skip
    check_event(event)
    assert ("errorMessage" in event["run"]["facets"]) == bool(error)
    (read,), (made,) = event["inputs"], event["outputs"]
    assert (read["name"], read["facets"]["version"]["datasetVersion"]) == ("data/main", "a" * 64)
    assert (made["name"], made["facets"]["version"]["datasetVersion"]) == ("count/main", "b" * 64)
