"""A machine apart: an agent and its root helper in namespaces of their own, so that what is broken is not this machine.

What is written to /etc, /usr and /var stays in memory, /var/log is a small disk in a file, the network is an empty
one, and all processes end with the first. journald, journalctl, nft, logrotate, apt and unattended-upgrades are the
real ones, the package that is out of date and its repository too (packages.py). systemctl is a script, whatever runs
here: its units are executable files, and what they start are real processes.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.packages import NAME, Repository
from tests.e2e.processes import BIN, Clinic, Program, wait_until

AGENT_UID = 4711
JOURNALD = Path("/lib/systemd/systemd-journald")
_PROGRAMS = ("unshare", "nsenter", "setpriv", "nft", "mkfs.ext4", "apt-get", "dpkg-deb")
_LOG_DISK = 64 * 2**20
_ROOM_LEFT = 2 * 2**20  # of 64 MiB: less than 5 %, and enough to compress into

_SYSTEMCTL = """#!/bin/sh
verb=$1
for name; do :; done
unit={place}/units/$name
runs() {{ [ -s "$unit.pid" ] && [ -d "/proc/$(cat "$unit.pid")" ]; }}
case $verb in
  show)
    if [ -x "$unit" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    if runs; then echo ActiveState=active; else echo ActiveState=inactive; fi ;;
  cat) cat "$unit" ;;
  enable) touch "$unit.enabled" ;;
  is-active) runs ;;
  start)
    if runs; then exit 0; fi
    if grep -q '^# oneshot' "$unit"; then exec "$unit"; fi
    setsid "$unit" >/dev/null 2>&1 </dev/null &
    echo $! >"$unit.pid"; sleep 0.2; runs ;;
  *) exit 1 ;;
esac
"""
# A real backup of a folder, and what is told of it.
_BACKUP = """#!/bin/sh
# oneshot
set -e
tar -C /etc -cf {place}/backup.tar cc-agent
sum=$(sha256sum {place}/backup.tar | cut -d' ' -f1)
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
sed -e "s/NOW/$now/g" -e "s/SUM/$sum/" >{place}/backup.json <<'END'
{{"last_backup": "NOW", "checksum": "SUM", "last_restore_test": "NOW"}}
END
"""
_BASELINE = """flush ruleset
table inet filter {
  chain input { type filter hook input priority 0; policy drop; iifname "lo" accept; }
}
"""
_SET_UP = """set -e
mount -t tmpfs memory {place}/memory
for dir in {covered}; do
  at={place}/memory$dir; mkdir -p $at/upper $at/work
  chmod o+x $at/upper
  mount -t overlay apart -o lowerdir=$dir,upperdir=$at/upper,workdir=$at/work $dir
  chmod o+x $dir
