"""Says what is wrong with a pipeline spec whose types are right; inputs have vfsd.model.spec_check_input."""

from __future__ import annotations

from vfsd.model.durations import parse_duration
from vfsd.model.names import check_label
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.quantities import parse_quantity
from vfsd.model.spec_check_egress import check_egress
from vfsd.model.spec_check_input import InputChecker
from vfsd.model.spec_check_lasting import check_lasting
from vfsd.model.spec_transform import ParallelismSpec, Resources, Secret, Transform

_OWN = {"PACH_JOB_ID", "PACH_OUTPUT_COMMIT_ID"}
MAX_WORKERS = 65_536  # datums at a time, or per core: more is a slip of the hand


class Checker(InputChecker):
    """Checks one spec. InvalidArgument, in one line with the path to the field."""

    def spec(self, spec: PipelineSpec) -> None:
        """Everything that a type cannot say."""
        self.checked("pipeline.name", lambda: check_label("pipeline", spec.name))
        self.checked("output_branch", lambda: check_label("branch", spec.output_branch))
        self.transform(spec.transform)
        self.parallelism(spec.parallelism_spec)
        if spec.datum_set_spec.number < 0 or spec.datum_set_spec.size_bytes < 0:
            self.fail("datum_set_spec", "a set cannot have less than nothing")
        for field in ("resource_requests", "resource_limits"):
            self.resources(getattr(spec, field), field)
        if spec.reprocess_spec not in {"until_success", "every_job"}:
            self.fail("reprocess_spec", f"{spec.reprocess_spec!r} is neither until_success nor every_job")
        if spec.reprocess and spec.salt:
            self.fail("reprocess", "the spec has a salt: another salt runs all datums again, once")
        if spec.datum_tries < 1:
            self.fail("datum_tries", f"{spec.datum_tries} is too few: 1 or more")
        for name in ("datum_timeout", "job_timeout"):
            if text := getattr(spec, name):
                self.checked(name, lambda text=text: parse_duration(text))  # type: ignore[misc]
        if spec.egress is not None:
            check_egress(spec.egress, self.fail)
        if spec.is_lasting:
            check_lasting(spec, self.fail)
        if spec.spout is None:
            self.inputs(spec)

    def transform(self, transform: Transform) -> None:
        """What is run."""
        if not transform.cmd or not transform.cmd[0]:
            self.fail("transform.cmd", "it is empty: it lists a program and its arguments")
        for field in ("cmd", "err_cmd"):
            for number, argument in enumerate(getattr(transform, field)):
                if "\0" in argument:
                    self.fail(f"transform.{field}[{number}]", "a NUL cannot be passed to a program")
        if transform.err_stdin and not transform.err_cmd:
            self.fail("transform.err_stdin", "there is no err_cmd that would read it")
        if transform.err_cmd and not transform.err_cmd[0]:
            self.fail("transform.err_cmd", "it begins with a program")
        for code in transform.accept_return_code:
            if not 0 <= code <= 255:
                self.fail("transform.accept_return_code", f"{code} is no exit code: they go from 0 to 255")
        for number, secret in enumerate(transform.secrets):
            self.secret(secret, f"transform.secrets[{number}]")
        if transform.working_dir and (transform.working_dir[0] != "/" or "\0" in transform.working_dir):
            self.fail("transform.working_dir", "it is not an absolute path")
        for name, value in transform.env.items():
            self.variable(name, value, f"transform.env.{name}")

    def secret(self, secret: Secret, path: str) -> None:
        """What a command is given in secret."""
        for field in ("name", "key"):
            text = getattr(secret, field)
            if "/" in text or "\0" in text or text in {".", ".."} or (field == "name" and not text):
                self.fail(f"{path}.{field}", f"{text!r} names no file")
        if bool(secret.env_var) == bool(secret.mount_path):
            self.fail(path, "give env_var or mount_path, one of them")
        if secret.env_var:
            if not secret.key:
                self.fail(f"{path}.key", "it is missing: a variable holds one key of a secret")
            self.variable(secret.env_var, "", f"{path}.env_var")
            return
        parts = secret.mount_path.split("/")
        if parts[0] or {".", ".."} & set(parts) or "\0" in secret.mount_path or not any(parts):
            self.fail(f"{path}.mount_path", "it is not an absolute path of a directory")
        if parts[1] in {"pfs", "proc", "dev"}:
            self.fail(f"{path}.mount_path", f"/{parts[1]} has a meaning of its own")

    def variable(self, name: str, value: str, path: str) -> None:
        """A variable of a command's environment."""
        if not name or "=" in name or "\0" in name + value:
            self.fail(path, "a variable's name has no '=' and nothing of it a NUL")
        if name in _OWN or name.startswith(("PACH_DATUM_", "VFSD_")):
            self.fail(path, "vfsd itself sets PACH_JOB_ID, PACH_OUTPUT_COMMIT_ID, PACH_DATUM_… and VFSD_…")

    def resources(self, asked: Resources, path: str) -> None:
        """What a datum needs or may use."""
        if not 0 <= asked.cpu <= MAX_WORKERS:
            self.fail(f"{path}.cpu", f"{asked.cpu:g} is no number of cores")
        for field in ("memory", "disk"):
            if text := getattr(asked, field):
                self.checked(f"{path}.{field}", lambda text=text: parse_quantity(text))  # type: ignore[misc]
        if asked.gpu is not None and not 0 <= asked.gpu.number <= MAX_WORKERS:
            self.fail(f"{path}.gpu.number", f"{asked.gpu.number} is no number of GPUs")

    def parallelism(self, width: ParallelismSpec) -> None:
        """How many at a time."""
        if not 0 <= width.constant <= MAX_WORKERS or not 0 <= width.coefficient <= MAX_WORKERS:
            self.fail("parallelism_spec", "that many datums cannot run at a time")
        if width.constant and width.coefficient:
            self.fail("parallelism_spec", "give constant or coefficient, not both")
