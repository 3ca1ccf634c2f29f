"""The embedded PostgreSQL, with real servers, real owners that die, and real users where the runner is root."""

import asyncio
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import pytest

from ccserver import localpg, roles
from ccserver.errors import CentralCommandError

ROOT = os.geteuid() == 0
FREE_UID = next(uid for uid in range(54321, 60000) if uid not in {e.pw_uid for e in pwd.getpwall()})

# A process that owns a server until its standard input ends. As root it may first become another user; what it
# imports is loaded by then, so that user need not reach the interpreter. SIGINT is only told.
OWNER = """
import os, signal, sys
from pathlib import Path
from ccserver import localpg
from ccserver.errors import CentralCommandError

data_dir, uid, *site = sys.argv[1:]
sys.path[:0] = site
if int(uid) != os.geteuid():
    os.setgroups([]), os.setgid(int(uid)), os.setuid(int(uid))
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
try:
    with localpg.start(Path(data_dir), durable=False) as pg:
        print(pg.urls("postgres").admin, flush=True)
        sys.stdin.read()
except CentralCommandError as error:
    sys.exit(str(error))
"""

# A process whose connection is busy for a minute.
BUSY = """
import asyncio, sys, asyncpg

async def sleep():
    connection = await asyncpg.connect(sys.argv[1])
    print(await connection.fetchval("SELECT pg_backend_pid()"), flush=True)
    await connection.execute("SELECT pg_sleep(60)")

asyncio.run(sleep())
"""

# A process that asks a kernel-independent watcher to end another process with it.
WATCHER = """
import sys, time
from ccserver import localpg
watch = localpg._watch_pipe(int(sys.argv[1]))
print("watching", flush=True)
time.sleep(60)
"""

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def run_root() -> Iterator[Path]:
    """A short directory that every user may enter, in memory where there is some."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="cc-", dir=memory if os.access(memory, os.W_OK) else None) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def data_dir(run_root: Path) -> Path:
    return run_root / secrets.token_hex(3)


@pytest.fixture(scope="module")
def shared(run_root: Path) -> Iterator[localpg.LocalPostgres]:
    """One server for the tests that only ask."""
    with localpg.start(run_root / "shared", durable=False) as pg:
        yield pg


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start python programs in sessions of their own; whatever still runs afterwards is killed."""
    with ExitStack() as undo:

        def run(program: str, *arguments: object) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [sys.executable, "-c", program, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                cwd=Path(localpg.__file__).parents[1],
            )
            undo.enter_context(child)
            undo.callback(child.kill)
            return child

        yield run


def own(spawn: Spawn, data_dir: Path) -> tuple[subprocess.Popen[str], str, int]:
    """Let another process own a server; returns it, the superuser's URL and the pid of postgres."""
    owner = spawn(OWNER, data_dir, os.geteuid())
    assert owner.stdout is not None
    url = owner.stdout.readline().strip()
    return owner, url, int((data_dir / "pg18/postmaster.pid").read_text().split()[0])


def runs(pid: int) -> bool:
    return localpg._process(pid) != (None, "") and localpg._process(pid)[1] != ""


def gone_within(seconds: float, pid: int) -> bool:
    deadline = time.monotonic() + seconds
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


