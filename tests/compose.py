"""`make compose`: packaging/container as docs/install.md says, on the Docker that answers, without a registry.

Wants root, a Docker with compose, debootstrap, Debian's postgresql-15 and what `make package` built. The base image is
a Debian of debootstrap's, the database's one of tests/postgres-image.sh. The project goes in the end, volumes and all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from ccserver import archive
from tests.certificates import authority
from tests.nspawn.container import ContainerError, tree

ROOT = Path(__file__).resolve().parents[1]
NAME, PORT, PROJECT = "cc.example.test", 18443, "cc-proof"
BASE, SERVER, DATABASE = "cc-base:bookworm", "cc-server:proof", "cc-postgres:15"
SETTINGS = {
    "CCSERVER_NAME": NAME,
    "CCSERVER_PUBLIC_URL": f"https://{NAME}:{PORT}",
    "CCSERVER_PORT": f"127.0.0.1:{PORT}",
    "CCSERVER_IMAGE": SERVER,
    "POSTGRES_IMAGE": DATABASE,
}


@dataclass(frozen=True)
class Composed:
    """The folder of the compose file, the command that reads it, and who signed the certificate."""

    folder: Path
    command: tuple[str, ...]
    ca: Path

    def run(self, *arguments: str, code: int | None = 0) -> str:
        argv = [*self.command, "-p", PROJECT, *arguments]
        return run(argv, cwd=self.folder, env=os.environ | SETTINGS, code=code)

    def command_of_server(self, *arguments: str, code: int | None = 0) -> str:
        """Run `ccserver` as docs say."""
        return self.run("exec", "-T", "server", "ccserver", *arguments, code=code)

    def ready(self) -> int:
        """Return what /readyz answers over TLS under the private authority; 0 for nothing."""
        try:
            with httpx.Client(verify=str(self.ca), trust_env=False, timeout=10) as client:
                at = f"https://127.0.0.1:{PORT}/readyz"
                return client.get(at, headers={"Host": NAME}, extensions={"sni_hostname": NAME}).status_code
        except httpx.TransportError:
            return 0

    def until(self, what: str, true: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise ContainerError(f"not within {seconds:.0f} s: {what}\n{self.run('logs', '--tail=40', code=None)}")
            time.sleep(0.5)


def run(argv: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None, code: int | None = 0) -> str:
    """Return what a command prints on both outputs; ContainerError when it ends otherwise."""
    done = subprocess.run(
        argv, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False
    )
    if code is not None and done.returncode != code:
        raise ContainerError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout[-3000:]}")
    return done.stdout


def compose() -> tuple[str, ...]:
    """Return this machine's compose, the plugin or the program."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise ContainerError("there is neither `docker compose` nor `docker-compose`")


def build() -> None:
    """Make the three images."""
    if not list((ROOT / "dist").glob("ccserver_*.deb")):
        raise ContainerError("the packages are not built: make package")
    base = tree("bookworm", ROOT / ".tools" / "nspawn")
    packing = subprocess.Popen(["tar", "-C", str(base), "-c", "--exclude=./var/cache", "."], stdout=subprocess.PIPE)
    subprocess.run(["docker", "import", "-", BASE], stdin=packing.stdout, check=True, capture_output=True)
    packing.wait()
    recipe = "packaging/container/Containerfile"
    run(["docker", "build", "--network=none", "-f", recipe, "--build-arg", f"BASE={BASE}", "-t", SERVER, "."])
    run(["sh", "tests/postgres-image.sh", DATABASE])


def prepare(folder: Path) -> Composed:
    """Copy the folder, make its secrets as docs say, and put a certificate of a private authority there."""
    made = shutil.copytree(ROOT / "packaging" / "container", folder / "container")
    run(["sh", "secrets.sh"], cwd=made)
    (made / "tls").mkdir()
    ca = authority(folder)
    for path, name in zip(ca.sign(folder, NAME), ("fullchain.pem", "privkey.pem"), strict=True):
        shutil.copy(path, made / "tls" / name)
        os.chown(made / "tls" / name, 10001, 10001)
    return Composed(made, compose(), ca.file)


