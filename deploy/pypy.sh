#!/usr/bin/env bash
# Makes a virtual environment on PyPy 3.11 with this project in it.
#   deploy/pypy.sh ENVIRONMENT         PYPY=/path/to/pypy3.11 names the interpreter
# Needs libpq (psycopg loads it) and gcc (some packages build from source). Where no PyPy 3.11 is found, Debian 12 with
# root and apt gets one unpacked beside the environment; elsewhere install one from your distribution or pypy.org.
set -euo pipefail
environment=${1:?environment}
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

is_pypy311() { "$1" -c 'import sys; sys.exit(sys.implementation.name != "pypy" or sys.version_info[:2] != (3, 11))' 2>/dev/null; }

apt_install() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
    else
        echo "make pypy needs $*: install them, or run as root on Debian" >&2
        exit 1
    fi
}

if [ -n "${PYPY:-}" ]; then
    is_pypy311 "$PYPY" || { echo "PYPY=$PYPY is not a PyPy 3.11" >&2; exit 1; }
else
    for candidate in pypy3.11 pypy3 "$root/.pypy/usr/bin/pypy3.11"; do
        if command -v "$candidate" >/dev/null && is_pypy311 "$candidate"; then PYPY=$(command -v "$candidate"); break; fi
    done
fi
if [ -z "${PYPY:-}" ]; then
    if [ "$(id -u)" = 0 ] && grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release; then
        "$here/pypy-on-debian12.sh" "$root/.pypy"
        PYPY=$root/.pypy/usr/bin/pypy3.11
    else
        echo "no PyPy 3.11 found: install one (Debian 13+: apt install pypy3; or pypy.org) and name it, as in" >&2
        echo "  make PYPY=/path/to/pypy3.11 pypy" >&2
        exit 1
    fi
fi
ldconfig -p 2>/dev/null | grep -q 'libpq\.so\.5' || apt_install libpq5
command -v gcc >/dev/null || apt_install gcc libc6-dev
LIBSODIUM_MAKE_ARGS=-j$(nproc)  # PyNaCl compiles the libsodium that it brings along: a minute
export LIBSODIUM_MAKE_ARGS

"$PYPY" -m venv --without-pip "$environment"  # Debian's PyPy has no ensurepip: CPython's pip fills it
# Newer hypothesis needs Rust to build; its last pure-Python wheel serves.
"$root/.venv/bin/python" -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check \
    --only-binary hypothesis --editable "$root[dev]"
"$environment/bin/python" --version
