"""What look-ups know of declarations: from files, from this process, from installed packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import autotune
from autotune import client, paths
from autotune.errors import ProblemError, SpaceError, UnknownNameError, UsageError
from autotune.lookup import target, warning
from autotune.space import declared
from autotune.space.problem import Dimension, Problem
from autotune.space.skim import skim_dimensions

SHIPPED = """\
summary = "a toy"
[dimensions.m]   # rows
summary = "rows = tokens, \\"so to say\\" # really"
minimum = 1
maximum = 4096
nearest = true

[dimensions.dtype]
choices = ["bfloat16", "float32"]
default = "bfloat16"

[baseline]
implementation = "torch"
compute_dtype = "=dtype"
threads = "=max(1, device.cores // 2)"

[implementations.torch]
[implementations.torch.qualifiers]
compute_dtype = ["bfloat16", "float32"]
[implementations.torch.parameters]
threads = [
    1,
    2,
]
[implementations.int8.qualifiers]
group = [32]
"""
BROKEN = {
    "not TOML": "[dimensions.m\nnearest",
    "no dimensions": 'summary = "x"',
    "dimensions of a wrong type": "dimensions = 3\n[baseline]\n",
    "a dimension of a wrong type": "[dimensions]\nm = 3\n[baseline]\n",
    "a bound of a wrong type": '[dimensions.m]\nminimum = "a"\n[baseline]\n',
    "choices of a wrong type": "[dimensions.m]\nchoices = 3\n[baseline]\n",
    "implementations of a wrong type": "implementations = 3\n[dimensions.m]\n[baseline]\n",
    "no baseline": "[dimensions.m]\n",
    "binary": "\0\udcff\udcfe",
    "empty": "",
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A checkout that ships the workload `toy`, and an operator's folder; a machine of four cores."""
    shipped, override = tmp_path / "checkout" / "search_spaces", tmp_path / "etc" / "search_spaces"
    shipped.mkdir(parents=True)
    override.mkdir(parents=True)
    (shipped / "toy.toml").write_text(SHIPPED)
    monkeypatch.setattr(paths, "PACKAGE_DIR", str(tmp_path / "checkout" / "autotune"))
    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path / "etc"))
    monkeypatch.setattr(declared, "_registered", {})
    monkeypatch.setattr(declared, "_dimensions", {})
    monkeypatch.setattr(declared, "_parsed", {})
    monkeypatch.setattr(warning, "_given", set())
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(target, "_cpu_digest", lambda: "c0" * 8)
    monkeypatch.setattr(target, "_cpu_facts", lambda: {"cores": 4, "family": "x86"})
    monkeypatch.setattr(target, "_stack_digest", lambda _: "51" * 8)
    client.refresh()
    yield shipped, override
    client.refresh()


def described(dimensions):
    return [
        (d.name, d.choices, d.minimum, d.maximum, d.default, d.nearest) for d in (dimensions or {}).values()
    ]


def test_a_shipped_declaration_gives_dimensions_qualifiers_and_baseline(folders):
    found = declared.declared("toy")
    assert described(found.dimensions) == [
        ("m", None, 1, 4096, None, True),
        ("dtype", ("bfloat16", "float32"), 1, 2**31 - 1, "bfloat16", False),
    ]
    assert found.qualifiers == {"implementation", "compute_dtype", "group"}
    assert found.baseline == {
        "implementation": "torch",
        "compute_dtype": "=dtype",
        "threads": "=max(1, device.cores // 2)",
    }
    assert found.faults == ()
    assert described(declared.dimensions_of("toy")) == described(found.dimensions)


def test_the_baseline_is_calculated_for_problem_and_device(folders):
    with pytest.warns(autotune.AutotuneWarning, match=r"best\.db"):
        best = autotune.get_best_config("toy", m=1, dtype="float32")
    assert best == {"implementation": "torch", "compute_dtype": "float32", "threads": 2}


def test_what_of_the_baseline_cannot_be_calculated_is_left_out(folders):
    shipped, _ = folders
    (shipped / "toy.toml").write_text(SHIPPED.replace("device.cores", "device.sockets"))
    with pytest.warns(autotune.AutotuneWarning) as caught:
        best = autotune.get_best_config("toy", m=1)
    assert best == {"implementation": "torch", "compute_dtype": "bfloat16"}
    assert "threads: " in str(caught[-1].message)
    assert "left out" in str(caught[-1].message)


