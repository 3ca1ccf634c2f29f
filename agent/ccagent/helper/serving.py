"""The helper's process: a local socket, and a child for each request of the one user who may ask.

One thread and no event loop: a child has all that its request needs and nothing else, ends with its steps, and takes
nobody with it when it breaks.
"""

import contextlib
import fcntl
import gc
import logging
import os
import pwd
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ccagent.config import Config
from ccagent.helper import answering, descendants, journal, owned
from ccagent.helper.answering import Desk
from ccagent.helper.places import HelperPlaces
from ccagent.helper.request import MAX_REQUEST
from ccagent.places import MAX_SOCKET_PATH

log = logging.getLogger(__name__)

MAX_AT_ONCE = 8
REQUEST_S = 5.0
ANSWER_S = 5.0
STOP_S = 8.0
TICK_S = 60.0

_PEERCRED = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)


class HelperError(Exception):
    """The helper cannot start; the message is one sentence with the next step, and nothing was touched."""


@dataclass
class Serving:
    """What the process holds: its socket, who may ask, its children, and the pipe whose end tells them to stop."""

    config: Config
    places: HelperPlaces
    listening: socket.socket
    uid: int
    lock: int
    alive: tuple[int, int]
    wake: tuple[int, int]
    children: set[int] = field(default_factory=set)
    stopping: bool = False


def serve(config: Config) -> None:
    """Answer until SIGTERM or SIGINT; then end what runs, and leave no socket. HelperError before it begins."""
    os.umask(0o077)
    places, uid = HelperPlaces(config.helper.state_dir), uid_of(config.helper.user)
    try:
        owned.make_private(places.state_dir)
        _make_socket_dir(config.helper.socket.parent)
    except (owned.NotOursError, OSError) as error:
        raise HelperError(_sentence(error)) from error
    with _only_one(places) as lock, _listening(config.helper.socket, uid) as listening:
        serving = Serving(config, places, listening, uid, lock, os.pipe(), os.pipe())
        _catch_signals(serving)
        gc.freeze()  # what is here stays shared with the children
        log.info("answering uid %d on %s", uid, config.helper.socket)
        _loop(serving)
    log.info("stopped")


def uid_of(user: str) -> int:
    """Return the uid of a user's name, or of a number; HelperError when there is no such user."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise HelperError(f"there is no user {user}: make it, or set user under [helper]") from error


def _loop(serving: Serving) -> None:
    tick = time.monotonic()
    while not serving.stopping:
        poll = select.poll()
        poll.register(serving.wake[0], select.POLLIN)
        if len(serving.children) < MAX_AT_ONCE:  # else they wait in the socket's queue
            poll.register(serving.listening, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(TICK_S * 1000)}
        if serving.wake[0] in ready:
            _empty(serving.wake[0])
            _reap(serving)
        if serving.listening.fileno() in ready:
            _accept(serving)
        if time.monotonic() - tick > TICK_S:
            tick = time.monotonic()
            _keep_time(serving.places)
    _stop(serving)


def _accept(serving: Serving) -> None:
    try:
        line, _ = serving.listening.accept()
    except OSError:  # whoever it was has gone
        return
    with line:
        uid = _peer(line)
        if uid != serving.uid:
            log.warning("uid %d asked and is not answered", uid)
            line.setblocking(False)
            with contextlib.suppress(OSError):
                line.send(answering.encode(answering.refusal("only the agent's user is answered")))
            return
        try:
            child = os.fork()
        except OSError as error:
            log.warning("a request finds no room for a process: %s", error)
            return
        if child:
            serving.children.add(child)
            return
        _be_child(serving, line)


def _be_child(serving: Serving, line: socket.socket) -> None:
    """Answer one request and end, whatever happens; nothing of the parent's is undone here."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)  # the end comes by the pipe, and is recorded
        signal.set_wakeup_fd(-1)
        os.close(serving.alive[1])
        os.close(serving.lock)  # it says that the parent lives
        serving.listening.close()
        descendants.adopt()
        _converse(Desk(serving.config, serving.places, serving.alive[0]), line)
        code = 0
    except BaseException:
        log.exception("a request broke off")
    finally:
        os._exit(code)