def comes_up(it: Composed) -> None:
    """`up -d` brings PostgreSQL, the schema, the keys and the server, which is ready over TLS."""
    it.run("up", "-d")
    it.until("the server is ready", lambda: it.ready() == 200)


def is_confined(it: Composed) -> None:
    """The server runs as its own user without a capability, on a root that cannot be written, and is healthy."""
    status = it.run("exec", "-T", "server", "cat", "/proc/1/status")
    told = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    holds(told["Uid"].split()[0] == "10001", "it is nobody special")
    holds(int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0, "it has no capability")
    it.run("exec", "-T", "server", "sh", "-c", "! touch /opt/x 2>/dev/null")
    one = it.run("ps", "-q", "server").strip()
    health = ["docker", "inspect", "--format", "{{.State.Health.Status}}", one]
    it.until("Docker finds it healthy", lambda: run(health).strip() == "healthy")


def is_administered(it: Composed) -> None:
    """Commands run in it as docs say, and the doctor finds nothing broken."""
    it.command_of_server("partner", "create", "Acme", "--id", "acme")
    it.command_of_server("site", "create", "Clinic", "--partner", "acme", "--id", "clinic")
    told = json.loads(it.command_of_server("doctor", "--json", code=1))
    holds([each["part"] for each in told if each["level"] == "broken"] == [], f"nothing is broken: {told}")


def waits_for_the_database(it: Composed) -> None:
    """Without PostgreSQL it is not ready and goes on; with it back it is ready again."""
    it.run("stop", "database")
    it.until("it says that it is not ready", lambda: it.ready() == 503)
    it.run("start", "database")
    it.until("it is ready again", lambda: it.ready() == 200)


def stays(it: Composed) -> None:
    """Taken down and brought up again it has its keys and what was stored."""
    before = it.command_of_server("keys", "trust")
    it.run("down")
    it.run("up", "-d")
    it.until("the server is ready", lambda: it.ready() == 200)
    holds(it.command_of_server("keys", "trust") == before, "the keys are the same")
    holds("clinic" in it.command_of_server("site", "list"), "the site is there")


def is_backed_up(it: Composed) -> None:
    """A backup goes to standard output, by the role that only reads; the server itself has no way to make one."""
    made = it.folder / "cc.backup"
    with made.open("wb") as out:
        argv = [*it.command, "-p", PROJECT, "run", "--rm", "-T", "backup"]
        subprocess.run(
            argv,
            cwd=it.folder,
            env=os.environ | SETTINGS,
            stdout=out,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
    with made.open("rb") as file:
        names = [name for name, _ in archive.members(file)]
    holds(names[-1] == archive.MAC and any("sites" in name for name in names), f"it is whole: {names}")
    holds("DATABASE_BACKUP_URL" in it.command_of_server("backup", "-o", "/tmp/x", code=1), "the server makes none")


STEPS = (comes_up, is_confined, is_administered, is_backed_up, waits_for_the_database, stays)


def holds(true: bool, what: str) -> None:
    if not true:
        raise ContainerError(f"it does not hold that {what}")


def prove(it: Composed) -> None:
    try:
        for number, step in enumerate(STEPS, 1):
            step(it)
            print(f"{number:2}. {step.__doc__}", flush=True)
    finally:
        it.run("down", "-v", code=None)


def main() -> int:
    """Prove it all; 1 and a sentence at the first thing that does not hold."""
    try:
        run(["docker", "info"])
        build()
        with tempfile.TemporaryDirectory() as folder:
            prove(prepare(Path(folder)))
    except (ContainerError, OSError, subprocess.SubprocessError) as error:
        print(f"compose: {error}", file=sys.stderr)
        return 1
    print(f"compose: {len(STEPS)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
