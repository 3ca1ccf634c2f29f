#!/bin/sh
# Make the secrets of compose.yaml in secrets/, once: what is there stays. Compose hands files over as they are, so the
# ones that uid 10001 (ccserver) or 999 (postgres) reads are readable in a folder that only root enters.
set -eu
cd "$(dirname "$0")"
mkdir -p -m 0700 secrets
word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in postgres owner server backup; do
  [ -e "secrets/$name-password" ] || word >"secrets/$name-password"
done
url() { printf 'postgresql://cc_%s:%s@database/central_command' "$1" "$(cat "secrets/$1-password")"; }
[ -e secrets/database-url ] || url server >secrets/database-url
[ -e secrets/database-owner-url ] || url owner >secrets/database-owner-url
[ -e secrets/database-backup-url ] || url backup >secrets/database-backup-url
chmod 0444 secrets/*