def ask(url: str, *statements: str) -> object:
    """Run statements in one transaction; returns the last one's value."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                return [await connection.fetchval(each) for each in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def one_sentence(error: BaseException | str) -> bool:
    return "\n" not in str(error).strip() and str(error).strip().endswith(".")


# A server


def test_a_started_server_answers_over_its_socket(shared: localpg.LocalPostgres) -> None:
    assert ask(shared.urls("postgres").admin, "SELECT 1") == 1
    assert shared.major == 18


def test_a_server_that_may_lose_data_says_so(shared: localpg.LocalPostgres) -> None:
    url = shared.urls("postgres").server
    assert ask(url, "SHOW cc.test_database") == "on"
    assert [ask(url, f"SHOW {name}") for name in ("fsync", "full_page_writes")] == ["off"] * 2


def test_a_durable_server_keeps_what_it_commits(data_dir: Path) -> None:
    with localpg.start(data_dir) as pg:
        names = ("fsync", "full_page_writes", "synchronous_commit")
        assert [ask(pg.urls("postgres").admin, f"SHOW {name}") for name in names] == ["on"] * 3
        assert ask(pg.urls("postgres").admin, "SELECT current_setting('cc.test_database', true)") is None


def test_nothing_listens_but_a_short_socket_in_a_private_directory(
    shared: localpg.LocalPostgres,
) -> None:
    url = shared.urls("postgres").admin
    assert ask(url, "SHOW listen_addresses") == ""
    directory = Path(str(ask(url, "SHOW unix_socket_directories")))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(os.fsencode(directory / ".s.PGSQL.5432")) <= 107


def test_only_the_socket_is_let_in(shared: localpg.LocalPostgres) -> None:
    rules = "SELECT string_agg(type || database[1] || user_name[1] || auth_method, ',') FROM pg_hba_file_rules"
    assert ask(shared.urls("postgres").admin, rules) == "localallalltrust"


def test_a_path_too_long_for_a_socket_still_works(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100) / ("e" * 100)
    with localpg.start(deep, durable=False) as pg:
        socket = Path(str(ask(pg.urls("postgres").admin, "SHOW unix_socket_directories")))
        assert len(os.fsencode(socket)) < 90
    assert not socket.exists()


def test_stop_leaves_no_process_no_socket_and_no_claim(data_dir: Path) -> None:
    pg = localpg.start(data_dir, durable=False)
    pid = int((data_dir / "pg18/postmaster.pid").read_text().split()[0])
    pg.stop()
    pg.stop()
    assert not runs(pid)
    assert not (data_dir / "run").exists()
    assert (data_dir / "lock").read_bytes() == b""


def test_progress_is_told_and_making_the_database_is_said_once(data_dir: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        localpg.start(data_dir, durable=False, progress=said.append).stop()
    assert [each.split()[0] for each in said] == ["making", "starting", "starting"]


def test_a_start_from_another_thread_is_refused_because_the_server_would_end_with_it(
    data_dir: Path,
) -> None:
    raised: list[str] = []

    def attempt() -> None:
        try:
            localpg.start(data_dir)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in raised[0]


def test_a_server_that_cannot_start_says_why_and_lets_go(data_dir: Path) -> None:
    localpg.start(data_dir, durable=False).stop()
    (data_dir / "pg18/global/pg_control").unlink()
    for _ in range(2):  # the second finds no lock
        with pytest.raises(localpg.StartFailedError, match=r"pg_control.*postgres.log"):
            localpg.start(data_dir, durable=False)


# Who owns it


def test_a_second_start_says_who_owns_the_database(spawn: Spawn, data_dir: Path) -> None:
    owner, _, _ = own(spawn, data_dir)
    with pytest.raises(localpg.OwnedError, match=f"process {owner.pid};") as refused:
        localpg.start(data_dir)
    assert one_sentence(refused.value)


def test_an_attached_server_answers_and_outlives_whoever_attached(spawn: Spawn, data_dir: Path) -> None:
    owner, url, _ = own(spawn, data_dir)
    with localpg.attach_or_start(data_dir) as pg:
        assert pg.owner_pid == owner.pid
        assert pg.urls("postgres").admin == url
        assert ask(pg.urls("postgres").server, "SELECT 1") == 1
    assert ask(url, "SELECT 1") == 1


def test_attaching_waits_for_a_server_that_is_only_starting(spawn: Spawn, data_dir: Path) -> None:
    owner = spawn(OWNER, data_dir, os.geteuid())
    while not (data_dir / "lock").exists():
        time.sleep(0.01)
    with localpg.attach_or_start(data_dir, durable=False) as pg:
        assert pg.owner_pid == owner.pid
        assert ask(pg.urls("postgres").server, "SELECT 1") == 1


def test_attaching_starts_the_server_when_nobody_owns_it(data_dir: Path) -> None:
    with localpg.attach_or_start(data_dir, durable=False) as pg:
        assert pg.owner_pid == os.getpid()


def test_a_server_dies_with_its_owner_and_the_next_start_works(spawn: Spawn, data_dir: Path) -> None:
    owner, _, pid = own(spawn, data_dir)
    owner.kill()
    assert gone_within(5, pid)
    with localpg.start(data_dir, durable=False) as pg:
        assert ask(pg.urls("postgres").admin, "SELECT 1") == 1


def test_a_start_waits_for_the_backends_of_a_server_that_was_killed(spawn: Spawn, data_dir: Path) -> None:
    owner, url, pid = own(spawn, data_dir)
    busy = spawn(BUSY, url)
    assert busy.stdout is not None
    backend = int(busy.stdout.readline())
    os.kill(backend, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    owner.kill()
    waker = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.7; kill -CONT {backend}"])
    with waker, localpg.start(data_dir, durable=False) as pg:
        assert not runs(backend)
        assert ask(pg.urls("postgres").admin, "SELECT 1") == 1


def test_an_owner_killed_while_it_makes_the_database_hinders_nobody(spawn: Spawn, data_dir: Path) -> None:
    owner = spawn(OWNER, data_dir, os.geteuid())
    while not list(data_dir.glob("new-*/base")):
        time.sleep(0.005)
    owner.kill()
    owner.wait()
    with localpg.start(data_dir, durable=False) as pg:
        assert ask(pg.urls("postgres").admin, "SELECT 1") == 1


@contextmanager
def orphan(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that no living owner holds and whose owner's death it did not hear."""
    localpg.start(data_dir, durable=False).stop()
    place, account = localpg._locate(data_dir)
    program = str(localpg._programs(place, account, 18) / "postgres")
    command = [program, "-D", str(data_dir / "pg18"), "-c", "listen_addresses="]
    command += ["-c", f"unix_socket_directories={data_dir / 'pg18'}"]
    with subprocess.Popen(command, user=account.switch_uid, stderr=subprocess.DEVNULL) as child:
        pid_file = data_dir / "pg18/postmaster.pid"
        while not (pid_file.exists() and "ready" in pid_file.read_text()):
            time.sleep(0.01)
        try:
            yield child
        finally:
            child.kill()


