#!/bin/sh
# Run once, by the database's image, after the roles were made.
set -eu
psql -v ON_ERROR_STOP=1 -q -U postgres \
  -v owner="$(cat /run/secrets/owner-password)" -v server="$(cat /run/secrets/server-password)" \
  -v backup="$(cat /run/secrets/backup-password)" <<'SQL'
ALTER ROLE cc_owner PASSWORD :'owner';
ALTER ROLE cc_server PASSWORD :'server';
ALTER ROLE cc_backup PASSWORD :'backup';
CREATE DATABASE central_command OWNER cc_owner;
REVOKE ALL ON DATABASE central_command FROM PUBLIC;
GRANT CONNECT ON DATABASE central_command TO cc_server, cc_backup;
SQL
