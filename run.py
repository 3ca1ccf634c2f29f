"""`make run`: the whole system on this machine, from an empty directory to verified evidence on a screen.

It owns an embedded PostgreSQL, starts ccserver and cc-agent as processes of their own, enrols the agent once, and stops
all of them on Ctrl-C. Everything it writes is in .run/; a second run carries on with it.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from ccserver import localpg
from ccserver.errors import CentralCommandError

HERE = Path(__file__).resolve().parent
STATE = HERE / ".run"
BIN = Path(sys.executable).parent
PARTNER, SITE, LOGIN = "first-partner", "first-site", "admin"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FIRST_RECEIPT_SECONDS = 90


class StepFailedError(Exception):
    """A step failed; the message says which and where to look."""


def main() -> int:
    """Run until Ctrl-C or SIGTERM; 0 then, 1 when something could not be started or ended by itself."""
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as running:
        try:
            _run(running)
        except KeyboardInterrupt:
            say("stopping: agent, server, database")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return 0
        except (StepFailedError, CentralCommandError, OSError) as error:
            print(f"\nmake run: {error}", file=sys.stderr)
            return 1
    return 0


def _run(running: ExitStack) -> None:
    _make_state()
    say("1/6  database    an embedded PostgreSQL in .run/server")
    postgres = running.enter_context(localpg.start(STATE / "server" / "postgres"))
    env = environment(postgres)
    say("2/6  migrations")
    call(env, "ccserver", "migrate")
    if not Path(env["CCSERVER_KEY_FILE"]).exists():
        call(env, "ccserver", "keys", "init")
    say(f"3/6  server      {env['CCSERVER_PUBLIC_URL']}, log in .run/server.log")
    server = running.enter_context(Child(env, "server", "ccserver", "serve"))
    wait_until_it_answers(env["CCSERVER_PUBLIC_URL"], server)
    say("4/6  first partner, site and admin")
    make_first_tenant(env)
    say("5/6  agent       enrolment, then the checks of this machine, log in .run/agent.log")
    enrol(env)
    agent = running.enter_context(Child(env, "agent", "cc-agent", *agent_options(), "run"))
    say("6/6  evidence    waiting for the first verified receipt")
    show_first_receipt(env, agent)
    say(f"\nDashboard: {env['CCSERVER_PUBLIC_URL']}/   sign in as {LOGIN}; Ctrl-C stops everything.\n")
    watch([server, agent])


def environment(postgres: localpg.LocalPostgres) -> dict[str, str]:
    """Return the environment of the server and its command line."""
    name = "central_command"
    urls = postgres.ensure_database(name)
    listen = os.environ.get("CCSERVER_LISTEN", "127.0.0.1:8440")
    own = {
        "DATABASE_URL": urls.server,
        "DATABASE_OWNER_URL": urls.owner,
        "CCSERVER_DATA_DIR": str(STATE / "server"),
        "CCSERVER_KEY_FILE": str(STATE / "server" / "server-keys.json"),
        "CCSERVER_NAME": "central-command.local",
        "CCSERVER_LISTEN": listen,
        "CCSERVER_PUBLIC_URL": f"http://{listen}",
        "PYTHONUNBUFFERED": "1",
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DATABASE_", "CCSERVER_"))}
    return kept | own


def make_first_tenant(env: dict[str, str]) -> None:
    """Create what is not there yet; the admin's new password is printed once."""
    if PARTNER not in {row["id"] for row in ask(env, "ccserver", "partner", "list", "--json")}:
        call(env, "ccserver", "partner", "create", "First partner", "--id", PARTNER)
    if SITE not in {row["id"] for row in ask(env, "ccserver", "site", "list", "--json")}:
        call(env, "ccserver", "site", "create", "First clinic", "--partner", PARTNER, "--id", SITE)
    made = STATE / "admin-made"
    if not made.exists():
        admin = ask(env, "ccserver", "admin", "create", LOGIN, "--json")
        made.touch()
        say(f"\n     sign in as {admin['login']} with the password  {admin['password']}  (shown this once)\n")


