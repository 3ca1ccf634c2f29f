"""What a backup reads and a restore writes beside COPY: the catalogue, and what hinders a row from its place.

No tenant's scope: the backup's role reads past row security, and a restore's is the owner of an empty database.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccserver.scope import Connection


@dataclass(frozen=True)
class Relation:
    """A table with the columns that are stored, and the tables that it refers to."""

    name: str
    columns: list[str]
    refers_to: list[str]


@dataclass(frozen=True)
class Stored:
    """A log's place and what its receipt is made from."""

    site_id: str
    id: int
    checkpoint: str
    witness_name: str
    cosigned_at: int


async def make_plain(conn: "Connection") -> None:
    """Have values written the same whatever the session's settings are, nothing cut short, nothing hidden."""
    await conn.fetchval(
        """
        SELECT set_config('row_security', 'off', true), set_config('statement_timeout', '0', true),
               set_config('idle_in_transaction_session_timeout', '0', true), set_config('lock_timeout', '0', true),
               set_config('datestyle', 'ISO', true), set_config('timezone', 'UTC', true),
               set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true),
               set_config('intervalstyle', 'postgres', true), set_config('search_path', 'public', true)
        """
    )


async def relations(conn: "Connection") -> list[Relation]:
    """Return every table of ours but the migrations' ledger, by name."""
    rows = await conn.fetch(
        """
        SELECT c.relname AS name,
               (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns,
               array(SELECT DISTINCT f.confrelid::regclass::text FROM pg_constraint f
                     WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid) AS refers_to
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'schema_migrations'
        ORDER BY c.relname
        """
    )
    return [Relation(row["name"], list(row["columns"]), list(row["refers_to"])) for row in rows]


async def receipted(conn: "Connection", after: tuple[str, int], limit: int) -> list[Stored]:
    """Return the next logs with a receipt, in order of site and log."""
    rows = await conn.fetch(
        """
        SELECT site_id, id, checkpoint, witness_name, cosigned_at
        FROM evidence_logs
        WHERE (site_id, id) > ($1, $2) AND cosigned_at IS NOT NULL AND checkpoint IS NOT NULL
        ORDER BY site_id, id
        LIMIT $3
        """,
        *after,
        limit,
    )
    return [Stored(**row) for row in rows]


async def is_empty(conn: "Connection") -> bool:
    """Whether the database has no table, sequence or view of anybody's in its public schema."""
    found: bool = await conn.fetchval(
        "SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
    )
    return found


async def may_create_databases(conn: "Connection") -> bool:
    """Whether the session's role may make a database."""
    found: bool = await conn.fetchval("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
    return found


async def open_tables(conn: "Connection") -> None:
    """Let the owner put rows in their places: no row security for it, no trigger, no row that migrations put there.

    Lasts until `close_tables`, in the same transaction. Foreign keys and CHECKs stay.
    """
    await conn.execute(
        """
        DO $block$
        DECLARE
            tables regclass[] := array(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace
                                       AND relkind = 'r' AND relname <> 'schema_migrations');
            t regclass;
        BEGIN
            FOREACH t IN ARRAY tables LOOP
                EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', t);
                EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', t);
            END LOOP;
            EXECUTE 'TRUNCATE ' || array_to_string(tables, ', ');
        END
        $block$
        """
    )


async def close_tables(conn: "Connection") -> None:
    """Lock every table as it was, and let every identity go on after the highest that is there.

    Tables without row security keep none.
    """
    await conn.execute(
        """
        DO $block$
        DECLARE
            t regclass;
            c record;
        BEGIN
            SET CONSTRAINTS ALL IMMEDIATE;
            FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                     AND relname <> 'schema_migrations'
            LOOP
                EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', t);
            END LOOP;
            FOR c IN SELECT a.attrelid::regclass AS t, a.attname AS name FROM pg_attribute a
                     JOIN pg_class r ON r.oid = a.attrelid
                     WHERE r.relnamespace = 'public'::regnamespace AND r.relkind = 'r' AND a.attidentity <> ''
                       AND NOT a.attisdropped
            LOOP
                EXECUTE format('SELECT setval(pg_get_serial_sequence(%L, %L), coalesce(max(%I), 0) + 1, false) FROM %s',
                               c.t, c.name, c.name, c.t);
            END LOOP;
            FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                     AND relrowsecurity
            LOOP
                EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
            END LOOP;
        END
        $block$
        """
    )


async def forget_sessions(conn: "Connection") -> None:
    """Let nobody be signed in whose session ended since the backup: all sign in again."""
    await conn.execute("DELETE FROM sessions")


async def analyse(conn: "Connection") -> None:
    """Have PostgreSQL count what is there now, so that it plans as it did."""
    await conn.execute("ANALYZE")
