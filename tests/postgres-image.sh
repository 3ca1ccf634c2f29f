#!/bin/sh
# Make a local image of Debian's PostgreSQL 15 that starts as the official image does, for `PG=docker:IMAGE` and
# `make compose` where no registry can be reached: sh tests/postgres-image.sh [IMAGE]
set -eu
image=${1:-cc-postgres:15}
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
programs=/usr/lib/postgresql/15/bin
wanted='-name initdb -o -name postgres -o -name psql -o -name pg_ctl -o -name pg_isready -o -name *.so'
whole="$(set -f; find $programs /usr/lib/postgresql/15/lib -type f \( $wanted \)) /bin/sh /bin/cat"
libraries=$(ldd $whole 2>/dev/null | grep -o '/[^ :)]*' | grep '\.so' | sort -u)
for file in $whole $libraries; do
  mkdir -p "$root$(dirname "$file")"
  cp -L "$file" "$root$file"
done
mkdir -p "$root/usr/share/postgresql" "$root/tmp" "$root/etc" "$root/var/run/postgresql" "$root/var/lib/postgresql/data"
cp -r /usr/share/postgresql/15 "$root/usr/share/postgresql/"
cp -rL /usr/share/zoneinfo "$root/usr/share/"
chmod 1777 "$root/tmp" "$root/var/run/postgresql"
chown 999:999 "$root/var/lib/postgresql/data"
echo 'postgres:x:999:999::/tmp:/bin/sh' >"$root/etc/passwd"
echo 'postgres:x:999:' >"$root/etc/group"
cat >"$root/entrypoint.sh" <<'END'
#!/bin/sh
set -e
run() {
  case $1 in
    *.sql) psql -v ON_ERROR_STOP=1 -q -U postgres -f "$1" ;;
    *.sh) sh "$1" ;;
  esac
}
[ -e "$PGDATA/PG_VERSION" ] || {
  initdb -D "$PGDATA" -U postgres -A trust -E UTF8 --locale=C \
    ${POSTGRES_PASSWORD_FILE:+"--pwfile=$POSTGRES_PASSWORD_FILE"} >&2
  echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=" start >&2
  for file in /docker-entrypoint-initdb.d/*; do
    [ ! -e "$file" ] || run "$file" >&2
  done
  pg_ctl -D "$PGDATA" -w -m fast stop >&2
}
exec "$@" -c "listen_addresses=*"
END
chmod 755 "$root/entrypoint.sh"
tar -C "$root" -c . | docker import -c "ENV PATH=$programs:/bin" -c 'ENV PGDATA=/tmp/data' -c 'USER postgres' \
  -c 'ENTRYPOINT ["/entrypoint.sh"]' -c 'CMD ["postgres"]' -c 'EXPOSE 5432' - "$image"
