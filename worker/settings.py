"""Where a setting comes from: a flag, then the environment, then a credentials file (systemd's `LoadCredential=`).

Light: `run` imports this on its way to a cold start, so it needs the standard library and the address rules only.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from urllib.parse import urlsplit

from worker.core.address import AddressRules, Network, parse_networks, parse_ports
from worker.core.retention import Retention, parse_retention
from worker.core.sealing import KeyRing

CREDENTIAL_BYTES_MAX = 8192
METRICS_ENDPOINTS_MAX = 1000

_PASSWORD = re.compile(
    r"(?P<before>://[^:/?#@\s]*:)[^@\s]*(?=@)|(?P<parameter>\bpassword\s*=\s*)(?:'[^']*'|[^&\s]*)", re.IGNORECASE
)


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOTHING_MATCHED = 3
    DATABASE_UNREACHABLE = 4
    CONFIGURATION = 78
    """A setting is missing or wrong, or the schema and this release do not fit (EX_CONFIG of sysexits.h)."""


class ConfigurationError(Exception):
    """A setting is missing or wrong. The text names it, where it came from, and what to write instead."""


@dataclass(frozen=True, slots=True)
class GuardRails:
    """The flags about where deliveries may go; None is one that was not given."""

    allow_network: Sequence[str] | None = None
    deny_network: Sequence[str] | None = None
    allow_port: Sequence[str] | None = None
    allow_http: bool | None = None

    def rules(self) -> AddressRules:
        """Read them, and the environment. Raises ConfigurationError."""
        return AddressRules(
            read_networks("allow", self.allow_network), read_networks("deny", self.deny_network), read_ports(self.allow_port)
        )


NO_GUARD_RAILS = GuardRails(("0.0.0.0/0", "::/0"), None, ("any",), allow_http=True)
"""For URLs on the machine of whoever types the command. What the environment denies stays denied."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host, by name or address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command that talks to the database or judges URLs needs."""

    database_url: str = field(repr=False)
    rules: AddressRules = field(default_factory=AddressRules)
    allow_http: bool = False
    transports: Path | None = None
    """A file that describes how endpoints are reached; see `worker.http.transports`."""
    key_ring: KeyRing = field(default_factory=KeyRing)
    """What endpoints' signing keys are sealed with."""

    @classmethod
    def load(
        cls,
        *,
        database_url: str | None = None,
        guards: GuardRails | None = None,
        transports: str | None = None,
    ) -> "Settings":
        """Read the settings, given the flags; None is a flag that was not given. Raises ConfigurationError."""
        guards = guards or GuardRails()
        path = transports or os.environ.get("WEBHOOK_WORKER_TRANSPORTS")
        return cls(
            read_database_url(database_url),
            guards.rules(),
            read_allow_http(guards.allow_http),
            Path(path) if path else None,
            read_key_ring(),
        )


def read_database_url(flag: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Return the database's URL, or raise ConfigurationError. No message contains it: it may hold a password."""
    environ = os.environ if environ is None else environ
    if flag is not None:
        return _checked_url(flag, "--database-url")
    if from_environment := environ.get("DATABASE_URL"):
        return _checked_url(from_environment, "the environment's DATABASE_URL")
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(directory) / "database_url"
        if path.exists():
            return _checked_url(_read_credential(path), f"the credentials file {path}")
    raise ConfigurationError(
        "the database URL is not set: give --database-url, the environment variable DATABASE_URL or the credential "
        "database_url, like postgresql://user@host:5432/name"
    )


def read_key_ring(environ: Mapping[str, str] | None = None) -> KeyRing:
    """Return the key-encryption keys of `WEBHOOK_WORKER_KEY_FILE`, else of the credential `key`, else none.

    There is no flag: a command line is for all to read. No message contains a key. Raises ConfigurationError.
    """
    environ = os.environ if environ is None else environ
    directory = environ.get("CREDENTIALS_DIRECTORY")
    named = environ.get("WEBHOOK_WORKER_KEY_FILE")
    path = Path(named or Path(directory or "", "key"))
    if not named and not (directory and _is_there(path)):
        return KeyRing()
    text = _read_credential(path)
    try:
        return KeyRing.parse(text, is_exposed=bool(path.stat().st_mode & 0o077))
    except ValueError as error:
        raise ConfigurationError(f"the key file {path}: {error}; `webhook-worker keys new NAME` prints a line for it") from None


def read_networks(
    verb: str, flags: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Network, ...]:
    """Return the networks to `allow` although the address rules deny them, or to `deny` besides. None by default."""
    source, text = _listed(f"{verb}-network", flags, environ)
    try:
        return parse_networks(text)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}; write networks like 10.1.0.0/16 or fd00:1::/64") from None


def read_ports(flags: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> tuple[range, ...]:
    """Return the only ports that receivers may have. None is said by default."""
    source, text = _listed("allow-port", flags, environ)
    try:
        return parse_ports(text)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}; write ports like 443 or 8000-8999, or any") from None


