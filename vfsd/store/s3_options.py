"""How a bucket is spoken to: what the user may set, with what is right for most as the defaults.

Plain values, checked where they are made. Imports nothing of boto3, so that reading the configuration stays quick.
"""

from __future__ import annotations

import math
import re

import msgspec

from vfsd.model.errors import InvalidArgument

ADDRESSING = ("auto", "path", "virtual")
ENCRYPTION = ("", "AES256", "aws:kms", "aws:kms:dsse")
CHECKSUMS = ("auto", "crc32", "md5", "none")
MIN_PART = 5 << 20  # bytes; S3 takes no smaller part of an upload but the last

_ENDPOINT = re.compile(r"https?://[^/?#\s]+(/[^?#\s]*)?")


class S3Options(msgspec.Struct, frozen=True, kw_only=True):
    """endpoint: URL of a server that is not AWS; empty: what VFSD_S3_ENDPOINT says, else what boto3 finds.
    addressing: whether the bucket stands in the path or in the host name; auto: in the path at servers that are not
    AWS. ca_bundle: file with the certificates of the authorities to trust; empty: boto3's. anonymous: sign nothing,
    for public buckets. requester_pays: agree to pay for requests and traffic. encryption: of objects at rest, by the
    server; empty: what the bucket says. kms_key: id of the key for aws:kms; empty: the account's default.
    checksum: what uploads carry for the server to check; auto: crc32 at AWS, else none, where the signature has a
    SHA-256 of the content in it.

    connections: requests at once. connect_timeout_s, read_timeout_s: seconds until a connection stands, and without a
    byte. retry_s: seconds for which one call is tried again after it first failed. hedge: share of reads that may be
    sent a second time because the first is late; 0 for none. multipart: bytes from which on an object is uploaded in
    parts.

    InvalidArgument names the field.
    """

    endpoint: str = ""
    addressing: str = "auto"
    ca_bundle: str = ""
    anonymous: bool = False
    requester_pays: bool = False
    encryption: str = ""
    kms_key: str = ""
    checksum: str = "auto"
    connections: int = 64
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry_s: float = 30.0
    hedge: float = 0.03
    multipart: int = 64 << 20

    @property
    def kept(self) -> dict[str, str]:
        """Parameters of requests that say how an object is to be kept."""
        kept = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key}
        return {name: value for name, value in kept.items() if value}

    def __post_init__(self) -> None:
        if self.endpoint and _ENDPOINT.fullmatch(self.endpoint) is None:
            raise InvalidArgument(f"endpoint: {self.endpoint!r} is no URL of a server: http://host:port is one")
        if self.encryption.upper() in {"SSE-C", "SSEC"}:
            raise InvalidArgument(
                "encryption: SSE-C is not done, because who loses its key loses the store: AES256 and aws:kms are"
            )
        for field, known in (("addressing", ADDRESSING), ("encryption", ENCRYPTION), ("checksum", CHECKSUMS)):
            if getattr(self, field) not in known:
                names = ", ".join(filter(None, known))
                raise InvalidArgument(f"{field}: {getattr(self, field)!r} is not known: {names} are")
        if self.kms_key and not self.encryption.startswith("aws:kms"):
            raise InvalidArgument("kms_key: a key is used by the encryption aws:kms alone")
        if self.connections < 1:
            raise InvalidArgument(f"connections: {self.connections} is none: say 1 or more")
        for field in ("connect_timeout_s", "read_timeout_s", "retry_s"):
            value = getattr(self, field)
            if not math.isfinite(value) or value <= 0:
                raise InvalidArgument(f"{field}: {value} is no number of seconds to wait")
        if not 0 <= self.hedge <= 1:
            raise InvalidArgument(f"hedge: {self.hedge} is no share: say 0.03 for three in a hundred")
        if self.multipart < MIN_PART:
            raise InvalidArgument(f"multipart: {self.multipart} bytes are less than a part, {MIN_PART} bytes")
