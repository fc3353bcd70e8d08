"""Which custom headers an endpoint may have (RFC 9110, 5.5 and 5.6.2)."""

import re
from collections.abc import Mapping

HEADERS_MAX = 32
HEADER_BYTES_MAX = 4096

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[!-~](?:[ !-~\t]*[!-~])?")
_OURS = frozenset(
    ("host", "transfer-encoding", "connection", "content-length", "content-type", "user-agent", "accept-encoding",
     "keep-alive", "te", "trailer", "upgrade", "expect", "proxy-authorization", "proxy-connection")
)  # fmt: skip


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError unless every custom header may be sent: valid, short, and none that the worker itself sets."""
    if len(headers) > HEADERS_MAX:
        raise ValueError(f"{len(headers)} custom headers; at most {HEADERS_MAX} are allowed")
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(name) + len(value) > HEADER_BYTES_MAX:
            raise ValueError(f"the header {name!r} is not a valid name and a value of printable ASCII")
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"the header {name!r} is set by the worker itself")
