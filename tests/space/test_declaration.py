"""Declarations: every mistake in a TOML gives one line with the file, the place and the remedy."""

from pathlib import Path

import pytest

from autotune.errors import AutotuneError, ProblemError, SpaceError, UnknownNameError
from autotune.space import Dimension, Implementation, SpaceDeclaration, load_declaration, read_declaration
from autotune.space.declaration import declaration_names

GOOD = """
summary = "a toy"
[dimensions.m]
nearest = true
[dimensions.dtype]
choices = ["bfloat16", "float32"]
default = "bfloat16"
[baseline]
implementation = "plain"
threads = "=device.cores"
block = 16
[implementations.plain]
requires = "device.kind == 'cpu'"
[implementations.plain.parameters]
threads = "=powers_of_two(1, device.cores)"
block = [16, 32]
[implementations.plain.constraints]
fits = "block <= 64 * m"
"""


def read(tmp_path: Path, text: str) -> SpaceDeclaration:
    path = tmp_path / "toy.toml"
    path.write_text(text)
    return read_declaration(str(path))


def test_a_good_declaration_reads_back(tmp_path: Path) -> None:
    declaration = read(tmp_path, GOOD)
    assert "toy" == declaration.workload
    assert "toy(m=4, dtype=bfloat16)" == str(declaration.problem({"m": "4"}))
    assert ["plain"] == list(declaration.implementations)


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("requires =", "requries =", "unknown key 'requries'; did you mean requires"),
        ("[baseline]", "[basline]", "unknown key 'basline'; did you mean baseline"),
        ("nearest = true", "nearest = 3", r"dimensions.m.nearest: expected bool, found 3"),
        ('default = "bfloat16"', 'default = "bf16"', "'bf16' is not one of bfloat16, float32"),
        ('["bfloat16", "float32"]', '["bfloat16", "a,b"]', "which separate dimensions"),
        (
            'implementation = "plain"',
            'implementation = "plane"',
            "unknown implementation 'plane'; did you mean plain",
        ),
        ("block = 16\n", "blok = 16\n", "baseline: unknown setting of plain 'blok'; did you mean block"),
        ("block = 16\n", "", "baseline: 'block' of implementation 'plain' is missing"),
        ("block = [16, 32]", "block = []", "expected a list of values that is not empty"),
        ("block = [16, 32]", "block = [16, 16]", "16 stands twice"),
        ("block = [16, 32]", "block = [16, [1]]", r"\[1\] is not a number, text or boolean"),
        ("block = [16, 32]", "m = [16, 32]\nblock = [16]", "the name 'm' is a dimension"),
        ("64 * m", "64 * n", "unknown name in expression 'n'"),
        ("64 * m", "64 *", "does not parse"),
        ('fits = "block <= 64 * m"', "fits = 3", "expected an expression in text form, found 3"),
        ("device.cores)", "device.cores", "does not parse"),
        (
            "[implementations.plain]\n",
            "[implementations.plain]\nlossy = 'perhaps'\n",
            "unknown name in expression",
        ),
    ],
)
def test_each_mistake_is_told_with_its_place(tmp_path: Path, wrong: str, right: str, message: str) -> None:
    assert wrong in GOOD
    with pytest.raises(AutotuneError, match=message) as caught:
        read(tmp_path, GOOD.replace(wrong, right))
    assert str(tmp_path / "toy.toml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert 2 == caught.value.exit_code


@pytest.mark.parametrize("text", ["", "summary =", "dimensions = 3", "\0"])
def test_what_is_no_declaration_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpaceError, match=r"toy\.toml"):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="cannot be read"):
        read_declaration(str(tmp_path / "none.toml"))


def test_an_unknown_workload_names_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean linear"):
        load_declaration("liner")


@pytest.mark.parametrize("workload", declaration_names())
def test_every_shipped_declaration_reads(workload: str) -> None:
    assert workload == load_declaration(workload).workload


def test_a_declaration_is_built_in_python_too() -> None:
    declaration = SpaceDeclaration(
        "mine",
        {"n": Dimension("n")},
        {"plain": Implementation(parameters={"block": [8, 16]}, constraints={"whole": "n % block == 0"})},
        {"implementation": "plain", "block": 8},
    )
    assert "mine(n=8)" == str(declaration.problem({"n": 8}))
    with pytest.raises(UnknownNameError, match=r"mine: implementations.plain.constraints.whole"):
        SpaceDeclaration(
            "mine",
            {},
            {"plain": Implementation(parameters={"block": [8]}, constraints={"whole": "n % block == 0"})},
            {"implementation": "plain", "block": 8},
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": -1}, "m=-1 is out of range; expected 1 to"),
        ({"m": 2**40}, "out of range"),
        ({"m": "many"}, "m='many' is not a whole number"),
        ({"m": True}, "not a whole number"),
        ({}, "dimension 'm' is missing"),
        ({"m": 1, "dtype": "bfloat"}, "did you mean bfloat16"),
        ({"m": 1, "dtpye": "bfloat16"}, "unknown dimension of toy 'dtpye'; did you mean dtype"),
    ],
)
def test_a_wrong_problem_is_told_in_one_line(tmp_path: Path, given: dict[str, object], message: str) -> None:
    declaration = read(tmp_path, GOOD)
    with pytest.raises((ProblemError, UnknownNameError), match=message):
        declaration.problem(given)
