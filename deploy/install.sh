#!/usr/bin/env bash
# Puts workers in place under systemd (252 or newer), as root; again at any time, to upgrade them or to add instances.
#   deploy/install.sh [--units-only] [INSTANCE …]     default: those that there are, or 1. Names like pypy-1 run on PyPy
#   deploy/install.sh --uninstall                     settings, credentials and drop-ins of your own stay
# What goes where: environments into /opt/webhook-worker/{cpython,pypy}, units into /etc/systemd/system, settings into
# /etc/webhook-worker, credentials into /etc/credstore, the command into /usr/local/bin, and what lets shells complete it into
# /usr/local/share. It starts nothing.
# PYTHON names a CPython 3.11 or newer that every user may run (default /usr/bin/python3), PYPY a PyPy 3.11.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
units=/etc/systemd/system opt=/opt/webhook-worker settings=/etc/webhook-worker
shells=(/usr/local/share/{bash-completion/completions/webhook-worker,zsh/site-functions/_webhook-worker,fish/vendor_completions.d/webhook-worker.fish})
fail() { echo "install.sh: $*" >&2; exit 1; }
reload() { [ ! -d /run/systemd/system ] || systemctl daemon-reload; }

with_python=yes instances=()
for argument; do
    case $argument in
        --uninstall)
            [ ! -d /run/systemd/system ] || systemctl stop webhook-worker.target 'webhook-worker@*.service' || true  # not there
            rm -rf "$units"/webhook-worker{@.service,.target,.target.wants} "$units"/multi-user.target.wants/webhook-worker.target
            for pypy in "$units"/webhook-worker@*.service.d/pypy.conf; do
                [ ! -e "$pypy" ] || { rm "$pypy"; rmdir --ignore-fail-on-non-empty "${pypy%/*}"; }
            done
            rm -rf "$opt" /usr/local/bin/webhook-worker "${shells[@]}"
            reload
            echo "uninstalled; $settings, /etc/credstore/webhook-worker.* and drop-ins of your own are still there"
            exit ;;
        --units-only) with_python=no ;;
        -*) fail "unknown option $argument: see the first lines of this file" ;;
        ????????????????????????*) fail "$argument is longer than 23 characters: with webhook- before it, it names a user" ;;
        *[!a-zA-Z0-9-]*) fail "$argument is no name for an instance: letters, digits and dashes" ;;
        *) instances+=("$argument") ;;
    esac
done
if [ ${#instances[@]} = 0 ]; then
    for link in "$units"/webhook-worker.target.wants/webhook-worker@*.service; do
        [ ! -L "$link" ] || { link=${link##*@}; instances+=("${link%.service}"); }
    done
    [ ${#instances[@]} -gt 0 ] || instances=(1)
fi
[ "$(id -u)" = 0 ] || fail "needs root"
umask 022

fill() {  # installs this project into an environment, with what it was tested with
    local pip=("$opt/cpython/bin/python" -m pip --python "$1/bin/python" --disable-pip-version-check --quiet)
    "${pip[@]}" install --require-hashes --requirement "$here/requirements.lock"
    "${pip[@]}" install --no-deps --force-reinstall "$here/.."
}

make_cpython() {
    local python=${PYTHON:-/usr/bin/python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11: name another, PYTHON=…"
    "$python" -m venv "$opt/cpython" || fail "$python makes no environment (Debian: apt install python3-venv)"
    fill "$opt/cpython"
}

make_pypy() {
    local pypy=${PYPY:-$(command -v pypy3.11 || echo "$opt/pypy-runtime/usr/bin/pypy3.11")}
    ldconfig -p | grep -q 'libpq\.so\.5' || fail "PyPy's driver needs libpq (Debian: apt install libpq5)"
    command -v gcc >/dev/null || fail "some packages are compiled for PyPy (Debian: apt install gcc libc6-dev)"
    if [ ! -x "$pypy" ]; then
        grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release || fail "no PyPy 3.11: install one, and name it, PYPY=…"
        "$here/pypy-on-debian12.sh" "$opt/pypy-runtime"
    fi
    "$pypy" -m venv --without-pip "$opt/pypy"
    fill "$opt/pypy"
}

if [ $with_python = yes ]; then
    mkdir -p "$opt"
    make_cpython
    case " ${instances[*]} " in *' pypy-'*) make_pypy ;; *) [ ! -e "$opt/pypy" ] || make_pypy ;; esac  # all of one release
    ln -sfn "$opt/cpython/bin/webhook-worker" /usr/local/bin/webhook-worker
    for script in "${shells[@]}"; do
        case $script in *.fish) shell=fish ;; */_*) shell=zsh ;; *) shell=bash ;; esac
        install -D -m 644 /dev/stdin "$script" < <("$opt/cpython/bin/webhook-worker" completion $shell)
    done
fi

install -m 644 "$here/systemd/webhook-worker@.service" "$here/systemd/webhook-worker.target" "$units"
install -d "$settings"
install -d -m 700 /etc/credstore
for example in limits.toml environment; do
    [ -e "$settings/$example" ] || install -m 644 "$here/systemd/$example" "$settings"
done
for instance in "${instances[@]}"; do
    case $instance in pypy-*) install -D -m 644 "$here/systemd/pypy.conf" "$units/webhook-worker@$instance.service.d/pypy.conf" ;; esac
    if [ ! -e "$settings/$instance.env" ]; then
        port=9101
        while grep -qs "METRICS_LISTEN=.*:$port\$" "$settings"/*.env; do port=$((port + 1)); done
        echo "WEBHOOK_WORKER_METRICS_LISTEN=127.0.0.1:$port" > "$settings/$instance.env"
    fi
done
reload
systemctl enable --quiet webhook-worker.target "${instances[@]/#/webhook-worker@}"

if [ ! -e /etc/credstore/webhook-worker.database_url ]; then
    echo "next: the database's URL, like postgresql://user:password@host:5432/name, into /etc/credstore/webhook-worker.database_url,"
    echo "      with mode 600, and webhook-worker migrate up"
fi
echo "then: systemctl start webhook-worker.target; of running instances: systemctl restart, one after the other"