def enrol(env: dict[str, str]) -> None:
    """Enrol the local agent with a one-time code, unless it is enrolled."""
    if ask(env, "cc-agent", *agent_options(), "status", "--json", may_fail=True).get("enrolled"):
        return
    code = ask(env, "ccserver", "enroll-code", "create", "--site", SITE, "--json")["code"]
    where = ("--server-url", env["CCSERVER_PUBLIC_URL"], "--code-file", "-")
    call(env, "cc-agent", *agent_options(), "enroll", *where, given=code)


def agent_options() -> tuple[str, ...]:
    """Return where the local agent's state is and the settings of its checks."""
    return ("--config", str(STATE / "agent.toml"))


def show_first_receipt(env: dict[str, str], agent: "Child") -> None:
    """Wait until everything that was sealed has a verified receipt, then print each check's state."""
    until = time.monotonic() + _FIRST_RECEIPT_SECONDS
    while True:
        agent.check()
        status = ask(env, "cc-agent", *agent_options(), "status", "--json", may_fail=True)
        if status.get("checks") and status.get("size") and status.get("waiting") == 0:
            break
        if time.monotonic() > until:
            raise StepFailedError(
                f"no receipt within {_FIRST_RECEIPT_SECONDS} s; see .run/agent.log and .run/server.log."
            )
        time.sleep(0.3)
    for check in status["checks"]:
        say(f"     {check['status']:8}{check['check']:12}{check['reason']}")
    say(f"     {status['size']} entries of evidence sealed, uploaded and covered by a verified receipt")


class Child:
    """A process of ours, in a session of its own so that Ctrl-C reaches only us, ended when we are."""

    def __init__(self, env: dict[str, str], name: str, program: str, *arguments: str) -> None:
        self.name = name
        self.log = STATE / f"{name}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [BIN / program, *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  one thread only, and the child execs at once
            )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def check(self) -> None:
        """StepFailedError when the process has ended."""
        if self.process.poll() is not None:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise StepFailedError(f"the {self.name} ended with {self.process.returncode}: {''.join(last)}")


def watch(children: list[Child]) -> None:
    """Return never; StepFailedError when one of them ends."""
    while True:
        for child in children:
            child.check()
        time.sleep(1)


def wait_until_it_answers(url: str, server: Child) -> None:
    """Return once the server answers over HTTP."""
    for _ in range(200):
        server.check()
        try:
            with urllib.request.urlopen(f"{url}/agent/v1/nonce", timeout=5):  # noqa: S310  our own http address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise StepFailedError("the server does not answer; see .run/server.log.")


def call(env: dict[str, str], program: str, *arguments: str, given: str | None = None, may_fail: bool = False) -> str:
    """Run one of our commands and return what it prints; StepFailedError with its own sentence when it fails."""
    done = subprocess.run(
        [BIN / program, *arguments], env=env, input=given, text=True, capture_output=True, check=False, timeout=120
    )
    if done.returncode and not may_fail:
        raise StepFailedError(done.stderr.strip() or f"{program} {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def ask(env: dict[str, str], program: str, *arguments: str, may_fail: bool = False) -> Any:
    """Run one of our commands and return the JSON it prints; {} when it may fail and does."""
    printed = call(env, program, *arguments, may_fail=may_fail)
    return json.loads(printed) if printed.strip() or not may_fail else {}


def say(line: str) -> None:
    """Print progress."""
    print(line, flush=True)


def _make_state() -> None:
    try:
        (STATE / "server").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StepFailedError(
            f"{STATE} cannot be written ({error.strerror}): clone to a directory of yours."
        ) from error
    settings = STATE / "agent.toml"
    if not settings.exists():
        settings.write_text(f'# The settings of the local agent.\n[agent]\nstate_dir = "{STATE / "agent"}"\n')


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
