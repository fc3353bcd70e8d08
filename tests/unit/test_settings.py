"""Where settings come from, and what is said when they are wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.core.address import AddressRules, parse_networks, parse_ports
from worker.core.retention import Retention
from worker.core.sealing import new_line
from worker.settings import (
    ConfigurationError,
    ExitCode,
    GuardRails,
    ListenAddress,
    Settings,
    is_tracing_wanted,
    read_allow_http,
    read_choice,
    read_database_url,
    read_key_ring,
    read_metrics_endpoints,
    read_metrics_listen,
    read_networks,
    read_ports,
    read_retention,
    without_password,
)

URL = "postgresql://me:s3cret@db.example:5432/hooks"


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "database_url").write_text("postgresql://from-credentials/x\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_a_flag_wins_over_the_environment() -> None:
    """A flag wins over the environment."""
    assert URL == read_database_url(URL, {"DATABASE_URL": "postgresql://other/x"})


def test_the_environment_wins_over_the_credential(credentials: dict[str, str]) -> None:
    """The environment wins over the credentials file."""
    assert URL == read_database_url(None, {**credentials, "DATABASE_URL": URL})


def test_the_credential_is_read_last(credentials: dict[str, str]) -> None:
    """Without flag and variable, the credentials file is read, without its newline."""
    assert "postgresql://from-credentials/x" == read_database_url(None, credentials)


def test_an_empty_variable_is_no_setting(credentials: dict[str, str]) -> None:
    """DATABASE_URL= counts as not set."""
    assert "postgresql://from-credentials/x" == read_database_url(None, {**credentials, "DATABASE_URL": ""})


def test_a_missing_database_url_names_the_three_places() -> None:
    """Nothing set: the message names the flag, the variable and the credential, and shows an example."""
    with pytest.raises(ConfigurationError) as caught:
        read_database_url(None, {})

    assert all(word in str(caught.value) for word in ("--database-url", "DATABASE_URL", "credential", "postgresql://"))


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:s3cret@h/x", "s3cret", "postgresql://me:s3cret@h:70000/x", "postgresql://me:s3cret@h:x/y",
        "postgresql://me:s3cret@[::1/x", "postgresql://me:s3cret@h/\x1b[31m",
    ],
)  # fmt: skip
@pytest.mark.fault(68)
def test_a_bad_database_url_is_named_by_its_source_and_not_shown(url: str) -> None:
    """A bad URL: the message names where it came from, and never holds the URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match="the environment's DATABASE_URL") as caught:
        read_database_url(None, {"DATABASE_URL": url})

    assert "s3cret" not in str(caught.value)


def test_pgbouncer_is_true_or_false() -> None:
    """Whether there is a pool in between has two answers; another one is refused, not taken for no."""
    for value in ("true", "false"):
        url = f"postgresql://me@h/x?sslmode=require&pgbouncer={value}"
        assert url == read_database_url(url, {})
    with pytest.raises(ConfigurationError, match="write pgbouncer=true, or leave it out"):
        read_database_url("postgresql://me@h/x?pgbouncer=yes", {})


def test_several_hosts_are_a_database_url() -> None:
    """A URL may name several hosts, which the drivers try in turn."""
    url = "postgresql://a:5432,b:5433/x"

    assert url == read_database_url(url, {})


