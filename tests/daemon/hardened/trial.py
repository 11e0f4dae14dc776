"""What the machine of `boot.sh` does, as root: install the service, start it, have it tune, and tell of it.

Arguments: the checkout, the folder for what is told, and seconds for a study.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PREFIX = Path("/opt/autotune")
INTERPRETER = Path("/opt/interpreter")
UNITS = Path("/etc/systemd/system")
PORT = 9719
SETTINGS = """
[daemon]
devices = ["cpu"]
[worker]
modules = ["{kernels}"]
[gate]
looks = 1
look_seconds = 0.05
others_cpu = 1.0
others_running = 1000
memory_available = 0.01
temperature_c = 150
[measure]
screen_seconds = 0.3
[study]
budget_seconds = {budget}
"""
PROBE = """
[Service]
Type=oneshot
NotifyAccess=none
ExecStart=
ExecStart={python} {script} /var/lib/autotune/probe.json
ExecReload=
Restart=no
WatchdogSec=0
TimeoutStartSec=10min
StandardError=file:/mnt/out/probe.log
"""
LOGGED = "[Service]\nStandardError=append:/mnt/out/daemon.log\n"


def environment_of_its_own(checkout: Path) -> Path:
    """This interpreter and what it can import, where the service can see it; returns its path."""
    INTERPRETER.mkdir()
    run("mount", "--bind", sys.base_prefix, str(INTERPRETER))
    Path("/etc/ld.so.conf.d/interpreter.conf").write_text(f"{INTERPRETER}/lib\n")
    run("ldconfig")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    run(str(INTERPRETER / "bin" / version), "-m", "venv", "--without-pip", str(PREFIX))
    imported = [str(checkout), *(path for path in sys.path if path.endswith("site-packages"))]
    (PREFIX / "lib" / version / "site-packages" / "imported.pth").write_text("\n".join(imported))
    python, program = PREFIX / "bin" / "python", PREFIX / "bin" / "autotune"
    program.write_text(f"#!{python}\nimport sys\nfrom autotune.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return python


def run(*words: str) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def installed(program: str, python: Path, checkout: Path) -> None:
    """The units as the product installs them; the probe is the daemon's with another command."""
    run(program, "service", "install", "--program", program, "--no-nvidia")
    run("systemd-sysusers")
    run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/autotune.conf")
    shutil.copy(UNITS / "autotuned.service", UNITS / "probe.service")
    for name, text in (
        ("autotuned", LOGGED),
        ("probe", PROBE.format(python=python, script=checkout / "tests/daemon/hardened/probe.py")),
    ):
        (UNITS / f"{name}.service.d").mkdir()
        (UNITS / f"{name}.service.d" / "trial.conf").write_text(text)
    run("systemctl", "daemon-reload")


def studied(program: str, kernels: Path) -> list[dict[str, object]]:
    """Have the service tune, and return the trials."""
    run("systemctl", "start", "autotuned.service")
    run(program, "tune", "steady", "-p", "rows=64,width=32", "--module", str(kernels))
    run(program, "tune", "linear", "-p", "m=4,n=256,k=256")
    while json.loads(run(program, "requests", "--json"))["agenda"]:
        time.sleep(0.2)
    studies = [str(study["id"]) for study in json.loads(run(program, "history", "--json"))]
    return [json.loads(run(program, "show", study, "--json")) for study in studies]


def main() -> None:
    checkout, out = Path(sys.argv[1]), Path(sys.argv[2])
    told: dict[str, object] = {}
    try:
        python = environment_of_its_own(checkout)
        program = str(PREFIX / "bin" / "autotune")
        kernels = checkout / "tests/daemon/quick_kernels.py"
        folder = Path("/etc/autotune")
        folder.mkdir(exist_ok=True)
        (folder / "config.toml").write_text(SETTINGS.format(kernels=kernels, budget=sys.argv[3]))
        os.environ |= {"AUTOTUNE_STATE_DIR": "/var/lib/autotune", "AUTOTUNE_RUNTIME_DIR": "/run/autotune"}
        installed(program, python, checkout)
        told["studies"] = studied(program, kernels)
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz") as answer:
            told["ready"] = answer.status
        run("systemctl", "start", "probe.service")
        told["probe"] = json.loads(Path("/var/lib/autotune/probe.json").read_text())
        run("systemctl", "stop", "autotuned.service")
        told["ended"] = run("systemctl", "show", "-p", "Result,ExecMainStatus", "autotuned.service").split()
    except Exception as error:
        told["failure"] = f"{type(error).__name__}: {error}"
    (out / "told.part").write_text(json.dumps(told))
    (out / "told.part").rename(out / "told.json")


if __name__ == "__main__":
    main()
