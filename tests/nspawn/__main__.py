"""`make nspawn`: both packages on a booted Debian, from installing to purging. Wants root; takes some three minutes.

A private network with nothing but its loopback, a layer that is thrown away, a tree kept in .tools/nspawn. SUITE names
another Debian than bookworm.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage

from tests.certificates import Authority, authority
from tests.nspawn.container import TOOLS, Container, ContainerError, booted, tree

ROOT = Path(__file__).resolve().parents[2]
NAME = "cc.example.test"
URL = f"https://{NAME}:8443"
UNITS = ("cc-agent.service", "cc-agent-helper.service", "ccserver.service")
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
MOST_EXPOSED = {"cc-agent.service": 2.5, "ccserver.service": 2.5, "cc-agent-helper.service": 7.0}


def main() -> int:
    """Prove it all; 1 and a sentence at the first thing that does not hold."""
    if os.geteuid() != 0:
        print("nspawn: boots a machine, so it wants root: sudo make nspawn", file=sys.stderr)
        return 1
    try:
        return _main()
    except (ContainerError, OSError, subprocess.SubprocessError) as error:
        print(f"nspawn: {error}", file=sys.stderr)
        return 1


def _main() -> int:
    lacking = sorted({package for program, package in TOOLS.items() if shutil.which(program) is None})
    if lacking:
        raise ContainerError(f"apt install {' '.join(lacking)}")
    debs = [max((ROOT / "dist").glob(f"{name}_*.deb"), default=None) for name in ("cc-agent", "ccserver")]
    if None in debs:
        raise ContainerError("the packages are not built: make package")
    suite = os.environ.get("SUITE", "bookworm")
    base = tree(suite, ROOT / ".tools" / "nspawn")
    with tempfile.TemporaryDirectory() as made:
        ca = authority(Path(made))
        cert, key = ca.sign(Path(made), NAME)
        files = [*(deb for deb in debs if deb), ca.file, cert, key]
        with booted(base, ROOT / ".tools" / "nspawn" / "boot.log", files) as machine:
            _prove(machine, ca)
    print(f"nspawn: {len(STEPS)} passed, 0 failed ({suite})")
    return 0


def _prove(machine: Container, ca: Authority) -> None:
    began = time.monotonic()
    try:
        for number, step in enumerate(STEPS, 1):
            step(machine, ca)
            said = " ".join((step.__doc__ or "").split())
            print(f"{number:2}. {said}  ({time.monotonic() - began:.0f} s)", flush=True)
    except ContainerError:
        units = [f"--unit={unit}" for unit in UNITS]
        print(machine.run("journalctl", "--no-pager", "--lines=40", *units, code=None), file=sys.stderr)
        raise


def install(machine: Container, _ca: Authority) -> None:
    """Both packages install; the agent and its helper are enabled and the agent runs; the server waits to be told."""
    machine.run("sh", "-c", "dpkg -i /root/cc-agent_*.deb /root/ccserver_*.deb")
    for unit in UNITS:
        holds(machine.run("systemctl", "is-enabled", unit).strip() == "enabled", f"{unit} is enabled")
    machine.until("the agent runs", lambda: machine.property("cc-agent.service", "ActiveState") == "active")
    holds(machine.property("ccserver.service", "ConditionResult") == "no", "the server waits for its database")


def run_unprivileged(machine: Container, _ca: Authority) -> None:
    """The agent runs as its own user with no capability, and reads neither root's keys nor anybody's home."""
    pid = machine.property("cc-agent.service", "MainPID")
    status = dict(line.split(":", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines() if ":" in line)
    holds(status["Uid"].split()[0] == machine.run("id", "-u", "cc-agent").strip(), "it is cc-agent's")
    for sort in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"):
        holds(int(status[sort], 16) == 0, f"{sort} is empty")
    machine.write("/home/nurse/letter", "Dear", mode="0666")
    for path in ("/etc/shadow", "/root/tls.key", "/home/nurse/letter", "/var/lib/cc-agent-helper/x"):
        as_agent = ("nsenter", f"--target={pid}", "--mount", "setpriv", "--reuid=cc-agent", "--clear-groups")
        said = machine.run(*as_agent, "--regid=cc-agent", "--bounding-set=-all", "cat", path, code=1)
        holds("ermission denied" in said or "No such file" in said, f"{path} is out of reach")


def read_units(machine: Container, _ca: Authority) -> None:
    """`systemd-analyze verify` finds nothing, and `security` gives the agent and the server 2.5 at the most."""
    said = machine.run("systemd-analyze", "verify", *(f"/usr/lib/systemd/system/{unit}" for unit in UNITS), code=None)
    ours = [line for line in said.splitlines() if "cc" in line and "not executable" not in line]
    holds(ours == [], f"verify says nothing of ours: {ours}")
    for unit, most in MOST_EXPOSED.items():
        said = machine.run("systemd-analyze", "security", "--no-pager", unit, code=None)
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        exposed = float(found[1]) if found else 10.0
        print(f"      {unit} {exposed}")
        holds(exposed <= most, f"{unit}: {exposed} is more than {most}")


def serve(machine: Container, _ca: Authority) -> None:
    """The server serves TLS under a private authority, on a PostgreSQL with roles of its own."""
    machine.write("/etc/hosts", f"127.0.0.1 localhost {NAME}\n")
    machine.until("PostgreSQL runs", lambda: "online" in machine.run("pg_lsclusters"))
    psql = (*AS_POSTGRES, "psql", "-v", "ON_ERROR_STOP=1", "-q")
    machine.run(*psql, given=machine.run("ccserver", "db", "roles"))
    machine.run(*psql, given="""
        CREATE DATABASE central_command OWNER cc_owner;
        REVOKE ALL ON DATABASE central_command FROM PUBLIC;
        GRANT CONNECT ON DATABASE central_command TO cc_server, cc_backup;
        ALTER ROLE cc_server PASSWORD 'of-a-test-1';
        ALTER ROLE cc_owner PASSWORD 'of-a-test-2';
    """)  # fmt: skip
    at = "127.0.0.1/central_command"
    machine.write("/etc/ccserver/database-url", f"postgresql://cc_server:of-a-test-1@{at}\n", mode="0600")
    machine.write("/etc/ccserver/database-owner-url", f"postgresql://cc_owner:of-a-test-2@{at}\n", mode="0600")
    machine.write(
        "/etc/ccserver/ccserver.env",
        f"CCSERVER_NAME=cc.example\nCCSERVER_LISTEN=0.0.0.0:8443\nCCSERVER_PUBLIC_URL={URL}\n"
        "CCSERVER_TLS_CERT=/etc/ccserver/tls/tls.crt\nCCSERVER_TLS_KEY=/etc/ccserver/tls/tls.key\n",
    )
    put_certificate(machine)
    machine.run("ccserver", "migrate")
    machine.run("ccserver", "keys", "init")
    machine.run("ccserver", "partner", "create", "Acme", "--id", "acme")
    machine.run("ccserver", "site", "create", "Clinic", "--partner", "acme", "--id", "clinic")
    machine.run("systemctl", "start", "ccserver.service")
    holds(machine.property("ccserver.service", "ActiveState") == "active", "the server is ready")
    holds("broken" not in machine.run("ccserver", "doctor", code=None), "the doctor finds nothing broken")


def put_certificate(machine: Container) -> None:
    owned = ("install", "-D", "-o", "root", "-g", "ccserver", "-m", "0640")
    for name in ("tls.crt", "tls.key"):
        machine.run(*owned, f"/root/{name}", f"/etc/ccserver/tls/{name}")


def refuse(machine: Container, _ca: Authority) -> None:
    """Without the authority, or over plain http, the agent does not enrol, says why and touches nothing."""
    code = new_code(machine)
    said = machine.run("cc-agent", "enroll", "--server-url", URL, code=1, env=[f"CC_ENROLL_CODE={code}"])
    holds("cannot prove who it is" in said, "an unknown authority")
    said = machine.run(
        "cc-agent", "enroll", "--server-url", f"http://{NAME}:8443", code=1, env=[f"CC_ENROLL_CODE={code}"]
    )
    holds("give an https address" in said, "plain http")
    holds(not status(machine)["enrolled"], "nothing was enrolled")


def enrol(machine: Container, ca: Authority) -> None:
    """The agent enrols over TLS with the private authority, and all its evidence is receipted."""
    machine.write("/etc/cc-agent/ca.pem", ca.file.read_text())
    arguments = ("--server-url", URL, "--ca-file", "/etc/cc-agent/ca.pem")
    machine.run("cc-agent", "enroll", *arguments, env=[f"CC_ENROLL_CODE={new_code(machine)}"])
    machine.until("all is receipted", lambda: receipted(machine))
    strangers = machine.run("find", "/var/lib/cc-agent", "!", "-user", "cc-agent").strip()
    holds(strangers == "", f"its files are its own: {strangers}")


def be_helped(machine: Container, _ca: Authority) -> None:
    """The helper obeys this server, answers the agent and nobody else, and checks that need root have their input."""
    pinned = json.loads(machine.run("cat", "/var/lib/cc-agent-helper/pinned.json"))
    holds(pinned["server"] == "cc.example", "the helper obeys the server that root enrolled at")
    holds(machine.property("cc-agent-helper.service", "ActiveState") == "active", "the helper runs")
    told = {check["check"]: check["reason"] for check in status(machine)["checks"]}
    holds("root" not in told["firewall"] and "helper" not in told["firewall"], f"the firewall was read: {told}")
    ask = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/cc-agent/helper.sock');"
    ask += 's.sendall(b\'{"ask":"read","what":"nft"}\\n\'); print(s.recv(9999).decode())'
    python = ("/opt/cc-agent/bin/python3", "-c", ask)
    holds(
        '"ok": true' in as_user(machine, "cc-agent", *python).replace('"ok":true', '"ok": true'),
        "the agent is answered",
    )
    said = as_user(machine, "nobody", *python)
    holds('"ok": true' not in said and '"ok":true' not in said, f"nobody else is: {said}")


def as_user(machine: Container, user: str, *argv: str) -> str:
    group = machine.run("id", "-gn", user).strip()
    return machine.run("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *argv, code=None)


def renew(machine: Container, ca: Authority) -> None:
    """`systemctl reload ccserver` takes a new certificate; a broken one leaves the one before."""
    machine.write("/etc/ccserver/tls/tls.key", "no key\n", owner="root:ccserver", mode="0640")
    machine.run("systemctl", "reload", "ccserver.service")
    machine.until("the broken one is refused", lambda: "the one before stays" in journal(machine, "ccserver.service"))
    with tempfile.TemporaryDirectory() as made:
        for path in ca.sign(Path(made), NAME):
            shutil.copy(path, machine.root / "root")
    put_certificate(machine)
    machine.run("systemctl", "reload", "ccserver.service")
    machine.until("the new one is shown", lambda: "new connections are shown" in journal(machine, "ccserver.service"))


def survive_kill(machine: Container, _ca: Authority) -> None:
    """With the server away evidence waits; SIGKILL loses none of it, and systemd starts the agent again."""
    machine.run("systemctl", "disable", "--now", "ccserver.service")
    machine.write("/etc/cc-agent/config.toml", '[checks.encryption]\nvolumes = ["/"]\n')
    machine.run("systemctl", "restart", "cc-agent.service")
    machine.until("evidence waits", lambda: status(machine)["waiting"] > 0)
    before, pid = status(machine), machine.property("cc-agent.service", "MainPID")
    machine.run("kill", "-KILL", pid)
    machine.until("another process runs", lambda: machine.property("cc-agent.service", "MainPID") not in ("0", pid))
    machine.until("it answers", lambda: bool(status(machine)["checks"]))
    holds(kept(before, status(machine)), "the queue is whole")


def survive_reboot(machine: Container, _ca: Authority) -> None:
    """A reboot loses nothing that waited; with the server back all is delivered, and the server holds every entry."""
    before = status(machine)
    machine.reboot()
    machine.until("the agent runs", lambda: machine.property("cc-agent.service", "ActiveState") == "active")
    machine.until("it answers", lambda: bool(status(machine)["checks"]))
    holds(before["waiting"] > 0 and kept(before, status(machine)), "the queue is whole")
    machine.run("systemctl", "enable", "--now", "ccserver.service")
    machine.run("cc-agent", "flush")
    machine.until("all is receipted", lambda: receipted(machine), 120)
    count = machine.run(
        *AS_POSTGRES, "psql", "-qtA", "central_command",
        "-c", "SELECT count(*) || ' ' || max(seq) + 1 FROM evidence_bundles",
    ).split()  # fmt: skip
    holds(count[0] == count[1], f"no entry is missing: {count}")
    holds(int(count[0]) >= before["size"], "the server holds what waited")


def be_backed_up(machine: Container, _ca: Authority) -> None:
    """`sudo ccserver backup` and the drill work as docs/operate.md says them, encrypted, with nothing lent to root."""
    made = pyrage.x25519.Identity.generate()
    machine.run(
        *AS_POSTGRES, "psql", "-qc", "ALTER ROLE cc_backup PASSWORD 'of-a-test-3'; ALTER ROLE cc_owner CREATEDB"
    )
    at = "postgresql://cc_backup:of-a-test-3@127.0.0.1/central_command\n"
    machine.write("/etc/ccserver/database-backup-url", at, mode="0600")
    machine.run("install", "-d", "-o", "ccserver", "-g", "ccserver", "-m", "0700", "/var/backups/ccserver")
    copy = "/var/backups/ccserver/cc.age"
    machine.run("ccserver", "backup", "-o", copy, "--recipient", str(made.to_public()))
    machine.run("ccserver", "keys", "backup", "-o", f"{copy}.keys", "--recipient", str(made.to_public()))
    said = machine.run("ccserver", "restore", copy, "--identity", "-", "--verify", given=f"{made}\n")
    holds("1 logs with" in said and "minutes" in said, f"the drill tells what it held: {said}")


def be_upgraded(machine: Container, _ca: Authority) -> None:
    """A package whose migrations wait leaves the server that runs alone and says so; with them done it restarts it."""
    psql = (*AS_POSTGRES, "psql", "-v", "ON_ERROR_STOP=1", "-q", "central_command", "-c")
    machine.run(*psql, "CREATE TABLE kept AS SELECT * FROM schema_migrations ORDER BY number DESC LIMIT 1")
    machine.run(*psql, "DELETE FROM schema_migrations WHERE number = (SELECT number FROM kept)")
    before = machine.property("ccserver.service", "MainPID")
    said = machine.run("sh", "-c", "dpkg -i /root/ccserver_*.deb")
    holds("ccserver: not restarted" in said, f"it says that migrations wait: {said}")
    holds(machine.property("ccserver.service", "MainPID") == before, "the server that ran goes on")
    machine.run(*psql, "INSERT INTO schema_migrations SELECT * FROM kept; DROP TABLE kept")
    holds("not restarted" not in machine.run("sh", "-c", "dpkg -i /root/ccserver_*.deb"), "nothing waits any more")
    holds(machine.property("ccserver.service", "MainPID") not in ("0", before), "another process serves")


def be_watched(machine: Container, _ca: Authority) -> None:
    """An agent whose loop stands still is ended by systemd's watchdog and started again."""
    drop_in = "/run/systemd/system/cc-agent.service.d/watchdog.conf"
    machine.write(drop_in, "[Service]\nWatchdogSec=3\nTimeoutStopSec=2\nWatchdogSignal=KILL\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "cc-agent.service")
    pid = machine.property("cc-agent.service", "MainPID")
    time.sleep(5)
    holds(machine.property("cc-agent.service", "MainPID") == pid, "the watchdog is content with one that works")
    machine.run("kill", "-STOP", pid)
    machine.until("another process runs", lambda: machine.property("cc-agent.service", "MainPID") not in ("0", pid))
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")


def remove(machine: Container, _ca: Authority) -> None:
    """Removing keeps the evidence; installed again it is the same appliance and goes on."""
    machine.until("the agent answers", lambda: bool(status(machine)["checks"]))
    before = status(machine)
    machine.run("dpkg", "--remove", "cc-agent")
    holds(
        machine.run("sh", "-c", "ls /opt/cc-agent /usr/bin/cc-agent", code=2).count("No such file") == 2, "it is gone"
    )
    machine.run("test", "-s", "/var/lib/cc-agent/agent.db")
    machine.run("sh", "-c", "dpkg -i /root/cc-agent_*.deb")
    machine.until("it answers", lambda: bool(status(machine)["checks"]))
    after = status(machine)
    same = ("appliance", "fingerprint")
    holds([before[name] for name in same] == [after[name] for name in same], "it is the same appliance")
    holds(after["size"] >= before["size"], "its log goes on")


def purge(machine: Container, _ca: Authority) -> None:
    """Purging keeps the queue and says how to delete it; with CC_KEEP_QUEUE=no it goes; the server's keys stay."""
    said = machine.run("dpkg", "--purge", "cc-agent")
    holds("rm -rf /var/lib/cc-agent" in said, "it says how to delete it")
    machine.run("test", "-s", "/var/lib/cc-agent/device.key")
    machine.run("sh", "-c", "dpkg -i /root/cc-agent_*.deb")
    machine.run("dpkg", "--purge", "cc-agent", env=["CC_KEEP_QUEUE=no"])
    machine.run("test", "!", "-e", "/var/lib/cc-agent")
    machine.run("dpkg", "--purge", "ccserver")
    machine.run("test", "-s", "/var/lib/ccserver/server-keys.json")
    left = machine.run(
        "sh", "-c", "ls -d /opt/cc* /usr/lib/systemd/system/cc* /etc/systemd/system/*/cc* 2>/dev/null", code=None
    )
    holds(left.strip() == "", f"nothing else is left: {left}")


STEPS: tuple[Callable[[Container, Authority], None], ...] = (
    install, run_unprivileged, read_units, serve, refuse, enrol, be_helped, renew,
    survive_kill, survive_reboot, be_backed_up, be_upgraded, be_watched, remove, purge,
)  # fmt: skip


def holds(true: bool, what: str) -> None:
    if not true:
        raise ContainerError(f"it does not hold that {what}")


def status(machine: Container) -> dict[str, Any]:
    printed = machine.run("cc-agent", "status", "--json", code=None)
    try:
        told: dict[str, Any] = json.loads(printed)
    except ValueError:
        return {"enrolled": None, "checks": [], "waiting": 0, "size": 0, "appliance": None}
    return told


def receipted(machine: Container) -> bool:
    told = status(machine)
    return told["size"] > 0 and told["waiting"] == 0


def kept(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return bool(after["waiting"] >= before["waiting"] and after["size"] >= before["size"])


def journal(machine: Container, unit: str) -> str:
    return machine.run("journalctl", "--no-pager", "--boot", "--unit", unit)


def new_code(machine: Container) -> str:
    return str(json.loads(machine.run("ccserver", "enroll-code", "create", "--site", "clinic", "--json"))["code"])


if __name__ == "__main__":
    sys.exit(main())
