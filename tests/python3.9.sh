#!/bin/sh
# Unpack Debian 11's Python 3.9 into a folder, beside whatever is installed: the oldest Python that the verifier runs on.
set -eu
into=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/cc-python.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
mkdir -p "$into" "$work/lists/partial" "$work/cache/archives/partial"
into=$(cd "$into" && pwd)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] http://deb.debian.org/debian bullseye main" >"$work/bullseye.list"
cd "$work"
for step in update "download python3.9-minimal libpython3.9-minimal libpython3.9-stdlib"; do
  # shellcheck disable=SC2086  # a step is a word and its packages
  apt-get -qq -o Dir::Etc::sourcelist="$work/bullseye.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root $step
done
for package in *.deb; do dpkg-deb -x "$package" "$into"; done
"$into/usr/bin/python3.9" -I -c 'import hashlib, json, zipfile, zlib'
