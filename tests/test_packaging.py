"""What an installation brings: built once as a wheel, installed into environments that hold nothing else."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from email.message import Message

pytest.importorskip("pip")

ROOT = Path(__file__).resolve().parent.parent
DATA = ("search_spaces", "hardware", "db", "systemd")


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command's result, run where neither the checkout nor this environment can be imported by chance."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AUTOTUNE"))}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, "AUTOTUNE_STATE_DIR": str(cwd / "state")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def environment(folder: Path, *requirements: str | Path) -> Path:
    """An environment with `requirements` and nothing else; its folder of programs."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    programs = folder / "venv" / "bin"
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", *requirements, cwd=folder)
    return programs


def declarative_files() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in DATA
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, names: set[str]) -> Message:
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("base"), "--no-deps", "--no-index", wheel)


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("editable"), "--editable", ROOT)


def test_only_the_name_autotune_is_installed(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"autotune"}


def test_the_wheel_carries_every_declarative_file(names: set[str]) -> None:
    expected = {f"autotune/_data/{name}" for name in declarative_files()}
    assert "autotune/_data/search_spaces/models/kimi-k2.5.json" in expected
    assert expected <= names


def test_the_wheel_carries_what_the_site_serves(names: set[str]) -> None:
    web = ROOT / "autotune" / "web"
    assets = {
        f"autotune/web/{path.relative_to(web)}"
        for folder in ("templates", "static")
        for path in (web / folder).iterdir()
    }
    assert {"autotune/web/templates/page.html", "autotune/web/static/plots.js"} <= assets
    assert assets <= names


def test_the_wheel_carries_the_licence_and_the_types_marker(names: set[str]) -> None:
    assert "autotune/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_base_install_depends_on_nothing(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist") or []
    assert requirements
    assert [line for line in requirements if "extra ==" not in line] == []


def test_every_extra_is_declared(metadata: Message) -> None:
    assert {"daemon", "server", "web", "test", "bench"} <= set(metadata.get_all("Provides-Extra") or [])


def test_a_look_up_works_in_the_base_install(base: Path, tmp_path: Path) -> None:
    code = """
import sys
import autotune
best = autotune.get_best_config("linear", m=16, n=2112, k=7168)
print(best.match, best["implementation"])
names = {name.partition(".")[0] for name in sys.modules}
print(sorted(names - sys.stdlib_module_names - {"__main__", "autotune"}))
"""
    done = run(base / "python", "-W", "ignore", "-c", code, cwd=tmp_path)
    assert done.stdout == "default torch\n[]\n"


def test_the_base_install_finds_its_data_inside_the_package(base: Path, tmp_path: Path) -> None:
    folders = sorted({name.partition("/")[0] for name in declarative_files()})
    code = f"""
import os
from autotune import paths
from autotune.space.models import load_model
for folder in {folders}:
    assert os.path.relpath(paths.data_dir(folder), paths.PACKAGE_DIR) == os.path.join("_data", folder)
print(load_model("kimi-k2.5").hidden)
"""
    assert run(base / "python", "-c", code, cwd=tmp_path).stdout == "7168\n"


def test_the_command_says_which_extra_is_missing(base: Path, tmp_path: Path) -> None:
    done = run(base / "autotune", "doctor", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "autotune: the autotune command needs typer: pip install 'autotune[daemon]'\n"


@pytest.mark.parametrize("installed", ["base", "editable"])
def test_the_declarative_folders_cannot_be_imported(
    installed: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    programs: Path = request.getfixturevalue(installed)
    code = f"""
from importlib.util import find_spec
names = ["autotune", *{DATA!r}, "tests", "benchmarks", "docs"]
print([name for name in names if find_spec(name)])
"""
    assert run(programs / "python", "-c", code, cwd=tmp_path).stdout == "['autotune']\n"


def test_an_editable_install_uses_the_checkout(editable: Path, tmp_path: Path) -> None:
    code = (
        "import autotune; from autotune import paths; print(autotune.__file__); print(paths.data_dir('db'))"
    )
    expected = f"{ROOT / 'autotune' / '__init__.py'}\n{ROOT / 'db'}\n"
    assert run(editable / "python", "-c", code, cwd=tmp_path).stdout == expected