def test_an_orphan_is_ended_and_its_database_taken_over(data_dir: Path) -> None:
    with orphan(data_dir) as left, localpg.start(data_dir, durable=False) as pg:
        assert left.wait(5) == 0  # a fast shutdown
        assert ask(pg.urls("postgres").admin, "SELECT 1") == 1


def test_a_zombie_is_dead_although_its_pid_file_names_it(data_dir: Path) -> None:
    with orphan(data_dir) as left:
        left.kill()  # and nobody waits for it
        with localpg.start(data_dir, durable=False) as pg:
            assert ask(pg.urls("postgres").admin, "SELECT 1") == 1
        os.kill(left.pid, 0)


def test_a_stranger_with_the_pid_of_a_dead_server_is_left_alone(data_dir: Path) -> None:
    localpg.start(data_dir, durable=False).stop()
    account = (data_dir / "pg18").stat()
    user = account.st_uid if ROOT else None
    with subprocess.Popen(["sleep", "60"], user=user) as stranger:
        try:
            (data_dir / "pg18/postmaster.pid").write_text(f"{stranger.pid}\n{data_dir}/pg18\n")
            localpg.start(data_dir, durable=False).stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_ctrl_c_reaches_the_owner_and_not_the_server(spawn: Spawn, data_dir: Path) -> None:
    owner, url, _ = own(spawn, data_dir)
    os.killpg(owner.pid, signal.SIGINT)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "interrupted\n"
    time.sleep(0.2)
    assert ask(url, "SELECT 1") == 1
    owner.communicate()
    assert owner.returncode == 0


def test_where_the_kernel_tells_nobody_a_pipe_ends_the_server_with_its_owner(spawn: Spawn) -> None:
    with subprocess.Popen(["env", "--default-signal=INT", "sleep", "60"]) as server:
        owner = spawn(WATCHER, server.pid)
        assert owner.stdout is not None
        assert owner.stdout.readline() == "watching\n"
        assert server.poll() is None
        owner.kill()
        assert server.wait(5) == -signal.SIGINT


# Versions