def test_an_operators_file_holds_instead_of_the_shipped_one(folders):
    _, override = folders
    (override / "toy.toml").write_text(SHIPPED.replace("4096", "8").replace("= 1\n", "= 2\n"))
    with pytest.raises(ProblemError, match="expected 2 to 8"):
        autotune.get_best_config("toy", m=9)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_of_the_operator_leaves_the_shipped_one_in_force(folders, text):
    _, override = folders
    (override / "toy.toml").write_text(text, "utf-8", "surrogateescape")
    with pytest.warns(autotune.AutotuneWarning) as caught:
        best = autotune.get_best_config("toy", m=1)
    assert best == {"implementation": "torch", "compute_dtype": "bfloat16", "threads": 2}
    assert any(str(override / "toy.toml") in str(each.message) for each in caught)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_where_both_files_are_broken_any_problem_is_accepted(folders, text):
    """Nor are qualifiers refused; the configuration is empty, or what is left of the baseline."""
    for folder in folders:
        (folder / "toy.toml").write_text(text, "utf-8", "surrogateescape")
    with pytest.warns(autotune.AutotuneWarning):
        best = autotune.get_best_config("toy", m=1, qualifiers={"anything": 1})
    assert (best, best.match, best.problem.key) == ({}, "default", "m=1")


def test_a_misspelt_workload_raises_naming_shipped_and_declared_ones(folders):
    declared.declare("mine", [Dimension("m")], {})
    with pytest.raises(UnknownNameError, match=r"'toi'; did you mean toy\?"):
        declared.declared("toi")
    with pytest.raises(UnknownNameError, match=r"'mime'; did you mean mine\?"):
        declared.dimensions_of("mime")


def test_a_workload_of_ones_own_is_known_once_declared(folders):
    with pytest.raises(UnknownNameError):
        autotune.get_best_config("mine", tokens=4)
    autotune.declare("mine", [Dimension("tokens")], {"tile": 64}, qualifiers=["tile"])
    with pytest.warns(autotune.AutotuneWarning):
        assert autotune.get_best_config("mine", tokens=4, qualifiers={"tile": 1}) == {"tile": 64}
    with pytest.raises(UnknownNameError, match="did you mean tile"):
        autotune.get_best_config("mine", tokens=4, qualifiers={"tiles": 64})


def test_declaring_again_replaces_and_is_noticed(folders, monkeypatch):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        autotune.declare("mine", [Dimension("tokens")], {"tile": 64})
        assert autotune.get_best_config("mine", tokens=4) == {"tile": 64}
        autotune.declare("mine", [Dimension("tokens")], {"tile": 32})
        assert autotune.get_best_config("mine", tokens=4) == {"tile": 32}


