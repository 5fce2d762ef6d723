"""A pipeline's spec: Pachyderm's, less its Kubernetes parts. `vfsd.model.commit.encode` gives its canonical JSON.

Text is read by vfsd.model.spec_reader; inputs and transform have modules of their own.
"""

from __future__ import annotations

import msgspec

from vfsd.model.durations import parse_duration
from vfsd.model.ids import hash_bytes
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.spec_egress import Egress
from vfsd.model.spec_input import CronInput, Input, PfsInput
from vfsd.model.spec_lasting import Service, Spout
from vfsd.model.spec_transform import DatumSetSpec, ParallelismSpec, Resources, Transform

DEFAULT_TRIES = 3
_COEFFICIENT = 1.0  # datums at a time, as a multiple of the cores, when a spec does not say
_CODE = ("cmd", "stdin", "env", "err_cmd", "err_stdin", "accept_return_code", "working_dir", "user", "secrets")


class Pipeline(msgspec.Struct, frozen=True):
    """What a spec makes."""

    name: str


class Metadata(msgspec.Struct, frozen=True):
    """Words that users attach to a pipeline."""

    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}


class PipelineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline, with Pachyderm's field names. Durations are Go's: `90s`, `1h30m`; empty for no limit.

    reprocess: asks an update to run all datums once more; never in a spec that is in force.
    """

    pipeline: Pipeline
    description: str = ""
    transform: Transform
    input: Input = Input()
    parallelism_spec: ParallelismSpec = ParallelismSpec()
    datum_set_spec: DatumSetSpec = DatumSetSpec()
    resource_requests: Resources = Resources()
    resource_limits: Resources = Resources()
    datum_tries: int = DEFAULT_TRIES
    datum_timeout: str = ""
    job_timeout: str = ""
    output_branch: str = DEFAULT_BRANCH
    salt: str = ""
    reprocess_spec: str = "until_success"
    reprocess: bool = False
    every_commit: bool = False
    metadata: Metadata = Metadata()
    egress: Egress | None = None
    spout: Spout | None = None
    service: Service | None = None

    @property
    def name(self) -> str:
        """The pipeline's name, which its output repo has too."""
        return self.pipeline.name

    @property
    def kind(self) -> str:
        """What its command is: a `transform` works on datums, a `service` or `spout` goes on until it is stopped."""
        return "spout" if self.spout is not None else "service" if self.service is not None else "transform"

    @property
    def is_lasting(self) -> bool:
        """Whether its command has no end of its own."""
        return self.kind != "transform"

    @property
    def port(self) -> Service | None:
        """Where its command is reached, if it is."""
        return self.service if self.spout is None else self.spout.service

    def pfs_inputs(self) -> tuple[PfsInput, ...]:
        """The branches that it reads, each with its glob, in the order of the spec; one branch may stand twice."""
        return tuple(self.input.leaves(self.name))

    def cron_inputs(self) -> tuple[CronInput, ...]:
        """What makes ticks, in the order of the spec; each has the name of its repo."""
        return tuple(self.input.crons())

    def workers(self, cores: int) -> int:
        """How many datums run at a time on a machine with `cores` cores: one a core when the spec does not say."""
        spec = self.parallelism_spec
        return spec.constant or max(1, int((spec.coefficient or _COEFFICIENT) * cores))

    def shown(self) -> dict[str, object]:
        """All fields, with the defaults that hold, for a reader."""
        fields: dict[str, object] = msgspec.to_builtins(self)
        if not self.is_lasting and not fields["parallelism_spec"]:
            fields["parallelism_spec"] = {"coefficient": _COEFFICIENT}
        return fields

    def datum_timeout_s(self) -> float | None:
        """Seconds that one try of a datum may take; None for no limit."""
        return parse_duration(self.datum_timeout) if self.datum_timeout else None

    def job_timeout_s(self) -> float | None:
        """Seconds that a job may take; None for no limit."""
        return parse_duration(self.job_timeout) if self.job_timeout else None


def code_identity(spec: PipelineSpec) -> str:
    """What a pipeline computes, apart from its inputs: equal as long as done datums need not be done again.

    BLAKE3-256, in hex, of the bytes `vfsd code 1`, NUL, and the JSON object, keys sorted, of those of transform's cmd,
    stdin, env, err_cmd, err_stdin, accept_return_code, working_dir, user, secrets and of salt that are not empty; of a
    spout or service also its `kind`.
    """
    transform = spec.transform
    used: dict[str, object] = {name: part for name in _CODE if (part := getattr(transform, name))}
    if spec.salt:
        used["salt"] = spec.salt
    if spec.is_lasting:
        used["kind"] = spec.kind  # it has done no datum of a transform
    return hash_bytes(b"vfsd code 1\0" + msgspec.json.encode(used, order="sorted")).hex()
