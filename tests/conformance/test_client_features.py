"""What the stock client shows its user beside the values: statuses, prints, errors, costs, the fabric itself."""

from typing import Any

import pytest

from tests.conformance.catalogue import PROGRAMS
from tests.conformance.comparing import returned
from tests.conformance.conftest import DEMO_ID, EMAIL, Outcome
from tests.support.models import GPT2_ID, LLAMA_ID

SECONDS = ("queue_s", "load_s", "run_s", "save_s", "transfer_s", "total_s")
PUSHED_BYTES = 1024 * 1024


def _told(outcome: Outcome, program: str) -> dict[str, Any]:
    return returned(outcome.remote, f"{program}[gpt2]")


def _line(file: str, text: str) -> int:
    """The number of the one line of a program's file that has this text."""
    lines = (PROGRAMS / file).read_text().splitlines()
    (number,) = (number for number, line in enumerate(lines, start=1) if text in line)
    return number


def _check_cost(meta: dict[str, Any], tokens: int) -> None:
    assert all(meta[name] >= 0 for name in SECONDS)
    assert 0 < meta["run_s"] <= meta["total_s"]
    assert meta["tokens"] == tokens
    assert meta["peak_memory_bytes"] >= 0  # a small job may find all that it needs in its process
    assert meta["attempts"] == 1


# -- waiting -------------------------------------------------------------------------------------------
def test_polled_job_goes_from_received_to_completed(outcome: Outcome) -> None:
    told = _told(outcome, "waiting.submit_and_poll")
    assert (told["fact_submitted"], told["fact_status"]) == ("RECEIVED", "COMPLETED")
    assert told["fact_names"] == ["logits"]
    _check_cost(told["fact_meta"], tokens=7)


def test_polling_again_brings_the_result_again(outcome: Outcome) -> None:
    assert _told(outcome, "waiting.submit_and_poll")["fact_again_equal"]


def test_job_is_recovered_by_its_id_with_its_cost(outcome: Outcome) -> None:
    _check_cost(_told(outcome, "waiting.recover_by_job_id")["fact_meta"], tokens=7)


def test_job_that_was_waited_for_is_recovered_by_its_id(outcome: Outcome) -> None:
    told = _told(outcome, "waiting.recover_a_blocking_job")
    assert told["fact_equal"]
    assert told["fact_meta_equal"]


def test_two_jobs_are_awaited_at_once(outcome: Outcome) -> None:
    told = _told(outcome, "waiting.await_the_backend")
    assert told["fact_equal"]
    _check_cost(told["fact_meta"], tokens=7)


def test_updates_are_iterated_over_in_order(outcome: Outcome) -> None:
    told = _told(outcome, "waiting.iterate_over_updates")
    statuses = told["fact_statuses"]
    assert statuses[-1] == "COMPLETED"
    assert statuses.index("DISPATCHED") < statuses.index("RUNNING") < statuses.index("LOG")
    assert told["fact_logs"] == ["halfway"]
    assert told["fact_ids"] == 1
    _check_cost(told["fact_meta"], tokens=7)


def test_results_too_large_for_the_socket_come_by_link(outcome: Outcome) -> None:
    told = _told(outcome, "waiting.large_results")
    assert PUSHED_BYTES < told["fact_bytes_True"] < told["fact_bytes_False"]


# -- prints, warnings, costs ---------------------------------------------------------------------------
def test_prints_arrive_as_log_updates(outcome: Outcome) -> None:
    text = _told(outcome, "talking.prints")["fact_text"]
    logged = [line.partition("LOG")[2].strip() for line in text.splitlines() if "LOG" in line]
    assert logged == ["width 32", "first", "second", "no newline"]


@pytest.mark.parametrize("job", [1, 2])
def test_warnings_arrive_as_log_updates_in_every_job(outcome: Outcome, job: int) -> None:
    text = _told(outcome, "talking.warns")[f"fact_text_{job}"]
    assert "UserWarning: this prompt is short" in text
    assert "was never reached: the loop asked for a step the run did not make" in text


def test_cost_is_on_the_backend_of_every_job(outcome: Outcome) -> None:
    told = _told(outcome, "talking.meta")
    _check_cost(told["fact_done"], tokens=7)
    _check_cost(told["fact_failed"], tokens=14)
    _check_cost(told["fact_session"], tokens=14)
    assert told["fact_done"]["result_bytes"] > 0