def test_a_database_keeps_its_major(data_dir: Path) -> None:
    localpg.start(data_dir, major=16, durable=False).stop()
    with localpg.start(data_dir, durable=False) as pg:
        assert pg.major == 16
        assert str(ask(pg.urls("postgres").admin, "SHOW server_version")).startswith("16.")
        assert_roles_must_be_entered(pg)
    with pytest.raises(localpg.MajorError, match="PostgreSQL 16 and stays so") as refused:
        localpg.start(data_dir, major=18)
    assert one_sentence(refused.value)


def test_a_database_of_a_newer_major_is_refused_in_a_sentence(data_dir: Path) -> None:
    (data_dir / "pg19").mkdir(parents=True)
    (data_dir / "pg19/PG_VERSION").write_text("19\n")
    if ROOT:
        nobody = pwd.getpwnam("nobody")
        os.chown(data_dir / "pg19", nobody.pw_uid, nobody.pw_gid)
    with pytest.raises(localpg.MajorError, match=r"PostgreSQL 19.* 16 and 18;") as refused:
        localpg.start(data_dir)
    assert one_sentence(refused.value)


def test_a_major_that_nobody_brings_is_refused(data_dir: Path) -> None:
    with pytest.raises(localpg.MajorError, match="does not bring PostgreSQL 17"):
        localpg.start(data_dir, major=17)


# Users


def test_the_server_never_runs_as_root(shared: localpg.LocalPostgres, run_root: Path) -> None:
    pid = int((run_root / "shared/pg18/postmaster.pid").read_text().split()[0])
    uid, _ = localpg._process(pid)
    assert uid == (run_root / "shared/pg18").stat().st_uid
    assert uid != 0
    assert ROOT or uid == os.geteuid()


def test_an_unprivileged_user_has_a_server_of_its_own(spawn: Spawn, run_root: Path) -> None:
    home = run_root / "home"
    home.mkdir()
    uid, site = os.geteuid(), []
    if ROOT:  # nobody may be unable to reach this environment, and has no root to copy it
        uid = pwd.getpwnam("nobody").pw_uid
        os.chown(home, uid, -1)
        site = [copy_wheel(run_root / "site")]
    owner = spawn(OWNER, home / "data", uid, *site)
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("postgresql://postgres@/postgres?host=")
    assert (home / "data/pg18").stat().st_uid == uid
    owner.communicate()
    assert owner.returncode == 0


def copy_wheel(site: Path) -> Path:
    wheel = localpg._wheel()
    left_out = shutil.ignore_patterns("include", "*.a", "pginstall")
    for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if source.exists():
            shutil.copytree(source, site / source.name, ignore=left_out)
    return site


def test_a_uid_without_a_name_gets_one_sentence_and_a_failure(spawn: Spawn, data_dir: Path) -> None:
    if not ROOT:  # only root can become a uid
        with pytest.raises(localpg.NoPasswdEntryError) as refused:
            localpg._account(FREE_UID)
        assert one_sentence(refused.value)
        return
    owner = spawn(OWNER, data_dir, FREE_UID)
    _, said = owner.communicate()
    assert owner.returncode == 1
    assert f"uid {FREE_UID} has no passwd entry" in said
    assert one_sentence(said)


def test_data_of_another_user_is_refused_in_a_sentence(spawn: Spawn, data_dir: Path) -> None:
    if not ROOT:  # no other user to be: a directory nobody may write stands for it
        data_dir.mkdir(mode=0o500)
        with pytest.raises(localpg.ForeignDataError) as refused:
            localpg.start(data_dir)
        assert one_sentence(refused.value)
        return
    localpg.start(data_dir, durable=False).stop()
    owner = spawn(OWNER, data_dir, pwd.getpwnam("nobody").pw_uid)
    _, said = owner.communicate()
    assert owner.returncode == 1
    assert "belongs to another user" in said
    assert one_sentence(said)


def test_behind_a_closed_directory_the_database_still_runs_and_no_mode_changes(
    data_dir: Path,
) -> None:
    data_dir.mkdir(mode=0o700)
    place, _ = localpg._locate(data_dir / "inner")
    try:
        with localpg.start(data_dir / "inner", durable=False) as pg:
            assert ask(pg.urls("postgres").admin, "SELECT 1") == 1
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert place.is_relative_to("/var/lib" if ROOT else data_dir)
        localpg.start(data_dir / "inner", durable=False).stop()
        assert [each.name for each in place.glob("pg[0-9]*")] == ["pg18"]
    finally:
        shutil.rmtree(place)


