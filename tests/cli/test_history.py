"""The history on the command line: found, sorted, compared and told, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.cli import main
from autotune.store import open_history, read_history
from autotune.store.records import Interval, Measurement, Proof, Verdict
from autotune.store.snapshot import publish
from tests.store.factories import (
    CPU,
    EPOCH,
    GPU,
    OTHER_STACK,
    STACK,
    choice,
    configuration,
    gpu,
    measurement,
    problem,
    promote,
    record_host,
    study_key,
    trial,
    winner,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.store import History

LOST = Proof(40, 0.99, 0.01, 4e6, 4e6, Interval(1.0, 1.0, 1.0), stopped="decided")
LONG = "a_name_that_somebody_gave_to_a_kernel_of_their_own_and_that_goes_on_and_on_" * 3
PROBLEM = ("-p", "m=16,n=7168,k=2048")
MORE = ("--json", "--csv")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with five studies on two devices under two stacks, and three generations."""
    state = tmp_path_factory.mktemp("lived")
    with open_history(str(state)) as history:
        promote(history, latency_ns=4e5)
        publish(history, "first")
        promote(history, m=64, latency_ns=2e5, decided_at=EPOCH + 1)
        publish(history, "second")
        history.record_device(gpu())
        history.record_stack(OTHER_STACK, {"torch": "2.12.0"})
        for device, stack, latency in ((GPU, STACK, 1e5), (CPU, OTHER_STACK, 5e5)):
            study = history.begin_study(study_key(device=device, stack=stack), problem().dimensions)
            history.add_trial(study, trial(0))
            history.promote(study, winner(latency_ns=latency, device=device, stack=stack))
            history.end_study(study, "budget")
        study = history.begin_study(study_key(workload=LONG), problem().dimensions)
        history.add_trial(study, trial(0, configuration={"implementation": LONG, LONG: LONG}))
        history.add_trial(study, trial(1, Verdict.WRONG, reason=LONG))
        history.end_study(study, LONG)
        decide_real(history)
        publish(history, LONG)
    return state


def decide_real(history: History, **changes: Any) -> None:
    """Decide a problem that the command line knows by its dimensions."""
    from autotune.workloads.registry import declaration

    real = declaration("linear").problem({"m": "16", "n": "7168", "k": "2048"})
    record_host(history)
    study = history.begin_study(study_key(problem=real.key), real.dimensions)
    for number in range(8):
        history.add_trial(study, trial(number, measurement=measurement(1e6 + 1e5 * number)))
    named = {"problem": real.key, "dimensions": real.dimensions, "neighbourhood": real.neighbourhood}
    history.promote(study, winner(**{**named, **changes}))
    history.end_study(study, "budget")


@pytest.fixture(autouse=True)
def environment(lived: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(lived))
    monkeypatch.setenv("AUTOTUNE_CONFIG", os.devnull)
    return


def told(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def rows(capsys, *words: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(told(capsys, *words, "--csv"))))


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err


VIEWS: list[tuple[str, ...]] = [
    ("history",),
    ("history", LONG),
    ("show", "1"),
    ("show", "5"),
    ("show", "5/0"),
    ("show", "5/1"),
    ("explain", "linear", *PROBLEM),
    ("report",),
    ("compare", "1", "2"),
    ("compare", "1", "5"),
    ("compare", f"device:{CPU}", f"device:{GPU}"),
    ("compare", f"stack:{STACK}", f"stack:{OTHER_STACK}"),
    ("compare", "generation:1", "generation:3"),
    ("diff",),
    ("diff", "1", "3"),
    ("rollback", "--list"),
]


@pytest.mark.parametrize("words", VIEWS, ids=lambda words: " ".join(words)[:40])
def test_every_view_fits_100_columns(capsys, words: tuple[str, ...]) -> None:
    for line in told(capsys, *words).splitlines():
        assert len(line.rstrip()) <= 100


