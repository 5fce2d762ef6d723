"""The one place where botocore's errors become vfsd's: what a failure means for the caller, and what a user reads."""

from __future__ import annotations

import enum

from botocore import exceptions as boto

from vfsd.model.errors import AccessDenied, Conflict, InvalidArgument, NoSpace, NotFound, Unavailable, VfsdError


class Failure(enum.Enum):
    """What a failed request means."""

    ABSENT = "no such object"
    BUCKET = "no such bucket"
    UPLOAD = "no such upload in parts"
    CONDITION = "a condition did not hold"
    RACE = "another conditional request on the same key is under way"
    BEHIND_END = "the range begins behind the object's end"
    CREDENTIALS = "no credentials, or wrong ones"
    DENIED = "the credentials may not do this"
    CLOCK = "the clocks differ"
    REGION = "the bucket is elsewhere"
    FULL = "no space left"
    UNKNOWN = "the server does not know this request"
    NETWORK = "no connection, or it broke"
    DIGEST = "what came is not what was sent"
    CERTIFICATE = "the server shows a certificate that is not trusted"
    BUSY = "an error of the server's"
    THROTTLED = "the server asks to slow down"
    OTHER = "anything else"


TRANSIENT = frozenset({Failure.NETWORK, Failure.BUSY, Failure.THROTTLED, Failure.DIGEST})

_BY_CODE = {
    "NoSuchKey": Failure.ABSENT,
    "NoSuchBucket": Failure.BUCKET,
    "NoSuchUpload": Failure.UPLOAD,
    "PreconditionFailed": Failure.CONDITION,
    "ConditionalRequestConflict": Failure.RACE,
    "OperationAborted": Failure.RACE,
    "InvalidRange": Failure.BEHIND_END,
    "InvalidAccessKeyId": Failure.CREDENTIALS,
    "SignatureDoesNotMatch": Failure.CREDENTIALS,
    "ExpiredToken": Failure.CREDENTIALS,
    "InvalidToken": Failure.CREDENTIALS,
    "RequestTimeTooSkewed": Failure.CLOCK,
    "PermanentRedirect": Failure.REGION,
    "AuthorizationHeaderMalformed": Failure.REGION,
    "InsufficientStorage": Failure.FULL,
    "QuotaExceeded": Failure.FULL,
    "XMinioStorageFull": Failure.FULL,
    "NotImplemented": Failure.UNKNOWN,
    "RequestTimeout": Failure.BUSY,
    "BadDigest": Failure.DIGEST,
    "InvalidDigest": Failure.DIGEST,
    "XAmzContentChecksumMismatch": Failure.DIGEST,
    "XAmzContentSHA256Mismatch": Failure.DIGEST,
    "SlowDown": Failure.THROTTLED,
    "Throttling": Failure.THROTTLED,
    "RequestLimitExceeded": Failure.THROTTLED,
}
_BY_STATUS = {
    301: Failure.REGION,
    401: Failure.CREDENTIALS,
    403: Failure.DENIED,
    404: Failure.ABSENT,
    405: Failure.UNKNOWN,
    408: Failure.BUSY,
    409: Failure.RACE,
    412: Failure.CONDITION,
    416: Failure.BEHIND_END,
    429: Failure.THROTTLED,
    501: Failure.UNKNOWN,
    503: Failure.THROTTLED,
    507: Failure.FULL,
}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.ProfileNotFound,
    boto.SSOError,
)
_BROKEN = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.UnseekableStreamError,  # a redirection came after the content had been sent; the client knows of it now
)
_SET_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"

BotoError = boto.BotoCoreError | boto.ClientError


def classify(error: BotoError) -> Failure:
    """What `error` means."""
    if isinstance(error, boto.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        found = _BY_CODE.get(_code(error)) or _BY_STATUS.get(status)
        return found or (Failure.BUSY if status >= 500 else Failure.OTHER)
    if isinstance(error, _NO_CREDENTIALS):
        return Failure.CREDENTIALS
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Failure.CERTIFICATE
    return Failure.NETWORK if isinstance(error, _BROKEN) else Failure.OTHER


def retry_after(error: BotoError) -> float:
    """Seconds for which the server asks to be left alone; 0 when it does not say."""
    if not isinstance(error, boto.ClientError):
        return 0.0
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    said = headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() else 0.0


def explain(error: BotoError, *, bucket: str, endpoint: str, what: str) -> VfsdError:
    """The error to raise, in a user's words. what: the URL of the object or listing."""
    failure = classify(error)
    reason = _reason(error)
    match failure:
        case Failure.ABSENT:
            return NotFound(f"there is no object {what}")
        case Failure.BUCKET:
            # Not NotFound: that a bucket is gone says nothing about the objects, which must not pass for deleted.
            return Unavailable(f"bucket {bucket!r} is not there at {endpoint}: create it or check the name")
        case Failure.CONDITION | Failure.RACE:
            return Conflict(f"{what} is being changed by somebody else ({reason})")
        case Failure.CREDENTIALS:
            return AccessDenied(f"{endpoint} accepts no credentials from here ({reason}): {_SET_CREDENTIALS}")
        case Failure.DENIED:
            return AccessDenied(f"{endpoint} denies access to {what} ({reason}): {_SET_CREDENTIALS} of who may use it")
        case Failure.CLOCK:
            return AccessDenied(f"{endpoint} finds this machine's clock wrong ({reason}): set it")
        case Failure.REGION:
            return Unavailable(f"bucket {bucket!r} is in another region ({reason}): set AWS_REGION")
        case Failure.FULL:
            return NoSpace(f"{endpoint} has no space left for {what} ({reason})")
        case Failure.UNKNOWN:
            return Unavailable(f"{endpoint} does not know a request that vfsd needs, for {what} ({reason})")
        case Failure.NETWORK:
            return Unavailable(f"{endpoint} cannot be reached ({reason}): check VFSD_S3_ENDPOINT and the network")
        case Failure.CERTIFICATE:
            return Unavailable(
                f"{endpoint} shows a certificate that nobody trusted here has signed ({reason}): set s3_ca_bundle to "
                "the file with the certificate of its authority"
            )
        case Failure.BUSY | Failure.THROTTLED | Failure.DIGEST:
            return Unavailable(f"{endpoint} cannot serve {what} now ({reason}): try again later")
    if isinstance(error, boto.ParamValidationError):
        return InvalidArgument(f"{what}: {reason}")
    return Unavailable(f"{what}: {endpoint} fails with {reason}")


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: BotoError) -> str:
    """What botocore or the server said, on one line."""
    if isinstance(error, boto.ClientError):
        text = f"{_code(error)}: {error.response.get('Error', {}).get('Message', '')}"
    else:
        text = str(error)
    return " ".join(text.split()).rstrip(" .:")