def _converse(desk: Desk, line: socket.socket) -> None:
    request = _read(line)
    if request is None:
        told = answering.encode(answering.refusal("no request of one line in time"))
    else:
        told = answering.answer(desk, request)
    line.settimeout(ANSWER_S)
    with contextlib.suppress(OSError):  # whoever asked has gone, or does not listen: the record is there to be asked
        line.sendall(told)


def _read(line: socket.socket) -> bytes | None:
    """Return the one line, without its end; None when it is longer than may be, broken off, late or not the only."""
    until = time.monotonic() + REQUEST_S
    data = bytearray()
    try:
        while not data.endswith(b"\n"):
            line.settimeout(max(0.001, until - time.monotonic()))
            chunk = line.recv(65536)
            data += chunk
            if not chunk or len(data) > MAX_REQUEST or time.monotonic() > until:
                return None
    except OSError:
        return None
    return None if data.find(b"\n") < len(data) - 1 else bytes(data[:-1])


def _peer(line: socket.socket) -> int:
    _, uid, _ = _PEERCRED.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return int(uid)


def _reap(serving: Serving) -> None:
    for child in list(serving.children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                continue
        serving.children.discard(child)


def _stop(serving: Serving) -> None:
    """Tell the children, who end their steps and record it; then do not wait for ever."""
    serving.listening.close()
    os.close(serving.alive[1])
    until = time.monotonic() + STOP_S
    while serving.children and time.monotonic() < until:
        _reap(serving)
        time.sleep(0.02)


def _keep_time(places: HelperPlaces) -> None:
    """The order clock goes on from here after the machine was started again."""
    with contextlib.suppress(journal.JournalUnusableError), journal.open_journal(places.journal) as tx:
        journal.hear(tx, 0)


def _catch_signals(serving: Serving) -> None:
    for end in serving.wake:
        os.set_blocking(end, False)
    signal.set_wakeup_fd(serving.wake[1], warn_on_full_buffer=False)

    def stop(number: int, frame: object) -> None:
        del number, frame
        serving.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # wakes the loop


def _empty(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


@contextlib.contextmanager
def _only_one(places: HelperPlaces) -> Iterator[int]:
    descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise HelperError(f"another helper runs on {places.state_dir}: stop it first") from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _listening(path: Path, uid: int) -> Iterator[socket.socket]:
    """Yield the socket, open to the agent's group too; what a dead helper left is replaced in one step."""
    fresh = path.with_name(f"{path.name}.new")
    if len(os.fsencode(fresh)) > MAX_SOCKET_PATH:
        raise HelperError(f"{path} is too long for a socket: name a shorter one as socket under [helper]")
    _check_free(path)
    _check_free(fresh)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with listening:
        try:
            fresh.unlink(missing_ok=True)
            listening.bind(str(fresh))
            if uid != os.geteuid():
                os.chown(fresh, -1, _group_of(uid))
            fresh.chmod(0o660)
            listening.listen(64)
            fresh.replace(path)
        except OSError as error:
            raise HelperError(f"{path} cannot be listened on ({error.strerror}): run the helper as root") from error
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _check_free(path: Path) -> None:
    """Refuse a path where something stands that is not a socket of this user's."""
    with contextlib.suppress(FileNotFoundError):
        about = path.lstat()
        if not stat.S_ISSOCK(about.st_mode):
            raise HelperError(f"{path} is no socket: move it away")
        if about.st_uid != os.geteuid():
            raise HelperError(f"{path} belongs to uid {about.st_uid}: stop what listens there and remove it")


def _make_socket_dir(directory: Path) -> None:
    real = Path(os.path.realpath(directory))  # /var/run is a link
    with contextlib.suppress(FileExistsError):
        real.mkdir(mode=0o755)
        real.chmod(0o755)
    owned.check_directory(real)


def _group_of(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return -1


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename} cannot be used ({error.strerror}): run the helper as root"
    return str(error)
