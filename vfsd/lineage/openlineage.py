"""Lineage as OpenLineage events: JSON objects as of https://openlineage.io/spec/2-0-2/OpenLineage.json.

A branch is a dataset, its version the commit; a job of a pipeline, or what a program was seen to do for one commit, is
a run. Datasets and jobs have the store's URL as their namespace.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from vfsd import __version__
from vfsd.model.commit import Provenance
from vfsd.model.rev import rfc3339
from vfsd.repo.commit_object import CommitObject

Event = dict[str, Any]
SPEC = "https://openlineage.io/spec"
RUN_EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"https://pypi.org/project/vfsd/{__version__}/"
START, COMPLETE, FAIL, ABORT = "START", "COMPLETE", "FAIL", "ABORT"


def run_event(
    kind: str, namespace: str, job: str, run: str, time: int, inputs: Iterable[Provenance],
    outputs: Iterable[tuple[str, str | None]], *, is_pipeline: bool, error: str = "",
) -> Event:
    """One event. kind: START, COMPLETE, FAIL or ABORT. run: 32 hex digits or more. time: ns since 1970. outputs: name
    of the dataset and commit, None for no commit yet. error: one line, for FAIL."""
    run_facets: dict[str, Any] = {
        "processing_engine": _facet("1-1-1/ProcessingEngineRunFacet", version=__version__, name="vfsd"),
    }
    if error:
        run_facets["errorMessage"] = _facet(
            "1-0-1/ErrorMessageRunFacet", message=error, programmingLanguage="unknown"
        )
    job_type = _facet(
        "2-0-4/JobTypeJobFacet", processingType="BATCH", integration="VFSD",
        jobType="PIPELINE" if is_pipeline else "COMMAND",
    )  # fmt: skip
    return {
        "eventType": kind,
        "eventTime": rfc3339(time),
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "run": {"runId": str(uuid.UUID(run[:32])), "facets": run_facets},
        "job": {"namespace": namespace, "name": job, "facets": {"jobType": job_type}},
        "inputs": [_dataset(namespace, *one) for one in _read(inputs)],
        "outputs": [_dataset(namespace, name, commit) for name, commit in outputs],
    }


def commit_events(namespace: str, commit: CommitObject, command: str = "") -> Iterator[Event]:
    """What made a commit, as a run that began and ended: the pipeline's job, or else what `command` did; none for a
    commit that nothing was read for."""
    header = commit.header
    if not header.provenance:
        return
    name = header.pipeline or command or "unknown"
    run = header.job or commit.id
    outputs = [(f"{header.repo}/{header.branch}", commit.id)]
    for kind in (START, COMPLETE):
        yield run_event(
            kind, namespace, name, run, header.time, header.provenance, outputs, is_pipeline=bool(header.pipeline)
        )


def _read(inputs: Iterable[Provenance]) -> list[tuple[str, str]]:
    return sorted({(f"{edge.repo}/{edge.branch}", str(edge.commit)) for edge in inputs})


def _dataset(namespace: str, name: str, commit: str | None) -> dict[str, Any]:
    facets = {}
    if commit is not None:
        facets["version"] = _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=commit)
    return {"namespace": namespace, "name": name, "facets": facets}


def _facet(schema: str, **fields: str) -> dict[str, str]:
    """A facet; `schema` is its version and name under spec/facets."""
    name = schema.partition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{schema}.json#/$defs/{name}", **fields}
