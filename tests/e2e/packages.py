"""Real packages for a machine apart: what this one lacks of logrotate and unattended-upgrades, and a repository.

Nothing of this machine's own package manager is written: lists and packages that are fetched have directories of their
own, and only the machine apart installs anything.
"""

import hashlib
import platform
import re
import subprocess
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

WANTED = ("logrotate", "unattended-upgrades")
NAME = "cc-clinic-tools"
_SECTION = "main/binary-all"


def fetch(to: Path) -> list[Path]:
    """Download what WANTED needs and is not installed here, and return the packages; none when all of it is here."""
    (to / "lists").mkdir(parents=True)
    own = ("-o", f"Dir::State::lists={to}/lists", "-o", f"Dir::Cache={to}", "-o", "APT::Sandbox::User=root")
    here = _say(to, "dpkg-query", "-W", "-f", "${db:Status-Status}\n", *WANTED, fails=False).split()
    if here != ["installed"] * len(WANTED):
        _say(to, "apt-get", "-qq", *own, "update")
        told = _say(to, "apt-get", "-s", "-qq", *own, "--no-install-recommends", "install", *WANTED)
        _say(to, "apt-get", "-qq", *own, "download", *re.findall(r"^Inst (\S+)", told, re.MULTILINE))
    return sorted(to.glob("*.deb"))


@dataclass(frozen=True)
class Repository:
    """A folder that apt reads as the security updates of this distribution; what is published replaces all before."""

    place: Path

    @property
    def suite(self) -> str:
        return f"{platform.freedesktop_os_release()['VERSION_CODENAME']}-security"

    @property
    def source(self) -> str:
        """Return the line of sources.list that leads here."""
        return f"deb [trusted=yes] file:{self.place} {self.suite} main\n"

    def publish(self, version: str) -> Path:
        """Publish a version of the package, made by dpkg-deb, and return its file."""
        tree, file = self.place / "tree", self.place / f"{NAME}_{version}_all.deb"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "usr" / "share" / NAME).mkdir(parents=True, exist_ok=True)
        (tree / "usr" / "share" / NAME / "version").write_text(f"{version}\n")
        about = "Architecture: all\nMaintainer: Nobody <nobody@example.com>\nDescription: tools of a clinic\n"
        (tree / "DEBIAN" / "control").write_text(f"Package: {NAME}\nVersion: {version}\n{about}")
        _say(self.place, "dpkg-deb", "--root-owner-group", "--build", str(tree), str(file))
        self._index(file, f"Package: {NAME}\nVersion: {version}\n{about}")
        return file

    def _index(self, file: Path, control: str) -> None:
        data = file.read_bytes()
        listed = f"{control}Filename: {file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        dists = self.place / "dists" / self.suite
        (dists / _SECTION).mkdir(parents=True, exist_ok=True)
        (dists / _SECTION / "Packages").write_text(listed)
        who = platform.freedesktop_os_release()["ID"].capitalize()
        digest = hashlib.sha256(listed.encode()).hexdigest()
        (dists / "Release").write_text(
            f"Origin: {who}\nLabel: {who}-Security\nSuite: {self.suite}\nArchive: {self.suite}\n"
            f"Codename: {self.suite}\nDate: {formatdate(usegmt=True)}\nArchitectures: all\nComponents: main\n"
            f"SHA256:\n {digest} {len(listed)} {_SECTION}/Packages\n"
        )


def _say(where: Path, *argv: str, fails: bool = True) -> str:
    done = subprocess.run(argv, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 or not fails, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout
