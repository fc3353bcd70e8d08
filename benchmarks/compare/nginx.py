"""The receiver of the comparison: nginx, one process, keep-alive, 200 to everything, a log with the moment of each request."""

import http.client
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.compare.installed import debian
from benchmarks.compare.ports import free_port, wait_for_port

CONFIGURATION = """
daemon off;
worker_processes 1;
user {user};
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    log_format arrival '$msec $http_webhook_id';
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 60s;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ access_log {folder}/arrivals arrival buffer=64k flush=100ms; return 200 "ok"; }}
        location = /status {{ stub_status; }}
    }}
}}
"""


class Nginx:
    """A running nginx."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.folder, self._log, self._asked = port, log.parent, log, 0

    @property
    def prefix(self) -> str:
        """The beginning of every receiver's URL."""
        return f"http://127.0.0.1:{self.port}/h/"

    def count(self) -> int:
        """Return how many requests it has answered since it started."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)  # a kept one is closed while others prepare for long
        connection.request("GET", "/status")
        answer = connection.getresponse().read().decode()
        connection.close()
        self._asked += 1
        found = re.search(r"requests\s+\d+ \d+ (\d+)", answer)
        assert found, answer
        return int(found[1]) - self._asked

    def arrivals(self, offset: int) -> dict[str, float]:
        """Return, from this byte of the log on and by `webhook-id`, when its first request was answered: Unix seconds."""
        first: dict[str, float] = {}
        with self._log.open() as log:
            log.seek(offset)
            for line in log:
                moment, _, message = line.rstrip("\n").partition(" ")
                first.setdefault(message, float(moment))
        return first

    def logged(self) -> int:
        """Return the length of the log in bytes."""
        return self._log.stat().st_size


@contextmanager
def nginx(folder: Path) -> Iterator[Nginx]:
    """Run one that keeps its files in `folder`."""
    port, configuration = free_port(), folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(user=pwd.getpwuid(os.geteuid()).pw_name, folder=folder, port=port))
    command = [debian("nginx", "nginx-light"), "-q", "-p", str(folder), "-c", str(configuration), "-e", str(folder / "errors")]
    with subprocess.Popen(command) as process:
        try:
            wait_for_port(port)
            yield Nginx(port, folder / "arrivals")
        finally:
            process.terminate()
