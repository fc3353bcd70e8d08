"""The same with a fuzzer that learns from coverage, for as long as anybody likes. `make fuzz` runs it (CPython only).

python tests/socket/fuzz_urls.py [libFuzzer's options, like -max_total_time=60]
"""

import sys

import atheris

with atheris.instrument_imports(include=["worker.core", "worker.http"]):
    from connects import Loop, connections, is_denied

    from worker.core.headers import check_headers

LOOP = Loop()
HOSTS = ["8.8.8.8", "127.0.0.1", "::ffff:10.0.0.1", "2606:4700::1111"]


def one(data: bytes) -> None:
    """Deliver to `http://` and the text, where names have the answers that the first byte says; check the text as a header."""
    text = data[1:].decode("utf-8", "replace")
    answers = [host for n, host in enumerate(HOSTS) if data[:1] and data[0] >> n & 1]
    for url in (text, f"http://{text}", f"https://{text}/"):
        denied = [asked for asked in connections(LOOP, url, answers) if is_denied(*asked)]
        assert not denied, (url, answers, denied)
    name, _, value = text.partition(":")
    try:
        check_headers({name: value})
    except ValueError:
        return
    line = f"{name}: {value}".encode("ascii")
    assert not set(line) & {0, 10, 13}, line


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