def test_an_unreadable_credential_says_so(tmp_path: Path) -> None:
    """A credentials file that is not UTF-8 is refused by name."""
    (tmp_path / "database_url").write_bytes(b"\xff")

    with pytest.raises(ConfigurationError, match="database_url cannot be read: it is not UTF-8"):
        read_database_url(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_no_network_is_allowed_by_default() -> None:
    """Without flag and variable no private network is allowed."""
    assert () == read_networks("allow", None, {})


@pytest.mark.parametrize("text", ["10.0.0.0/8,fd00::/8", "10.0.0.0/8 fd00::/8", " 10.0.0.0/8 , fd00::/8 "])
def test_networks_are_separated_by_commas_or_spaces(text: str) -> None:
    """The variable takes commas, spaces or both."""
    assert parse_networks("10.0.0.0/8 fd00::/8") == read_networks("allow", None, {"WEBHOOK_WORKER_ALLOW_NETWORKS": text})


def test_network_flags_replace_the_variable() -> None:
    """A flag wins over the variable, whole."""
    environ = {"WEBHOOK_WORKER_ALLOW_NETWORKS": "10.0.0.0/8"}

    assert parse_networks("127.0.0.0/8") == read_networks("allow", ["127.0.0.0/8"], environ)


@pytest.mark.parametrize(("flags", "source"), [(["10.0.0.0/33"], "--allow-network"), (None, "WEBHOOK_WORKER_ALLOW_NETWORKS")])
def test_a_bad_network_is_named_with_its_source(flags: list[str] | None, source: str) -> None:
    """A bad network: the message says where it stands, what it is and how one looks."""
    with pytest.raises(ConfigurationError, match=rf"{source}: '10.0.0.0/33'.*10.1.0.0/16"):
        read_networks("allow", flags, {"WEBHOOK_WORKER_ALLOW_NETWORKS": "10.0.0.0/33"})


@pytest.mark.parametrize(("flags", "source"), [(["x"], "--allow-port"), (None, "WEBHOOK_WORKER_ALLOW_PORTS")])
def test_a_bad_port_is_named_with_its_source(flags: list[str] | None, source: str) -> None:
    """The same of ports."""
    with pytest.raises(ConfigurationError, match=rf"{source}: 'x' is no port.*8000-8999"):
        read_ports(flags, {"WEBHOOK_WORKER_ALLOW_PORTS": "x"})


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_plain_http_is_a_switch(text: str, expected: bool) -> None:
    """WEBHOOK_WORKER_ALLOW_HTTP=1 allows plain http; 0 and nothing do not."""
    assert expected is read_allow_http(None, {"WEBHOOK_WORKER_ALLOW_HTTP": text})


@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_for_plain_http_wins_over_the_variable(flag: bool) -> None:
    """--allow-http and --no-allow-http decide, whatever the environment says."""
    assert flag is read_allow_http(flag, {"WEBHOOK_WORKER_ALLOW_HTTP": "0" if flag else "1"})


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    """A typing error must not be taken for a no, or a yes."""
    with pytest.raises(ConfigurationError, match="WEBHOOK_WORKER_ALLOW_HTTP is 'maybe'; write 1"):
        read_allow_http(None, {"WEBHOOK_WORKER_ALLOW_HTTP": "maybe"})


def test_settings_are_loaded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` reads all of them from flags and the process's environment."""
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_HTTP", "1")
    monkeypatch.delenv("WEBHOOK_WORKER_ALLOW_NETWORKS", raising=False)

    monkeypatch.setenv("WEBHOOK_WORKER_DENY_NETWORKS", "9.9.9.0/24")
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_PORTS", "443")

    rules = AddressRules(parse_networks("10.0.0.0/8"), parse_networks("9.9.9.0/24"), parse_ports("8000-8999"))
    assert Settings(URL, rules, True) == Settings.load(guards=GuardRails(["10.0.0.0/8"], None, ["8000-8999"]))


@pytest.mark.fault(68)
def test_the_repr_hides_the_database_url() -> None:
    """A repr in a log shows no password."""
    assert "s3cret" not in repr(Settings(URL))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"cannot reach {URL}", "cannot reach postgresql://me:***@db.example:5432/hooks"),
        ("host=h password=s3cret user=u", "host=h password=*** user=u"),
        ("postgresql://h/x?password=s3cret&a=b", "postgresql://h/x?password=***&a=b"),
        ("nothing to hide", "nothing to hide"),
    ],
)
@pytest.mark.fault(68)
def test_passwords_are_taken_out_of_texts(text: str, expected: str) -> None:
    """What a driver says about a connection string is shown without its password."""
    assert expected == without_password(text)


def test_the_exit_codes_are_the_documented_ones() -> None:
    """Scripts rely on these numbers."""
    assert [0, 1, 2, 3, 4, 78] == [code.value for code in ExitCode]


def test_settings_import_little() -> None:
    """`run` imports the settings first: nothing that prints, and no driver, comes with them."""
    heavy = "typer rich asyncpg psycopg httpx anyio asyncio"
    code = f"import sys, worker.settings; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def test_a_worker_without_metrics_imports_none() -> None:
    """The client takes its time: it is for those who listen, and later than the first delivery."""
    code = "import sys, worker.cli.run, worker.service.serve; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False" == done.stdout.strip()


NO_FLAGS = dict.fromkeys(("events", "deliveries", "attempts", "idempotency_keys"))


def test_retention_is_thirty_days_unless_said_otherwise() -> None:
    """Without flag and variable, and with an empty variable, everything is kept for 30 days."""
    assert Retention() == read_retention(NO_FLAGS, {"WEBHOOK_WORKER_RETAIN_EVENTS": ""})
    assert 30 * 86_400 == Retention().events_seconds


def test_retention_is_read_from_flag_then_environment() -> None:
    """A flag wins over the environment; `never` is a retention too."""
    environ = {"WEBHOOK_WORKER_RETAIN_EVENTS": "2d", "WEBHOOK_WORKER_RETAIN_IDEMPOTENCY_KEYS": "never"}

    assert Retention(events_seconds=3_600.0, idempotency_keys_seconds=None) == read_retention(
        {**NO_FLAGS, "events": "1h"}, environ
    )


@pytest.mark.parametrize(
    ("flags", "environ", "source"),
    [
        ({"idempotency_keys": "soon"}, {}, "--retain-idempotency-keys"),
        ({"events": ""}, {}, "--retain-events"),
        ({"events": None}, {"WEBHOOK_WORKER_RETAIN_EVENTS": "30"}, "WEBHOOK_WORKER_RETAIN_EVENTS"),
    ],
)
def test_a_wrong_retention_names_its_source(flags: dict[str, str | None], environ: dict[str, str], source: str) -> None:
    """Where it was read, and what may be written instead."""
    with pytest.raises(ConfigurationError, match=f"^{source}: .*like 90s, 15m, 1.5h or 2d12h, and not 'never'$"):
        read_retention(flags, environ)


def test_the_key_ring_comes_from_a_file(tmp_path: Path) -> None:
    """The variable names one; else the credential `key` is one; else there is none. No flag: everybody can read those."""
    (tmp_path / "key").write_text(new_line("credential"))
    (tmp_path / "ring").write_text(new_line("file"))
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert "credential" == read_key_ring(credentials).sealing
    assert "file" == read_key_ring({**credentials, "WEBHOOK_WORKER_KEY_FILE": str(tmp_path / "ring")}).sealing
    assert not read_key_ring({"CREDENTIALS_DIRECTORY": str(tmp_path / "other")})


def test_a_bad_key_file_is_named(tmp_path: Path) -> None:
    """With the way to make a good one, and without what it holds."""
    (tmp_path / "key").write_text("canary")

    with pytest.raises(ConfigurationError, match=r"key: line 1 is no name.*keys new NAME") as caught:
        read_key_ring({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "canary" not in str(caught.value)
    (tmp_path / "key").write_text("# " + "x" * 8192)
    with pytest.raises(ConfigurationError, match="it is longer than 8192 bytes"):
        read_key_ring({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_key_ring({"WEBHOOK_WORKER_KEY_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9090", "127.0.0.1", 9090),
        ("localhost:0", "localhost", 0),
        ("[::1]:9090", "::1", 9090),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
    ],
)
def test_an_address_to_listen_on_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    """By flag or environment; and it is shown as it was written."""
    assert ListenAddress(host, port) == read_metrics_listen(text, {"WEBHOOK_WORKER_METRICS_LISTEN": "other:1"})
    assert ListenAddress(host, port) == read_metrics_listen(None, {"WEBHOOK_WORKER_METRICS_LISTEN": text})
    assert text == str(ListenAddress(host, port))


def test_metrics_are_off_unless_asked_for() -> None:
    """An empty variable asks for nothing."""
    assert read_metrics_listen(None, {"WEBHOOK_WORKER_METRICS_LISTEN": ""}) is None
    assert 0 == read_metrics_endpoints(None, {"WEBHOOK_WORKER_METRICS_ENDPOINTS": ""})
    assert 20 == read_metrics_endpoints(None, {"WEBHOOK_WORKER_METRICS_ENDPOINTS": "20"})
    assert 5 == read_metrics_endpoints(5, {"WEBHOOK_WORKER_METRICS_ENDPOINTS": "20"})


@pytest.mark.parametrize(
    "text", ["9090", ":9090", "host", "host:", "host:65536", "::1:9090", "[::1]", "host:90 90", "http://host:90"]
)
def test_a_bad_address_to_listen_on_names_its_source(text: str) -> None:
    """And says how to write one."""
    with pytest.raises(
        ConfigurationError, match=r"^--metrics-listen .* write host:port, as in 127.0.0.1:9091 or \[::1\]:9091$"
    ):
        read_metrics_listen(text, {})
    with pytest.raises(ConfigurationError, match=r"^WEBHOOK_WORKER_METRICS_LISTEN "):
        read_metrics_listen(None, {"WEBHOOK_WORKER_METRICS_LISTEN": text})


@pytest.mark.parametrize("text", ["-1", "1001", "some"])
def test_a_bad_number_of_endpoints_is_refused(text: str) -> None:
    """The variable is named, and the bounds."""
    with pytest.raises(ConfigurationError, match=r"^WEBHOOK_WORKER_METRICS_ENDPOINTS is .*; write a number from 0 to 1000"):
        read_metrics_endpoints(None, {"WEBHOOK_WORKER_METRICS_ENDPOINTS": text})


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_traces_are_made_if_a_collector_is_named(environ: dict[str, str], wanted: bool) -> None:
    assert wanted == is_tracing_wanted(environ)


def test_another_exporter_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER is 'zipkin'; write otlp or none"):
        is_tracing_wanted({"OTEL_TRACES_EXPORTER": "zipkin"})


def test_a_choice_is_the_flag_s_then_the_environment_s() -> None:
    choices, environ = ("text", "json"), {"WEBHOOK_WORKER_LOG_FORMAT": "json"}

    assert ["text", "json", None] == [
        read_choice("log-format", choices, "text", environ),
        read_choice("log-format", choices, None, environ),
        read_choice("log-format", choices, None, {}),
    ]
    with pytest.raises(ConfigurationError, match="--log-format is 'xml'"):
        read_choice("log-format", choices, "xml", environ)