@pytest.mark.parametrize("words", VIEWS, ids=lambda words: " ".join(words)[:40])
def test_every_view_is_there_for_programs(capsys, words: tuple[str, ...]) -> None:
    assert json.loads(told(capsys, *words, "--json"))
    table = rows(capsys, *words)
    assert table or words in (("show", "5/1"), ("compare", "1", "2"), ("compare", "1", "5"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [6, 5, 4, 3, 2, 1]),
        (("--reverse",), [1, 2, 3, 4, 5, 6]),
        (("--limit", "2"), [6, 5]),
        (("--limit", "2", "--offset", "2"), [4, 3]),
        (("linear",), [6, 4, 3, 2, 1]),
        (("-p", "m=64"), [2]),
        (("--device", GPU), [3]),
        (("--device", GPU[:6]), [3]),
        (("--device", "NVIDIA H200"), [3]),
        (("--device", "cuda"), [3]),
        (("--stack", OTHER_STACK), [4]),
        (("--verdict", "wrong"), [5]),
        (("--state", "running"), []),
        (("--objective", "tail"), []),
        (("--since", "1d"), [6, 5, 4, 3, 2, 1]),
        (("--until", "1d"), []),
        (("--until", "2020-01-01"), []),
        (("--since", "2020-01-01T10:00"), [6, 5, 4, 3, 2, 1]),
        (("--sort", "trials"), [6, 1, 2, 5, 3, 4]),
        (("--sort", "problem"), [5, 1, 3, 4, 6, 2]),
        (("--sort", "best"), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_studies_are_found_and_sorted(capsys, words: tuple[str, ...], expected: list[int]) -> None:
    assert expected == [int(row["study"]) for row in rows(capsys, "history", *words)]


def test_trials_are_sorted_and_filtered(capsys) -> None:
    assert ["2", "1", "0"] == [row["number"] for row in rows(capsys, "show", "1", "--reverse")]
    assert ["0", "1", "2"] == [row["number"] for row in rows(capsys, "show", "1", "--sort", "p50")]
    assert ["1"] == [row["number"] for row in rows(capsys, "show", "5", "--verdict", "wrong")]
    assert ["1", "0"] == [row["number"] for row in rows(capsys, "show", "5", "--sort", "verdict")][::-1]
    assert "1 of 3 trials" in told(capsys, "show", "1", "--limit", "1")


def test_the_samples_of_a_trial_are_the_rows_of_its_csv(capsys) -> None:
    expected = measurement(1e6, seed=0).samples_ns
    assert expected == tuple(int(row["ns"]) for row in rows(capsys, "show", "1/0"))


def test_what_a_spreadsheet_would_run_is_text(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "other"))
    with open_history(str(tmp_path / "other")) as history:
        record_host(history)
        study = history.begin_study(study_key(workload="=1+1"), {"m": 1})
        history.add_trial(study, trial(0, Verdict.WRONG, reason="@SUM(A1)"))
    assert "'=1+1" == rows(capsys, "history")[0]["workload"]
    assert "'@SUM(A1)" == rows(capsys, "show", "1")[0]["reason"]


def test_a_comparison_of_devices_says_what_the_other_is_worth(capsys) -> None:
    told_ = json.loads(told(capsys, "compare", f"device:{CPU}", f"device:{GPU}", "--json"))
    (one,) = told_["problems"]
    assert (5e5, 1e5) == (one["first_ns"], one["second_ns"])
    assert one["ratio"]["low"] < one["ratio"]["ratio"] == 5.0 < one["ratio"]["high"]
    assert 5.0 == pytest.approx(told_["mean_ratio"])


def test_a_comparison_of_studies_of_one_problem_has_an_interval(capsys) -> None:
    (one,) = json.loads(told(capsys, "compare", "1", "3", "--json"))["problems"]
    assert 4.0 == one["ratio"]["ratio"]
    assert 3.9 < one["ratio"]["low"] < 4.0 < one["ratio"]["high"] < 4.1


def test_generations_differ_by_what_was_decided_between_them(capsys) -> None:
    changes = json.loads(told(capsys, "diff", "1", "3", "--json"))["changes"]
    assert ["added"] * 4 == [change["kind"] for change in changes]
    back = json.loads(told(capsys, "diff", "3", "1", "--json"))["changes"]
    assert ["removed"] * 4 == [change["kind"] for change in back]
    assert [] == json.loads(told(capsys, "diff", "3", "3", "--json"))["changes"]
    assert "the same winners" in told(capsys, "diff", "3", "3")


def test_a_pin_is_kept_with_its_reason(capsys) -> None:
    told(capsys, "pin", "1", "--reason", "job 42\nof all ranks")
    assert {1: "job 42 of all ranks", 2: "", 3: ""} == {
        int(row["number"]): row["pin_reason"] for row in rows(capsys, "rollback", "--list")
    }
    assert "pinned: job 42" in told(capsys, "rollback", "--list")
    with read_history() as reader:
        assert "job 42 of all ranks" == reader.events(kind="pinned")[0].detail["reason"]
    told(capsys, "unpin", "1")
    assert "pinned" not in told(capsys, "rollback", "--list")


def test_the_report_is_sorted_limited_and_sums_up_all(capsys) -> None:
    gains = [float(row["speedup"]) for row in rows(capsys, "report", "--sort", "speedup")]
    assert sorted(gains, reverse=True) == gains
    assert 5 == len(gains)
    assert "over 5 problems; 1 shown" in told(capsys, "report", "--limit", "1").replace("\n", " ")
    assert 1 == len(rows(capsys, "report", "--search", "m=64"))


def test_an_explanation_says_which_settings_matter(capsys) -> None:
    (first, *_) = json.loads(told(capsys, "explain", "linear", *PROBLEM, "--json"))
    assert set(configuration()) == {one["name"] for one in first["influences"]}


def test_a_baseline_that_stays_is_told_with_what_was_screened_faster(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "other"))
    with open_history(str(tmp_path / "other")) as history:
        decide_real(history, choices=(choice(0, 4e6, proof=LOST, is_baseline=True, trial=None),))
    words = " ".join(told(capsys, "explain", "linear", *PROBLEM).split())
    assert "The baseline stays" in words
    assert "Screening found 8 faster, the best of them trial 0" in words


