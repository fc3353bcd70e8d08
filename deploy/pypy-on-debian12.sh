#!/usr/bin/env bash
# Unpacks PyPy 3.11 into a prefix of its own on Debian 12, whose own pypy3 is Python 3.9: the packages of Debian's unstable
# suite, together with the C library that they need, so that nothing on the system changes. 10 s, 150 MB.
#   pypy-on-debian12.sh PREFIX        then: PREFIX/usr/bin/pypy3.11
set -euo pipefail
prefix=${1:?prefix}; suite=${SUITE:-sid}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,sources,prefs,debs}
# the machine's own Debian source, with another suite
sed -e "s/^Suites:.*/Suites: $suite/" -e '/^Types:/,$!d' /etc/apt/sources.list.d/debian.sources |
  awk 'BEGIN{RS=""} NR==1' >"$work/sources/debian.sources"
apt=(apt-get -qq -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/sources"
     -o "Dir::State::lists=$work/lists" -o "Dir::Etc::preferencesparts=$work/prefs" -o "APT::Sandbox::User=root")
"${apt[@]}" update
(cd "$work/debs" && "${apt[@]}" download pypy3 pypy3-lib pypy3-dev libc6 libgcc-s1 zlib1g libbz2-1.0 liblzma5 libzstd1 \
  libexpat1 libffi8 libgdbm6t64 libncursesw6 libtinfo6 libsqlite3-0 libssl3t64)
mkdir -p "$prefix"
for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$prefix"; done
command -v patchelf >/dev/null || apt-get -qq install -y patchelf
lib=$(cd "$prefix" && pwd)/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
loader=$(echo "$lib"/ld-linux*.so.*)
patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$lib" "$prefix/usr/bin/pypy3.11"
"$prefix/usr/bin/pypy3.11" --version