done
mount -o loop {place}/logs.img /var/log
mount -t tmpfs -o mode=755 run /run
if [ -d /var/lib/apt/lists ]; then mount -t tmpfs -o mode=755 lists /var/lib/apt/lists; fi
echo 'cc-agent:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
mkdir -p /etc/cc-agent /var/log/journal /run/systemd/journal /var/lib/logrotate
rm -rf /etc/logrotate.conf /etc/systemd/journald.conf /etc/apt/sources.list /etc/apt/sources.list.d/*
install -m 644 {place}/sources.list /etc/apt/sources.list
DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i {place}/debs/*.deb
apt-get -q update
cp {place}/firewall.nft /etc/cc-agent/firewall.nft
install -m 644 {place}/logrotate.conf /etc/logrotate.conf
install -m 644 {place}/journald.conf /etc/systemd/journald.conf
for program in systemctl clamd; do
  case $program in systemctl) to=/usr/bin ;; *) to=/usr/sbin ;; esac
  rm -f $to/$program; install -m 755 {place}/$program $to/$program
done
nft -f /etc/cc-agent/firewall.nft
for unit in cc-backup clamav-daemon systemd-journald; do systemctl start -- $unit.service; done
echo "a canary" | systemd-cat -t cc-canary
journalctl --sync
touch {place}/ready
while :; do sleep 1; done
"""


def lacking() -> list[str]:
    """Return what such a machine needs and is not here."""
    found = {
        "root": os.geteuid() == 0,
        "systemd's journal": JOURNALD.exists(),
        "overlayfs": "overlay" in Path("/proc/filesystems").read_text(),
        **{name: shutil.which(name) is not None for name in _PROGRAMS},
        "leave to unshare": os.geteuid() == 0
        and subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False).returncode == 0,
    }
    return [name for name, there in found.items() if not there]


@dataclass
class Apart:
    """The machine: `pid` is its first process, everything that is the test's own is below `place`.

    The agent runs as a user of its own, in the network of this machine; the helper is root in all of what is apart.
    """

    place: Path
    clinic: Clinic
    site: str
    pid: int = 0
    agent: Program = field(init=False)
    helper: Program = field(init=False)

    def __post_init__(self) -> None:
        env = self.clinic.agent.env
        self.agent, self.helper = (
            Program(str(self.place / f"{name}.sh"), env, self.place / f"{name}.log") for name in ("agent", "helper")
        )

    def seen(self, path: str) -> Path:
        """Return where a path of it is seen from here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *argv: str) -> None:
        """Run a program in it as root."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-m", "-n", "-p", *argv], check=True, timeout=30)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = self.agent.json("status")
        return told

    def says(self, check: str) -> str:
        """Return what a check said last."""
        return next(str(one["status"]) for one in self.status()["checks"] if one["check"] == check)

    def kill_unit(self, name: str) -> None:
        """Kill what a unit started, as a crash would."""
        number = (self.place / "units" / f"{name}.pid").read_text().strip()
        self.run("kill", "-KILL", number)
        wait_until(lambda: not self.seen(f"/proc/{number}").exists())

    @property
    def repository(self) -> Repository:
        """Where it has its security updates from."""
        return Repository(self.place / "repository")

    def publish_update(self) -> None:
        """Publish a security update, and fetch the lists as a timer would."""
        self.repository.publish("2.0")
        self.run("apt-get", "-q", "update")

    def installed(self) -> str:
        """Return the version of the package, as its files say."""
        return self.seen(f"/usr/share/{NAME}/version").read_text().strip()

    def fill_logs(self) -> None:
        """Fill the log volume but for a rest."""
        about = os.statvfs(self.seen("/var/log"))
        line = b"Nov 24 03:07:09 front-desk app: nothing of interest\n"
        room = about.f_bavail * about.f_frsize - _ROOM_LEFT
        with self.seen("/var/log/clinic.log").open("wb") as log:
            log.write(line * (room // len(line)))

    def age_backup(self) -> None:
        """Let the last backup be three years old, as if nobody had looked since."""
        file = self.place / "backup.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"last_backup": "2023-11-24T00:00:00Z"}))

    def enroll(self) -> None:
        code = self.clinic.server.json("enroll-code", "create", "--site", self.site)["code"]
        self.agent.run("enroll", "--server-url", self.clinic.url, "--code-file", "-", given=code)
        self.helper.run("helper", "pin")
        self.helper.start("helper")
        wait_until((self.place / "run" / "helper.sock").exists)


@contextmanager
def standing(clinic: Clinic, site: str, debs: Sequence[Path]) -> Iterator[Apart]:
    """Yield a machine whose units all run, enrolled, its helper pinned and running; nothing of it stays afterwards.

    `debs` are packages that are installed in it.
    """
    place = Path(tempfile.mkdtemp(prefix="cc-apart-", dir="/tmp"))
    machine = Apart(place, clinic, site)
    _furnish(machine, debs)
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
    with (place / "log").open("wb") as log:
        first = subprocess.Popen([*argv, "sh", str(place / "set-up.sh")], stdout=log, stderr=log)
    try:
        wait_until(lambda: (place / "ready").exists() or first.poll() is not None)
        assert first.poll() is None, (place / "log").read_text()
        machine.pid = int(Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()[0])
        _write_launchers(machine)
        machine.enroll()
        yield machine
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(20)
        for program in (machine.agent, machine.helper):
            if program.process is not None:
                program.process.wait(20)  # it ended with the first
        shutil.rmtree(place, ignore_errors=True)


def _furnish(machine: Apart, debs: Sequence[Path]) -> None:
    place = machine.place
    place.chmod(0o755)
    for name in ("memory", "units", "run", "agent", "debs", "repository"):
        (place / name).mkdir()
    for deb in (*debs, machine.repository.publish("1.0")):
        shutil.copy(deb, place / "debs")
    (place / "sources.list").write_text(machine.repository.source)
    _make_disk(place / "logs.img")
    os.chown(place / "agent", AGENT_UID, AGENT_UID)
    (place / "firewall.nft").write_text(_BASELINE)
    (place / "logrotate.conf").write_text("/var/log/clinic.log {\n  rotate 1\n  compress\n}\n")
    (place / "journald.conf").write_text("[Journal]\nStorage=persistent\nAudit=no\nReadKMsg=no\n")
    _program(place / "systemctl", _SYSTEMCTL.format(place=place))
    _program(place / "clamd", "#!/bin/sh\nwhile :; do sleep 1; done\n")
    _program(place / "units" / "cc-backup.service", _BACKUP.format(place=place))
    _program(place / "units" / "clamav-daemon.service", "#!/bin/sh\nexec /usr/sbin/clamd\n")
    _program(place / "units" / "systemd-journald.service", f"#!/bin/sh\nexec {JOURNALD}\n")
    covered = " ".join(["/etc", "/usr", "/var", *_closed()])
    (place / "set-up.sh").write_text(_SET_UP.format(place=place, covered=covered, uid=AGENT_UID))
    (place / "agent.toml").write_text(
        f'[agent]\nstate_dir = "{place}/agent"\n'
        f'[helper]\nsocket = "{place}/run/helper.sock"\nuser = "cc-agent"\nstate_dir = "{place}/helper"\n'
        f'[checks.backup]\nstatus_file = "{place}/backup.json"\n'
        '[checks.antivirus]\nsignature_dir = ""\n'
        '[checks.logging]\nunits = ["systemd-journald.service"]\ncanary_journal = "cc-canary"\n'
        f'[checks.encryption]\nvolumes = ["{_open_disk()}"]\n'
    )


def _write_launchers(machine: Apart) -> None:
    program = f'{BIN / "cc-agent"} --config {machine.place}/agent.toml "$@"'
    who = f"setpriv --reuid {AGENT_UID} --regid {AGENT_UID} --clear-groups"
    enter = f"#!/bin/sh\nexec nsenter -t {machine.pid} -m -p"
    _program(machine.place / "agent.sh", f"{enter} {who} {program}\n")
    _program(machine.place / "helper.sh", f"{enter} -n {program}\n")


def _make_disk(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_LOG_DISK)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(path)], check=True, timeout=30)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _closed() -> list[str]:
    """Return the directories on the way to our own programs that the agent's user may not enter, such as /root."""
    ways = [BIN / "python", (BIN / "python").resolve(), Path(__file__).resolve()]
    above = {parent for way in ways for parent in way.parents}
    return [str(one) for one in sorted(above) if not one.stat().st_mode & 0o001][:1]


def _open_disk() -> str:
    """Return a disk of this machine that is not encrypted as a whole; it is only looked at."""
    told = subprocess.run(["lsblk", "--json", "-o", "PATH,TYPE,FSTYPE"], capture_output=True, check=True).stdout
    disks = [one for one in json.loads(told)["blockdevices"] if one["fstype"] != "crypto_LUKS"]
    return str(disks[0]["path"])