def test_an_uncertain_gain_and_a_long_tail_are_worth_a_word(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "other"))
    wide = Proof(40, 0.99, 0.01, 4e5, 2e6, Interval(5.0, 1.2, 40.0), stopped="decided")
    tailed = Measurement(samples_ns=(*[400_000] * 90, *[9_000_000] * 10), stopped="converged", timer="x")
    with open_history(str(tmp_path / "other")) as history:
        decide_real(history, choices=(choice(0, proof=wide, measurement=tailed),))
    words = " ".join(told(capsys, "explain", "linear", *PROBLEM).split())
    assert "At 99 % confidence it is at least 1.20x and at most 40.00x" in words
    assert "The interval is wide because the rounds varied much" in words
    assert "Its tail is long: p99 is 22x the median" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("history", "--since", "yesterday"), "neither a moment nor how long ago"),
        (("history", "--sort", "size"), "unknown order 'size'"),
        (("history", "--state", "over"), "unknown state 'over'"),
        (("history", "--device", "nothing"), "unknown device 'nothing'"),
        (("history", "--stack", "5"), "unknown stack '5'"),
        (("show", "99"), "unknown study '99'"),
        (("show", "9" * 40), "is not STUDY or STUDY/TRIAL"),
        (("show", "1/99"), "unknown trial '99'"),
        (("show", "1", "--sort", "size"), "unknown order 'size'"),
        (("compare", "1", "generation:1"), "compare two of a kind"),
        (("compare", "1", "first"), "a study has a number"),
        (("compare", "1", "node:x"), "is not a study's number"),
        (("compare", "generation:1", "generation:77"), "unknown generation '77'"),
        (("diff", "1", "77"), "unknown generation '77'"),
        (("pin", "77", "--reason", "x"), "unknown generation '77'"),
        (("pin", "1"), "--reason"),
        (("explain", "linear", "-p", "m=2,n=7168,k=2048"), "nothing is decided yet"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, words: tuple[str, ...], message: str) -> None:
    assert message in refused(capsys, *words)


