"""The PostgreSQL roles of Central Command and the rights of a database, as SQL that may run again.

cc_owner owns the schema and runs migrations; cc_server is all the server ever is; cc_backup reads past row security;
cc_platform and cc_credential cannot log in and are entered by SET LOCAL ROLE. No membership is inherited: a
connection that entered no role has the rights of none. Passwords are the administrator's to set.
"""

import re

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_ROLES = {
    "cc_owner": "LOGIN NOINHERIT",
    "cc_server": "LOGIN NOINHERIT",
    "cc_backup": "LOGIN BYPASSRLS",
    "cc_platform": "NOLOGIN",
    "cc_credential": "NOLOGIN",
}
_MEMBERS = {"cc_platform": "cc_owner, cc_server", "cc_credential": "cc_server"}
# Until 15 a database's owner has its rights on the schema by inheritance alone, and a role inherits from all it is a
# member of or from none. So the owner inherits there, and a role that does not stands between it and the platform.
_BEFORE_16 = """
    DO $do$ BEGIN IF current_setting('server_version_num')::int < 160000 THEN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cc_between') THEN
            CREATE ROLE cc_between NOLOGIN NOINHERIT;
        END IF;
        REVOKE cc_platform FROM cc_owner;
        GRANT cc_platform TO cc_between;
        GRANT cc_between TO cc_owner;
        ALTER ROLE cc_owner INHERIT;
    END IF; END $do$
"""


def statements() -> list[str]:
    """Return the SQL, one statement each, that makes the roles on PostgreSQL 15 to 18; a superuser runs it."""
    creations = [_create(name, attributes) for name, attributes in _ROLES.items()]
    return creations + [_grant(role, members) for role, members in _MEMBERS.items()] + [_BEFORE_16]


def database_statements(name: str, template: str | None = None) -> list[str]:
    """Return the SQL that creates a database of cc_owner which only our roles may enter.

    Run each outside a transaction, as superuser. `template` is a database that nobody is connected to. ValueError
    when a name is not lower-case letters, digits and underscores (at most 63).
    """
    for each in filter(None, (name, template)):
        if _NAME.fullmatch(each) is None:
            raise ValueError(f"not a database's name here: {each[:80]!r}")
    copied = f' TEMPLATE "{template}"' if template else ""
    return [
        f'CREATE DATABASE "{name}" OWNER cc_owner{copied}',
        f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',  # an ACL is not copied from a template
        f'GRANT CONNECT ON DATABASE "{name}" TO cc_server, cc_backup',
    ]


def _create(name: str, attributes: str) -> str:
    """CREATE ROLE has no IF NOT EXISTS."""
    return (
        f"DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') "
        f"THEN CREATE ROLE {name} {attributes}; END IF; END $do$"
    )


def _grant(role: str, members: str) -> str:
    """Up to 15 the member's NOINHERIT decides; from 16 on each grant does, and says it, whoever made the member."""
    return (
        "DO $do$ BEGIN IF current_setting('server_version_num')::int >= 160000 "
        f"THEN EXECUTE 'GRANT {role} TO {members} WITH INHERIT FALSE, SET TRUE'; "
        f"ELSE GRANT {role} TO {members}; END IF; END $do$"
    )
