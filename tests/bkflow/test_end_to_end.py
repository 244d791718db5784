"""Deadlines of a project on Python 3.9: its app arms, the daemon elsewhere acts over HTTP."""

import signal
from typing import Any

from tests.bkflow.house import Hands, House, wait


def ended(hands: Hands, node_id: str) -> Any:
    """The run that has ended, once it has."""
    return wait(lambda: [run for run in hands.runs(node_id) if run["late"] is not None])[0]


def test_the_project_has_python_39_and_bkflows_versions(hands: Hands) -> None:
    assert hands.version.startswith("3.9.")


def test_a_node_that_overruns_is_failed_with_its_reason(hands: Hands) -> None:
    """Between two polls, which write the node's outputs anew: there the reason stands."""
    node_id = hands.run("forced_fail", 1.5)["node_id"]
    wait(lambda: hands.state(node_id)["name"] == "FAILED")
    run = ended(hands, node_id)
    assert (run["state"], run["message"]) == ("handled", "failed")
    assert run["late"] >= 0
    assert f"node {node_id} ran longer than 1.5 s" in hands.why(node_id)


def test_a_node_that_overruns_is_skipped_and_its_pipeline_goes_on(hands: Hands) -> None:
    made = hands.run("forced_fail_and_skip", 1)
    wait(lambda: hands.state(made["root"])["name"] == "FINISHED")
    run = ended(hands, made["node_id"])
    assert (run["state"], run["message"]) == ("handled", "failed and skipped")


def test_a_node_in_time_is_left_alone(hands: Hands) -> None:
    made = hands.run("forced_fail", 30, lasts=1)
    wait(lambda: hands.state(made["root"])["name"] == "FINISHED")
    (run,) = hands.runs(made["node_id"])
    assert run["state"] == "cancelled"


def test_a_retried_node_has_a_deadline_of_its_own(hands: Hands) -> None:
    node_id = hands.run("forced_fail", 1)["node_id"]
    wait(lambda: hands.state(node_id)["name"] == "FAILED")
    hands.retry(node_id)
    found = wait(
        lambda: (
            [run for run in hands.runs(node_id) if run["state"] == "handled"][1:]
            and hands.runs(node_id)
        )
    )
    assert len({run["version"] for run in found}) == 2


def test_killed_processes_of_the_engine_lose_nothing(house: House, hands: Hands) -> None:
    """Every one of them, with kill -9, while nodes run; the deadline passes while none is back."""
    celery, web = [each for each in house.processes if each.popen.poll() is None][:2][::-1]
    made = [hands.run(action, 4) for action in ("forced_fail", "forced_fail_and_skip")]
    wait(lambda: all(hands.state(each["node_id"])["name"] == "RUNNING" for each in made))
    wait(lambda: all(hands.runs(each["node_id"]) for each in made))
    for process in (celery, web):
        process.popen.send_signal(signal.SIGKILL)
        process.wait()
    failed, skipped = made
    wait(lambda: any(run["message"] for run in hands.runs(failed["node_id"])))
    assert hands.state(failed["node_id"])["name"] == "RUNNING", "nobody is there to fail it"
    house.start_web()
    wait(lambda: hands.state(failed["node_id"])["name"] == "FAILED")
    house.start_celery()
    wait(lambda: hands.state(skipped["root"])["name"] == "FINISHED")
    for each in made:
        assert ended(hands, each["node_id"])["state"] == "handled"


def test_a_run_of_which_nobody_told_is_found_by_asking_the_engine(hands: Hands) -> None:
    """As after a kill between the engine's state and our statement."""
    node_id = hands.run("forced_fail", 14)["node_id"]
    wait(lambda: hands.runs(node_id))
    assert hands.forget_runs(node_id) == 1
    (armed,) = wait(lambda: hands.runs(node_id))
    assert armed["state"] == "armed"
    wait(lambda: hands.state(node_id)["name"] == "FAILED")
    assert ended(hands, node_id)["state"] == "handled"