def commands(group: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        words = (*before, name)
        found += commands(command, words) if hasattr(command, "commands") else [words]
    return found


def all_commands() -> list[tuple[str, ...]]:
    from autotune.cli.app import built

    return commands(built())


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_is_documented_and_its_help_fits(capsys, words: tuple[str, ...]) -> None:
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    assert any(f"autotune {' '.join(words)}" in page.read_text() for page in pages)
    for line in told(capsys, *words, "--help").splitlines():
        assert len(line) <= 100


def test_qualifiers_are_told_with_their_cost_and_what_a_switch_alone_does(lived: Path, capsys) -> None:
    words = ("qualifiers", "linear", *PROBLEM)
    assert 0 == main([*words, "--price", "2.5"])
    told = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 100 for line in told.splitlines())
    assert "is the baseline" in told
    assert "cost/M: of a million tokens through this operation, at 2.5 per hour" in told
    assert 0 == main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"problem", "device", "settings", "switches", "switches_from_winner"} == found.keys()
    assert found["settings"] == sorted(found["settings"], key=lambda setting: setting["p50_ns"])
    assert 2 == main(["qualifiers", "linear", "-p", "m=17,n=7168,k=2048"])
    assert "was never tuned here" in capsys.readouterr().err
    assert 2 == main(["qualifiers", "kimi-k2.5", "-p", "batch=3"])
    assert "'autotune tune decode_step -p model=kimi-k2.5,batch=3' does it" in capsys.readouterr().err


def test_a_model_s_qualifiers_are_those_of_its_decode_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Every batch that was tuned, smallest first; another model's are left out."""
    from autotune import decode_step
    from autotune.space.declaration import load_declaration
    from tests.store.factories import choice, record_host, study_key, trial, winner

    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "state"))
    declared = load_declaration("decode_step")
    with open_history() as history:
        record_host(history)
        for model, batch in (("llama-3.1-8b", 16), ("llama-3.1-8b", 1), ("qwen3-8b", 1)):
            step = declared.problem(decode_step(model, layers=2, batch=batch))
            settings = {"implementation": "native", "fusion": True, "head": "native"}
            others = {"head": "native_int9"}, {"fusion": False}
            study = history.begin_study(study_key(workload="decode_step", problem=step.key), step.dimensions)
            for number, change in enumerate(others):
                history.add_trial(study, trial(number, configuration={**settings, **change}))
            named = {"workload": "decode_step", "problem": step.key, "dimensions": step.dimensions}
            made = winner(choices=(choice(settings=settings),), neighbourhood=step.neighbourhood, **named)
            history.promote(study, made)
            history.end_study(study, "trials")
    assert 0 == main(["qualifiers", "llama-3.1-8b", "--price", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [1, 16] == [table["problem"]["batch"] for table in found]
    (head,) = (one for one in found[0]["switches_from_winner"] if one["qualifier"] == "head")
    assert ("native", "native_int9") == (head["before"], head["after"])
    assert head["gain"]["low"] < head["gain"]["ratio"] < 1
    fastest = found[1]["settings"][0]
    assert pytest.approx(16 / 4e5 * 1e9) == fastest["tokens_per_second"]
    assert pytest.approx(2 / 3600 * 4e-4 / 16 * 1e6) == fastest["cost_per_million"]
    assert 0 == main(["qualifiers", "llama-3.1-8b", "-p", "batch=16"])
    told = capsys.readouterr().out
    assert "decode_step llama-3.1-8b batch=16" in told
    assert "One switch alone, all else as in the fastest that is as accurate:" in told
    assert 0 == main(["qualifiers", "llama-3.1-8b", "--csv"])
    assert 1 + 2 * 4 == len(capsys.readouterr().out.splitlines())
