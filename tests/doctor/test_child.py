"""A child that crashes, hangs or talks too much still yields an answer for every task."""

import sys
import textwrap

import pytest

from dinox_hf.doctor.child import collect, run_tasks

WORKER = """
    import json, os, sys, time
    for task in sys.argv[1:]:
        print("a library prints this", flush=True)
        if task == "abort":
            os.abort()
        if task == "hang":
            time.sleep(60)
        if task == "quit":
            sys.exit(3)
        print(json.dumps({"task": task, "value": 1.5}), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    return [sys.executable, str(script)]


def test_all_tasks_are_answered_in_one_process(worker):
    answers = run_tasks(["a", "b"], worker)
    assert answers == {"a": {"task": "a", "value": 1.5}, "b": {"task": "b", "value": 1.5}}


@pytest.mark.parametrize(
    ("culprit", "words"), [("abort", "SIGABRT"), ("quit", "exit code 3"), ("hang", "no answer in 1")]
)
def test_the_task_that_ends_its_process_is_named_and_the_others_go_on(worker, culprit, words):
    answers = run_tasks(["before", culprit, "after"], worker, timeout_s=1.0)
    assert words in answers[culprit]["broken"]
    assert answers["before"]["value"] == answers["after"]["value"] == 1.5


def test_answers_become_one_record():
    path = {"is_available": True, "reason": "", "is_finite": True, "is_finite_for_large_inputs": True, "error": 0.1}
    work = collect(
        {
            "matmul": {"task": "matmul", "value": 36.9},
            "copy": {"task": "copy", "broken": "no answer in 180 s"},
            "choice": {"task": "choice", "value": "flash"},
            "attention:flash": {"task": "attention:flash", **path, "milliseconds": 2.0},
            "attention:math": {"task": "attention:math", "broken": "its process was ended by SIGABRT"},
        },
        "bfloat16",
    )
    assert (work.tflops, work.copy_gb_s, work.path_in_use) == (36.9, None, "flash")
    assert work.broken == {"copy": "no answer in 180 s"}
    assert work.paths["flash"].error == 0.1 and work.paths["math"].reason.endswith("SIGABRT")
