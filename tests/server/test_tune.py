"""`autotune tune server`: searched, proven against the untuned server, published, exported, looked up."""

from __future__ import annotations

import json

import pytest

import autotune
from autotune.cli import main

FAST = """
[slo]
e2e_ms = 2000
percentile = 80
[baseline]
max_num_seqs = 1
[parameters]
max_num_seqs = [1, 8]
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("[measure]\nconfidence = 0.8\nfinal_share = 0.9\n")


def printed(capsys, *words: str) -> dict | list:
    """What a command prints as JSON."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_server_is_tuned_published_and_written_down(written, tmp_path, capsys):
    """Eight places beat one under a load that one cannot carry; all that reads winners reads this one."""
    path = written("--token-seconds", "0.008", tables=FAST, requests=20)
    told = printed(
        capsys,
        *("tune", "server", "--spec", path, "--objective", "latency", "--device", "cpu", "--budget", "60s"),
    )
    best = told["winner"]["choices"][0]
    assert {"implementation": "fake", "max_num_seqs": 8} == best["configuration"]
    assert best["proof"]["against_baseline"]["low"] > 1.01
    assert best["proof"]["rounds"] >= 4
    assert best["measurement"]["load"]["answered"] == 15
    assert told["command"][-2:] == ["--max-num-seqs", "8"]
    assert best["memory_bytes"] > 2**20

    again = printed(capsys, "tune", "server", "--spec", path, "--objective", "latency", "--device", "cpu")
    assert again["fresh"] is False
    assert again["winner"]["choices"][0]["measurement"] == best["measurement"], "kept whole"

    dimensions = told["winner"]["dimensions"]
    found = autotune.get_best_config("server", **dimensions)
    assert found["max_num_seqs"] == 8

    folder = tmp_path / "written"
    words = ("export", "server", "--spec", path, "--objective", "latency", "--to", str(folder))
    assert main(list(words)) == 0
    assert (folder / "fake.yaml").read_text() == "max-num-seqs: 8\n"
    assert (folder / "fake.env").read_text() == 'AUTOTUNE_ARGUMENTS="--max-num-seqs 8"\n'

    capsys.readouterr()
    problem = ",".join(f"{name}={value}" for name, value in dimensions.items())
    assert main(["explain", "server", "-p", problem]) == 0
    assert "max_num_seqs=8" in capsys.readouterr().out
    assert main(["show", "1/0"]) == 0
    shown = capsys.readouterr().out
    assert "tpot: (last token - first token) / (output tokens - 1)" in shown
    assert main(["report"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --spec FILE.toml, or one of sglang, transformers, vllm"),
        (("--spec", "vlm"), "unknown server spec 'vlm'; did you mean vllm?"),
        (("--spec", "{path}", "-p", "m=1"), "a server has neither -p nor --latency-limit"),
        (("--spec", "{path}", "--set", "model"), "--set 'model' is not NAME=VALUE"),
        (("--spec", "{path}", "--objective", "energy"), "unknown objective of a server 'energy'"),
        (
            ("--spec", "{path}", "--objective", "tail"),
            "leaves 35 after warm-up, and --objective tail needs 662",
        ),
        (("--spec", "{path}", "--device", "nvidia-h200"), "is a profile, and no device of this host"),
        (("--spec", "{path}", "--budget", "soon"), "is not a duration"),
    ],
)
def test_a_mistake_ends_before_a_server_is_started(written, capsys, words, message):
    """In one line, exit 2."""
    path = written()
    assert main(["tune", "server", *(word.replace("{path}", path) for word in words)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_an_untuned_server_that_fails_is_told(written, capsys):
    """With its last words, exit 1; there is nothing to compare with."""
    path = written("--misbehave", "refuse")
    assert main(["tune", "server", "--spec", path, "--device", "cpu"]) == 1
    told = capsys.readouterr().err
    assert (
        "the untuned server failed: crashed: start: the server exited with status 2; last output: fake_"
        in told
    )


def test_a_spec_is_of_a_server(capsys):
    """Other workloads have none."""
    assert main(["tune", "linear", "-p", "m=1,n=8,k=8", "--spec", "vllm"]) == 2
    assert "--spec and --set are of a server" in capsys.readouterr().err


def test_what_no_load_can_show_is_told(written, capsys):
    """A limit that so few requests cannot show, and a throughput without a limit."""
    path = written(tables=FAST.replace("80", "99"))
    assert main(["tune", "server", "--spec", path]) == 2
    assert "leaves 35 after warm-up, and [slo] percentile = 99 needs 459" in capsys.readouterr().err
    path = written(tables=FAST.replace("e2e_ms = 2000", ""))
    assert main(["tune", "server", "--spec", path]) == 2
    assert "[slo] sets no limit, and throughput is the largest rate that keeps one" in capsys.readouterr().err


def test_a_spec_is_started_loaded_and_ended(capsys, written):
    """With the requests that were asked for in place of the spec's."""
    words = ("load", "--spec", written(), "--rate", "50", "--requests", "30", "--prompt-tokens", "4")
    (told,) = printed(capsys, *words, "--output-tokens", "2", "--warm-up", "0")
    assert (30, 30, "usage") == (told["requests"], told["answered"], told["tokens_counted"])
    assert told["peak_memory_bytes"] > 2**20
    assert main(["load", "--spec", written("--misbehave", "refuse")]) == 2
    assert "crashed: start: the server exited with status 2" in capsys.readouterr().err
