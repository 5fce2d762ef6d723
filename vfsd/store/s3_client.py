"""boto3's client for one bucket, made as the options say, and quicker GETs in its likeness.

A call of boto3's client costs two milliseconds of processor time, of which signing and HTTP are less than the half.
Reads are most of what is asked, so the first one goes through the client, which finds out host, path, region and
signature for this bucket, and all others are made like it, with the same signer and HTTP session of botocore, but
without the rest. Whatever is not plain success or failure then goes through the client again. Retries, limits and
what an answer means are left to the callers.
"""

from __future__ import annotations

import email.utils
import html
import os
import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import botocore.session
import msgspec
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, ResponseStreamingError
from botocore.httpsession import URLLib3Session
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies, parse_timestamp
from urllib3.exceptions import HTTPError

from vfsd.model.errors import InvalidArgument
from vfsd.store.s3_options import S3Options

Client = Any  # boto3 makes its client classes at run time
SPARE = 16  # connections that are kept beyond those of the options: losers of hedged reads give theirs back late

_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=[^ ]+/\d{8}/([^/ ]+)/s3/aws4_request,")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


class Answer(msgspec.Struct, frozen=True):
    """A GET that succeeded. headers: by lower-case name. body: a stream with `read([size])` and `close()`."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def read_into(self, piece: memoryview) -> int:
        """Fill a piece of memory with what comes next, and say how much that was: all of it but at the body's end.

        The standard library's response, on which urllib3's stands, receives where it is told to, and lets other threads
        run meanwhile; urllib3 receives elsewhere, and copies.
        """
        plain = getattr(self.body, "_fp", None)
        if not isinstance(plain, HTTPResponse):
            content = self.body.read(len(piece))
            piece[: len(content)] = content
            return len(content)
        size = plain.readinto(piece)
        if plain.isclosed():
            self.body.release_conn()  # all has come
        return size


class Likeness(msgspec.Struct, frozen=True):
    """How GETs of this bucket look. base: URL of an object up to its key. region: for the signature; None: unsigned."""

    base: str
    region: str | None
    agent: str


class Bucket:
    """A bucket, and what is needed to ask for it. Connects when it is made; safe from any thread.

    InvalidArgument when the options cannot be, botocore's errors when credentials or profile cannot be read.
    """

    def __init__(self, name: str, options: S3Options) -> None:
        self.name = name
        self._options = options
        core = botocore.session.get_session()
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
        self._session = boto3.Session(botocore_session=core)
        self.client = self._connect()
        self.endpoint: str = self.client.meta.endpoint_url
        self.client.meta.events.register("before-send.s3.GetObject", self._remember)
        http: dict[str, Any] = {
            "verify": _authorities(options) or core.get_config_variable("ca_bundle")
            or os.environ.get("REQUESTS_CA_BUNDLE") or True,
            "proxies": get_environ_proxies(self.endpoint),
            "timeout": (options.connect_timeout_s, options.read_timeout_s),
            "max_pool_connections": options.connections + SPARE,
        }  # fmt: skip
        self._http = URLLib3Session(**http)
        self._likeness: Likeness | None = None
        self._sent = threading.local()  # what boto3's client sent last in this thread, as `likeness`

    @property
    def is_aws(self) -> bool:
        """Whether the server is AWS's own."""
        return _is_aws(self.endpoint)

    def ask(self, operation: str, parameters: Mapping[str, Any]) -> Any:
        """Call boto3's client once."""
        try:
            return getattr(self.client, operation)(Bucket=self.name, **self._payer(), **parameters)
        except ResponseParserError as error:  # the one error of botocore that is none of its tree
            raise ResponseStreamingError(error=error) from None

    def get(self, key: str, span: str | None) -> Answer:
        """GET the object `key`, or its bytes as the Range header `span` says. ClientError, as boto3's client."""
        likeness = self._likeness
        if likeness is None:
            return self._get_by_client(key, span)
        request = AWSRequest("GET", likeness.base + _quoted(key), {"User-Agent": likeness.agent}, stream_output=True)
        if span is not None:
            request.headers["Range"] = span
        if self._options.requester_pays:
            request.headers["x-amz-request-payer"] = "requester"
        if likeness.region is not None:
            S3SigV4Auth(self._credentials(), "s3", likeness.region).add_auth(request)
        answer = self._http.send(request.prepare())
        if answer.status_code in {200, 206}:
            return Answer(answer.status_code, answer.raw.headers, answer.raw)
        try:
            text = answer.text
        except HTTPError as error:
            raise ResponseStreamingError(error=error) from None
        if 300 <= answer.status_code <= 400:
            # The bucket is in another region by now, or something like that, which the client knows how to handle.
            self._likeness = None
            return self._get_by_client(key, span)
        raise _client_error(answer.status_code, answer.headers, text)

    def close(self) -> None:
        """Give back idle connections; those in use end with what they are used for."""
        self.client.close()
        self._http.close()

    # The quicker way

    def _get_by_client(self, key: str, span: str | None) -> Answer:
        self._sent.likeness = None
        found = self.ask("get_object", {"Key": key, **({} if span is None else {"Range": span})})
        likeness: Likeness | None = self._sent.likeness
        if likeness is not None and likeness.base.endswith(_quoted(key)):
            self._likeness = msgspec.structs.replace(likeness, base=likeness.base.removesuffix(_quoted(key)))
        answer = found["ResponseMetadata"]
        return Answer(answer["HTTPStatusCode"], answer["HTTPHeaders"], found["Body"])

    def _remember(self, request: Any, **_: Any) -> None:
        """boto3 is about to send this."""
        headers = {name.lower(): value if isinstance(value, str) else value.decode("latin-1")
                   for name, value in request.headers.items()}  # fmt: skip
        signature = headers.get("authorization")
        signed = _SIGNED.match(signature or "")
        is_known = "?" not in request.url and (signed is not None if signature else self._options.anonymous)
        region = signed[1] if signed else None
        self._sent.likeness = Likeness(request.url, region, headers.get("user-agent", "")) if is_known else None

    def _credentials(self) -> Any:
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found.get_frozen_credentials()  # asks for new ones where the old ones are about to expire

    # boto3's client

    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self._options.requester_pays else {}

    def _connect(self) -> Client:
        wanted = self._options.addressing
        if wanted != "auto":
            return self._make_client(wanted)
        client = self._make_client("path" if self._options.endpoint else "auto")
        if self._options.endpoint or _is_aws(client.meta.endpoint_url):
            return client
        client.close()  # boto3 found another endpoint, in its environment or configuration
        return self._make_client("path")

    def _make_client(self, style: Any) -> Client:
        options = self._options
        config = Config(
            max_pool_connections=options.connections + SPARE,
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.read_timeout_s,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": style},
            request_checksum_calculation="when_required",  # other servers do not know the newer ones
            response_checksum_validation="when_required",
            parameter_validation=False,  # a sixth of the time of a call; and it knows no memoryview
            user_agent_extra="vfsd",
            **({"signature_version": UNSIGNED} if options.anonymous else {}),
        )
        region = self._session.region_name or "us-east-1"
        try:
            client: Client = self._session.client(
                "s3", endpoint_url=options.endpoint or None, region_name=region, config=config,
                verify=_authorities(options),
            )  # fmt: skip
            return client
        except ValueError as error:
            raise InvalidArgument(f"S3 endpoint {options.endpoint!r}: {error}: http://host:port is one") from None


def parse_time(value: Any) -> datetime:
    """A time of an answer. Four times as quick as botocore's own way for the two forms that S3 uses."""
    try:
        if value[4] == "-":
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        return email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        slow: datetime = parse_timestamp(value)
        return slow


def _authorities(options: S3Options) -> str | None:
    if options.ca_bundle and not os.path.isfile(options.ca_bundle):
        raise InvalidArgument(f"s3_ca_bundle: there is no file {options.ca_bundle}")
    return options.ca_bundle or None


def _is_aws(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _quoted(key: str) -> str:
    return "/" + quote(key, safe="/~")


def _client_error(status: int, headers: Mapping[str, str], text: str) -> ClientError:
    """What boto3's client would raise for this answer."""
    found = {name: html.unescape(match[1]) for name, match in
             (("Code", _CODE.search(text)), ("Message", _MESSAGE.search(text))) if match}  # fmt: skip
    answer: Any = {
        "Error": {"Code": str(status), "Message": "", **found},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {k.lower(): v for k, v in headers.items()}},
    }
    return ClientError(answer, "GetObject")