def test_programs_that_the_user_cannot_reach_are_copied_with_their_libraries(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = data_dir / "closed"
    copy_wheel(closed)
    if ROOT:  # else the user is ourselves, and reaches them
        closed.chmod(0o700)
    monkeypatch.syspath_prepend(str(closed))
    with localpg.start(data_dir / "data", durable=False) as pg:
        assert ask(pg.urls("postgres").admin, "SELECT 1") == 1
        assert pg.programs.is_relative_to(data_dir / "data/binaries" if ROOT else closed)


# Roles and databases


def assert_roles_must_be_entered(pg: localpg.LocalPostgres) -> None:
    """No right is inherited, and SET LOCAL ROLE gives it: NOINHERIT means it up to 15, the grant itself from 16 on."""
    urls = pg.urls("postgres")
    for url, role in (
        (urls.server, "cc_platform"),
        (urls.server, "cc_credential"),
        (urls.owner, "cc_platform"),
    ):
        assert ask(url, f"SELECT pg_has_role('{role}', 'USAGE')") is False
        assert ask(url, f"SET LOCAL ROLE {role}", "SELECT current_user::text") == role
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        ask(urls.owner, "SET LOCAL ROLE cc_credential")


def test_a_role_has_nothing_until_it_is_entered(shared: localpg.LocalPostgres) -> None:
    assert_roles_must_be_entered(shared)


def test_only_the_backup_role_passes_row_security_and_none_is_superuser(
    shared: localpg.LocalPostgres,
) -> None:
    mighty = "SELECT json_agg(rolname ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'cc%' AND "
    url = shared.urls("postgres").admin
    everything = "(rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication)"
    assert ask(url, mighty + everything) is None
    assert json.loads(str(ask(url, mighty + "rolbypassrls"))) == ["cc_backup"]
    heirless = mighty + "rolcanlogin AND NOT rolinherit"  # what decides up to PostgreSQL 15
    assert json.loads(str(ask(url, heirless))) == ["cc_owner", "cc_server"]
    assert json.loads(str(ask(url, mighty + "NOT rolcanlogin"))) == ["cc_credential", "cc_platform"]


def test_the_roles_can_be_made_again_and_an_inherited_grant_is_mended(
    shared: localpg.LocalPostgres,
) -> None:
    url = shared.urls("postgres").admin
    ask(url, "GRANT cc_platform TO cc_server WITH INHERIT TRUE")
    for statement in roles.statements():
        ask(url, statement)
    assert_roles_must_be_entered(shared)


def test_a_database_belongs_to_the_owner_and_lets_only_our_roles_in(
    shared: localpg.LocalPostgres,
) -> None:
    urls = shared.create_database("fresh")
    ask(urls.owner, "CREATE TABLE t (n int)")
    ask(urls.admin, "CREATE ROLE stranger LOGIN")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        ask(urls.server, "CREATE TABLE u (n int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        ask(urls.server, "CREATE TEMP TABLE u (n int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        ask(urls.server.replace("cc_server", "stranger"), "SELECT 1")


def test_a_clone_has_its_templates_tables_and_the_same_closed_door(
    shared: localpg.LocalPostgres,
) -> None:
    template = shared.create_database("template_a")
    ask(template.owner, "CREATE TABLE t AS SELECT 7 AS n")
    clone = shared.create_database("clone_a", template="template_a")
    assert ask(clone.owner, "SELECT n FROM t") == 7
    assert ask(clone.admin, "SELECT has_database_privilege('cc_platform', 'clone_a', 'CONNECT')") is False


def test_a_database_that_exists_is_told_and_a_strange_name_is_refused(
    shared: localpg.LocalPostgres,
) -> None:
    with pytest.raises(localpg.SqlFailedError, match="already exists"):
        shared.create_database("postgres")
    with pytest.raises(ValueError, match="not a database's name"):
        shared.create_database('x"; DROP ROLE cc_owner; --')


def test_an_errors_docstring_is_its_message() -> None:
    assert one_sentence(localpg.EmbeddedMissingError())
    assert str(CentralCommandError("this one.")) == "this one."