def test_a_declaration_that_cannot_be_called_is_refused(folders):
    with pytest.raises(UsageError, match="'toy' ships with autotune"):
        autotune.declare("toy", [Dimension("m")], {})
    with pytest.raises(SpaceError, match="cannot be named 'device'"):
        autotune.declare("mine", [Dimension("m"), Dimension("device")], {})
    with pytest.raises(SpaceError, match="no dimensions"):
        autotune.declare("mine", [], {})


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A way to install a package that names the workload `theirs` as an entry point."""

    def install(code: str) -> None:
        site = tmp_path / "site"
        (site / "theirs-1.0.dist-info").mkdir(parents=True)
        (site / "theirs-1.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
        (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
            "[autotune.workloads]\ntheirs = theirs_module:Theirs\n"
        )
        (site / "theirs_module.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "theirs_module", raising=False)

    yield install
    sys.modules.pop("theirs_module", None)


def test_an_installed_packages_workload_is_imported_when_asked_for(folders, installed):
    installed(
        "import autotune\n"
        "autotune.declare('theirs', [autotune.Dimension('m')], {'implementation': 'x'})\n"
        "class Theirs: pass\n"
    )
    with pytest.warns(autotune.AutotuneWarning):
        assert autotune.get_best_config("theirs", m=1) == {"implementation": "x"}
    with pytest.raises(UnknownNameError, match="did you mean theirs"):
        autotune.get_best_config("their", m=1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import nothing_of_the_kind", "nothing_of_the_kind"), ("class Theirs: pass", "declare")],
)
def test_an_installed_package_that_declares_nothing_is_an_error_with_a_reason(
    folders, installed, code, reason
):
    installed(code)
    with pytest.raises(UsageError, match=reason):
        autotune.get_best_config("theirs", m=1)


SKIMMED = """\
# a comment
[dimensions.m]
nearest = true # why
minimum = 2
[ dimensions.n ]
[dimensions.k] # why
choices = [ "a" , "b", ]
default="a"
"""


def parsed(text):
    return {
        name: {key: value for key, value in table.items() if key != "summary"}
        for name, table in tomllib.loads(text)["dimensions"].items()
    }


@pytest.mark.parametrize(
    "text", [SHIPPED, SKIMMED.replace("[ dimensions.n ]", "[dimensions.n]"), SHIPPED.replace("\n", "\r\n")]
)
def test_skimming_reads_what_parsing_reads(text):
    assert skim_dimensions(text) == parsed(text)
    assert list(skim_dimensions(text)) == list(parsed(text))


@pytest.mark.parametrize(
    "text",
    [
        SKIMMED,  # spaces within a header
        "dimensions = {m = {}}",
        "dimensions.m.nearest = true",
        '"dimensions".m.nearest = true',
        "[dimensions]\nm = {nearest = true}",
        "[dimensions]\nm.nearest = true",
        '["dimensions".m]\nnearest = true',
        '[dimensions."m"]\nnearest = true',
        "[dimensions.m.extra]\nnearest = true",
        "[[dimensions.m]]\nnearest = true",
        "[dimensions.m]\nmaximum = 1_000",
        "[dimensions.m]\nmaximum = 0x10",
        "[dimensions.m]\nmaximum = 1e3",
        "[dimensions.m]\nminimum = -1",
        "[dimensions.m]\nchoices = [\n'a']",
        "[dimensions.m]\nchoices = ['a']",
        '[dimensions.m]\nchoices = ["a,b"]',
        '[dimensions.m]\nchoices = ["a#b"]',
        '[dimensions.m]\nchoices = ["\\u0061"]',
        '[dimensions.m]\nsummary = """\n[dimensions.n]\n"""',
        "[dimensions.m]\nsummary = '''\n[dimensions.n]\n'''",
        'x = """\n[dimensions.n]\n"""',
        "[dimensions.m]\n'nearest' = true",
        "[dimensions.m]\nnearest = True",
        "",
        "[baseline]\n",
    ],
)  # fmt: skip
def test_what_is_not_in_the_plain_form_is_left_to_the_parser(text):
    assert skim_dimensions(text) is None


ROOT = Path(__file__).parents[2]
SHIPPED_FILES = sorted((ROOT / "search_spaces").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_every_shipped_declaration_can_be_skimmed(path):
    """So that an exact look-up of it never waits for a TOML parser to be imported."""
    text = path.read_text()
    assert skim_dimensions(text) == parsed(text)


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_look_ups_and_search_spaces_read_the_same_declaration(path):
    from autotune.space.declaration import read_declaration

    whole, light = read_declaration(str(path)), declared.declared(path.stem)
    assert described(light.dimensions) == described(whole.dimensions)
    assert light.baseline == whole.baseline
    assert light.qualifiers == {"implementation"}.union(
        *(implementation.qualifiers for implementation in whole.implementations.values())
    )
    assert light.faults == ()


def test_skimming_loads_no_parser(tmp_path):
    program = f"""if True:
        import sys
        from autotune import paths
        paths.PACKAGE_DIR = {str(tmp_path / "checkout" / "autotune")!r}
        from autotune.space.declared import dimensions_of
        assert list(dimensions_of("toy")) == ["m", "dtype"]
        assert not {{"tomllib", "re", "typing", "json"}} & set(sys.modules), sorted(sys.modules)
    """
    (tmp_path / "checkout" / "search_spaces").mkdir(parents=True)
    (tmp_path / "checkout" / "search_spaces" / "toy.toml").write_text(SHIPPED)
    result = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_problem_that_a_look_up_makes_is_the_one_a_study_is_stored_under(folders):
    given = {"dtype": "float32", "m": 3}
    assert Problem.of("toy", declared.dimensions_of("toy"), given).key == "m=3,dtype=float32"


@pytest.mark.parametrize("device", ["x86-amx", "nvidia-h200"])
def test_look_ups_and_search_spaces_agree_on_the_baseline_of_a_kind_of_device(device):
    """What a CPU alone is set to is absent on a GPU."""
    from autotune.fingerprint import device_named
    from autotune.lookup.baseline import baseline
    from autotune.space import SearchSpace
    from autotune.space.declaration import load_declaration

    facts = device_named(device).facts
    declaration = load_declaration("linear")
    problem = declaration.problem({"m": 16, "n": 64, "k": 64})
    target = SimpleNamespace(facts=lambda: facts)
    assert baseline(problem, target) == SearchSpace.build(declaration, problem, facts).baseline
    assert ("threads" in baseline(problem, target)) == (facts["kind"] == "cpu")