def _listed(flag: str, flags: Sequence[str] | None, environ: Mapping[str, str] | None) -> tuple[str, str]:
    """Return where a repeatable setting comes from, and its text."""
    if flags:
        return f"--{flag}", " ".join(flags)
    variable = f"WEBHOOK_WORKER_{flag.upper().replace('-', '_')}S"
    return variable, (os.environ if environ is None else environ).get(variable, "")


def read_allow_http(flag: bool | None = None, environ: Mapping[str, str] | None = None) -> bool:
    """Return whether plain http:// is allowed. It is not by default."""
    if flag is not None:
        return flag
    environ = os.environ if environ is None else environ
    text = environ.get("WEBHOOK_WORKER_ALLOW_HTTP", "").strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("", "0", "false", "no", "off"):
        return False
    raise ConfigurationError(f"WEBHOOK_WORKER_ALLOW_HTTP is {text!r}; write 1 to allow plain http, or leave it out")


def read_metrics_listen(flag: str | None = None, environ: Mapping[str, str] | None = None) -> ListenAddress | None:
    """Return where a worker shows its metrics. Nowhere by default."""
    source, text = "--metrics-listen", flag
    if text is None:
        source = "WEBHOOK_WORKER_METRICS_LISTEN"
        text = (os.environ if environ is None else environ).get(source) or None
    if text is None:
        return None
    found = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s\[\]:]+)):(?P<port>[0-9]{1,5})", text.strip())
    if found is None or int(found["port"]) > 65535:
        raise ConfigurationError(
            f"{source} {text!r} is not an address to listen on; write host:port, as in 127.0.0.1:9091 or [::1]:9091"
        )
    return ListenAddress(found["six"] or found["host"], int(found["port"]))


def read_metrics_endpoints(flag: int | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Return how many endpoints have metrics of their own. None by default."""
    text = (os.environ if environ is None else environ).get("WEBHOOK_WORKER_METRICS_ENDPOINTS", "").strip()
    if flag is not None or not text:
        return flag or 0
    if not (text.isascii() and text.isdigit() and int(text) <= METRICS_ENDPOINTS_MAX):
        raise ConfigurationError(
            f"WEBHOOK_WORKER_METRICS_ENDPOINTS is {text!r}; write a number from 0 to {METRICS_ENDPOINTS_MAX}, or leave it out"
        )
    return int(text)


def read_choice(
    name: str, choices: Sequence[str], flag: str | None = None, environ: Mapping[str, str] | None = None
) -> str | None:
    """Return one of these words, as the flag `--name` or the environment says; None if neither does."""
    variable = f"WEBHOOK_WORKER_{name.upper().replace('-', '_')}"
    text = flag or (os.environ if environ is None else environ).get(variable) or None
    if text is not None and text not in choices:
        raise ConfigurationError(f"{f'--{name}' if flag else variable} is {text!r}; write one of {', '.join(choices)}")
    return text


def is_tracing_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the environment names a collector for traces, as OpenTelemetry's specification has it."""
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter not in ("", "none", "otlp"):
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER is {exporter!r}; write otlp or none: nothing else is supported")
    named = any(environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
    return exporter == "otlp" or (exporter == "" and named)


def read_retention(flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> Retention:
    """Return how long what is finished is kept, given the flags by the words that follow `retain_`. 30 days by default."""
    environ = os.environ if environ is None else environ
    seconds: dict[str, float | None] = {}
    for name, flag in flags.items():
        source, text = f"--retain-{name.replace('_', '-')}", flag
        if text is None:
            source = f"WEBHOOK_WORKER_RETAIN_{name.upper()}"
            text = environ.get(source) or None
        if text is not None:
            try:
                seconds[f"{name}_seconds"] = parse_retention(text)
            except ValueError as error:
                raise ConfigurationError(f"{source}: {error}") from None
    return Retention(**seconds)


def without_password(text: str) -> str:
    """Return a text, such as a driver's error message, with the passwords of connection strings taken out."""
    return _PASSWORD.sub(lambda match: f"{match['before'] or match['parameter']}***", text)


def _checked_url(text: str, source: str) -> str:
    text = text.strip()
    if not _is_database_url(text):
        raise ConfigurationError(
            f"{source} is not the URL of a Postgres database; write it like postgresql://user:password@host:5432/name, "
            "with special characters percent-encoded"
        )
    pooled = re.findall(r"[?&]pgbouncer=([^&]*)", text)
    if not {"true", "false"}.issuperset(pooled):
        raise ConfigurationError(f"{source} has another pgbouncer= than true or false; write pgbouncer=true, or leave it out")
    return text


def _is_database_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        hosts = parts.netloc.rpartition("@")[2].split(",")  # several are tried in turn
        ports = [urlsplit(f"//{host}").port for host in hosts]
    except ValueError:  # a malformed port or IPv6 address
        return False
    return parts.scheme in ("postgresql", "postgres") and 0 not in ports and text.isprintable()


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # who reads it will say so
        return True


def _read_credential(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(CREDENTIAL_BYTES_MAX + 1)
        if len(data) > CREDENTIAL_BYTES_MAX:
            raise OSError(0, f"it is longer than {CREDENTIAL_BYTES_MAX} bytes")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"the file {path} cannot be read: {reason}; make it readable to this user") from None
