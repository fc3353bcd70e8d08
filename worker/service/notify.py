"""The service manager's notification protocol, sd_notify(3): a few lines of text in a datagram to the socket that it names."""

import logging
import os
import socket
from collections.abc import Mapping

SEND_SECONDS_MAX = 1.0
"""It reads at once, unless it is being replaced: then its socket's queue takes what is sent."""

log = logging.getLogger("worker.service")


class ServiceManager:
    """Whoever started this process and wants to hear how it goes. Nobody, without `NOTIFY_SOCKET`: `tell` does nothing then."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "").encode(errors="surrogateescape")
        if self._address.startswith(b"@"):  # a name in the abstract namespace
            self._address = b"\0" + self._address[1:]
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "") if self._address and is_ours else ""
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
        """It ends a process that sends no WATCHDOG=1 for so long; None: it does not look."""

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address)

    def tell(self, *assignments: str) -> None:
        """Send assignments like `READY=1` or `STATUS=…`, all at once. That nobody takes them is no reason to stop working."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(SEND_SECONDS_MAX)
                out.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.warning("the service manager at NOTIFY_SOCKET takes no message: %s", error)