# -- errors --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("failure", "shown", "message"),
    [
        (
            "raising",
            ["wrong = hidden @ torch.ones(3, 3)"],
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (7x32 and 3x3)",
        ),
        (
            "raising_in_a_helper",
            ["refuse(layers[1].output.shape[-1])", 'raise LookupError(f"refused a tensor of width {value}")'],
            "LookupError: refused a tensor of width 32",
        ),
        (
            "raising_from_another_error",
            ["{}['direction']", "raise TypeError('no direction was given') from missing"],
            "TypeError: no direction was given",
        ),
        (
            "raising_after_the_trace",
            ["raise KeyError('nothing under this name')"],
            "KeyError: 'nothing under this name'",
        ),
        (
            "raising_in_backward",
            ["raise ArithmeticError('the gradient is not liked')"],
            "ArithmeticError: the gradient is not liked",
        ),
        ("out_of_order", ["early = layers[0].output.save()"], "the model already ran past it"),
        (
            "in_one_invoke",
            ["raise RuntimeError('the second invoke is at fault')"],
            "RuntimeError: the second invoke is at fault",
        ),
    ],
)
def test_error_shows_the_users_own_lines_and_no_others(
    outcome: Outcome, failure: str, shown: list[str], message: str
) -> None:
    text = _told(outcome, "talking.own_lines_in_errors")["fact_texts"][failure]
    for line in shown:
        assert line in text
    assert message in text.splitlines()[-1]
    assert "talking.py" in text
    files = [line for line in text.splitlines() if line.lstrip().startswith("File ")]
    assert files
    assert all("/home/edif/work/" in line for line in files), text


def test_error_names_the_line_in_the_users_file(outcome: Outcome) -> None:
    texts = _told(outcome, "talking.own_lines_in_errors")["fact_texts"]
    own = _line("talking.py", "wrong = hidden @ torch.ones(3, 3)")
    assert f'talking.py", line {own}, in raising' in texts["raising"]
    helper = _line("probing.py", "raise LookupError")
    assert f'probing.py", line {helper}, in refuse' in texts["raising_in_a_helper"]


def test_cause_of_an_error_is_shown_before_it(outcome: Outcome) -> None:
    text = _told(outcome, "talking.own_lines_in_errors")["fact_texts"]["raising_from_another_error"]
    assert 0 <= text.find("KeyError: 'direction'") < text.find("TypeError: no direction was given")


@pytest.mark.parametrize("way", ["polled", "awaited", "iterated"])
def test_error_reaches_those_who_wait_otherwise(outcome: Outcome, way: str) -> None:
    told = _told(outcome, "talking.errors_in_every_way_of_waiting")
    assert "raise ValueError(layers[1].output.shape[-1])" in told[f"fact_{way}"]
    assert told[f"fact_{way}"].endswith("ValueError: 32")
    assert told["fact_status"] == "ERROR"
    assert told["fact_meta"]["run_s"] > 0


def test_module_that_the_fabric_does_not_have_is_named(outcome: Outcome) -> None:
    text = _told(outcome, "talking.unreadable_block")["fact_text"]
    assert "Module:model.transformer.h.0.extra" in text
    assert "attach it inside the block" in text


def test_variable_that_cannot_be_sent_is_named(outcome: Outcome) -> None:
    text = _told(outcome, "talking.unsendable_result")["fact_text"]
    assert "'kept' (generator) cannot be sent back" in text


# -- the client's questions ----------------------------------------------------------------------------
def test_status_lists_the_served_models(outcome: Outcome) -> None:
    told = _told(outcome, "questions.about_the_fabric")
    assert told["fact_up"] == "UP"
    assert told["fact_models"].keys() == {DEMO_ID, GPT2_ID, LLAMA_ID}
    for name, entry in told["fact_models"].items():
        assert name in told["fact_table"]
        assert (entry["level"], entry["state"], entry["task"]) == ("HOT", "RUNNING", "text-generation")


def test_status_names_the_models_by_the_clients_own_key(outcome: Outcome) -> None:
    told = _told(outcome, "questions.about_the_fabric")
    assert told["fact_key"] in told["fact_keys"]


def test_compare_finds_the_same_environment(outcome: Outcome) -> None:
    told = _told(outcome, "questions.about_the_fabric")
    assert told["fact_python_matches"]
    assert told["fact_critical"] == []
    assert all(version[0].isdigit() for version in told["fact_packages"].values())


def test_whoami_tells_the_keys_owner(outcome: Outcome) -> None:
    assert _told(outcome, "questions.about_the_fabric")["fact_whoami"] == {
        "email": EMAIL,
        "tags": ["researcher"],
    }


def test_is_model_running_knows_model_and_task(outcome: Outcome) -> None:
    told = _told(outcome, "questions.about_the_fabric")
    assert told["fact_running"]
    assert told["fact_running_task"]
    assert not told["fact_other_task"]
