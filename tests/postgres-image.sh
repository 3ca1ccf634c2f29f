#!/bin/sh
# Make a local image of Debian's PostgreSQL 15 that starts as the official image does, for `PG=docker:IMAGE` where no
# registry can be reached: sh tests/postgres-image.sh [IMAGE]
set -eu
image=${1:-cc-postgres:15}
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
programs=/usr/lib/postgresql/15/bin
whole="$(find $programs /usr/lib/postgresql/15/lib -type f \( -name initdb -o -name postgres -o -name '*.so' \)) /bin/sh"
libraries=$(ldd $whole 2>/dev/null | grep -o '/[^ :)]*' | grep '\.so' | sort -u)
for file in $whole $libraries; do
  mkdir -p "$root$(dirname "$file")"
  cp -L "$file" "$root$file"
done
mkdir -p "$root/usr/share/postgresql" "$root/tmp" "$root/etc" "$root/var/run/postgresql"
cp -r /usr/share/postgresql/15 "$root/usr/share/postgresql/"
cp -rL /usr/share/zoneinfo "$root/usr/share/"
chmod 1777 "$root/tmp" "$root/var/run/postgresql"
echo 'postgres:x:999:999::/tmp:/bin/sh' >"$root/etc/passwd"
echo 'postgres:x:999:' >"$root/etc/group"
cat >"$root/entrypoint.sh" <<'END'
#!/bin/sh
set -e
[ -e "$PGDATA/PG_VERSION" ] || {
  initdb -D "$PGDATA" -U postgres -A trust -E UTF8 --locale=C >&2
  echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
}
exec "$@" -c "listen_addresses=*"
END
chmod 755 "$root/entrypoint.sh"
tar -C "$root" -c . | docker import -c "ENV PATH=$programs:/bin" -c 'ENV PGDATA=/tmp/data' -c 'USER postgres' \
  -c 'ENTRYPOINT ["/entrypoint.sh"]' -c 'CMD ["postgres"]' -c 'EXPOSE 5432' - "$image"
