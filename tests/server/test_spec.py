"""Specs: what they say, what each mistake in one is told as, and that those shipped are right."""

from __future__ import annotations

import sys

import pytest

from autotune.errors import UsageError
from autotune.server.spec import load_spec, shipped_specs
from autotune.space.searchspace import SearchSpace

GOOD = f"""
name = "mine"
command = ["{sys.executable}", "serve.py", "--model", "{{model}}", "--port", "{{port}}"]
[variables]
model = "m"
[environment]
CACHE = "/tmp/{{model}}"
[load]
prompt_tokens = [1, 2]
[slo]
ttft_ms = 100
[baseline]
max_num_seqs = "default"
enable_x = false
LEVEL = 1
kind = "a"
[parameters]
max_num_seqs = ["default", 8]
enable_x = [true, false]
LEVEL = [1, 2]
kind = ["a", "b"]
[arguments]
kind = ["--set", "kind:{{value}}"]
"""


def read(tmp_path, text: str, **variables: str):
    """The spec that a text is."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_spec(str(path), variables)


def test_a_configuration_becomes_flags_and_variables(tmp_path):
    """`default` is left out, capitals go to the environment, `arguments` says what is written otherwise."""
    spec = read(tmp_path, GOOD, model="big")
    made = {"implementation": "mine", "max_num_seqs": 8, "enable_x": False, "LEVEL": 2, "kind": "b"}
    assert [
        *(sys.executable, "serve.py", "--model", "big", "--port", "81"),
        *("--max-num-seqs", "8", "--no-enable-x", "--set", "kind:b"),
    ] == spec.command(made, 81)
    assert ["--enable-x"] == spec.flags({"max_num_seqs": "default", "enable_x": True, "LEVEL": 1})
    environment = spec.environment(made, 81)
    assert ("/tmp/big", "2") == (environment["CACHE"], environment["LEVEL"])


def test_what_changes_the_problem_changes_its_digest(tmp_path):
    """The load does, values that are tried and times to wait do not."""
    first = read(tmp_path, GOOD).digest
    assert read(tmp_path, GOOD.replace('["default", 8]', '["default", 8, 16]')).digest == first
    assert read(tmp_path, GOOD + "[ready]\nseconds = 7\n").digest == first
    assert read(tmp_path, GOOD.replace("[1, 2]\n[slo]", "[1, 3]\n[slo]")).digest != first
    assert read(tmp_path, GOOD, model="other").digest != first


@pytest.mark.parametrize(
    ("find", "put", "message"),
    [
        ('name = "mine"', "", "'name' is missing"),
        ('name = "mine"', 'name = "my server"', "name: expected a word such as 'vllm-llama'"),
        ('name = "mine"', 'nmae = "mine"', "unknown section 'nmae'; did you mean name?"),
        ("ttft_ms", "tftf_ms", "unknown key of [slo] 'tftf_ms'; did you mean ttft_ms or tpot_ms?"),
        ("ttft_ms = 100", "ttft_ms = -1", "ttft_ms: expected milliseconds above 0, found -1"),
        ("ttft_ms = 100", 'ttft_ms = "soon"', "slo.ttft_ms: expected a number, found 'soon'"),
        ("[1, 2]\n[slo]", "[2, 1]\n[slo]", "load.prompt_tokens: expected [fewest, most], found [2, 1]"),
        ("[1, 2]\n[slo]", "[1, 2]\nrate = 0\n[slo]", "load.rate: expected a number > 0"),
        ("[1, 2]\n[slo]", '[1, 2]\ntrace = "no.csv"\n[slo]', "no.csv: cannot be read"),
        ('"--port", "{port}"', '"--prt", "80"', "command: has no {port}"),
        ('"{model}"', '"{modle}"', "command: {modle} is no variable; known are host, model, port"),
        (sys.executable, "/no/such/python", "command: '/no/such/python' is no program that can be found"),
        ('model = "m"', 'model = ""', "variables.model: is empty; give --set model=VALUE"),
        ("[slo]", '[request]\nurl = "v1/completions"\n[slo]', "request.url: expected a path"),
        ("[slo]", '[request]\nurl = "/v1/embeddings"\n[slo]', "ends in /completions"),
        ('kind = ["--set"', 'knd = ["--set"', "arguments.knd: is no setting; known are max_num_seqs"),
        ('max_num_seqs = "default"', "", "baseline: 'max_num_seqs' of implementation 'mine' is missing"),
        ('max_num_seqs = "default"', "max_num_seqs = 9", "baseline.max_num_seqs is 9, which is not among"),
        ("[slo]", '[constraints]\nx = "max_num_seqs > 4"\n[slo]', "max_num_seqs is a number or 'default'"),
        ("[slo]", '[constraints]\nx = "LEVLE > 4"\n[slo]', "LEVLE"),
        ("LEVEL = [1, 2]", "LEVEL = 3", "LEVEL: expected a list of values"),
        ('CACHE = "/tmp/{model}"', "CACHE = 1", "environment[...]: Expected str, got int"),
        ("[variables]", "[variables", "is not TOML"),
    ],
)
def test_a_mistake_is_told_with_file_and_key(tmp_path, find, put, message):
    """In one line."""
    assert find in GOOD

    def made() -> SearchSpace:
        spec = read(tmp_path, GOOD.replace(find, put, 1))
        return SearchSpace.build(spec.declaration, spec.problem, {"kind": "cpu"})

    with pytest.raises(UsageError) as told:
        made()
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    assert "mine.toml" in str(told.value) or "no.csv" in str(told.value)


def test_a_name_that_is_no_shipped_spec_is_told():
    """With those that are."""
    with pytest.raises(UsageError, match="unknown server spec 'vlm'; did you mean vllm"):
        load_spec("vlm")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_spec("no/such.toml")


@pytest.mark.parametrize("name", ["sglang", "transformers", "vllm"])
def test_a_shipped_spec_needs_only_a_model(name, tmp_path, monkeypatch):
    """Each makes a space whose baseline is the server without any flag."""
    for program in ("vllm", "python3", "transformers"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert name in shipped_specs()
    with pytest.raises(UsageError, match="give --set model=VALUE"):
        load_spec(name)
    spec = load_spec(name, {"model": "some/model"})
    space = SearchSpace.build(spec.declaration, spec.problem, {"kind": "cuda"})
    assert len(space) > 10
    assert [] == spec.flags(space.baseline)
    with pytest.raises(UsageError, match="unknown variable 'modle'; did you mean model"):
        load_spec(name, {"modle": "x"})
