"""Has tasks done by a child process and outlives whatever becomes of it: a crash or a silence is an answer too."""

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec

from .facts import AttentionPath, Backend, Work

_WORKER = (sys.executable, "-m", "dinox_hf.doctor.work")
_TIMEOUT_S = 180.0  # for one task; the first one also pays for the imports
_PATHS = {
    "cpu": ("eager", "math", "flash"),
    "cuda": ("eager", "math", "flash", "efficient", "cudnn"),
    "rocm": ("eager", "math", "flash", "efficient"),
}


def probe_work(backend: Backend, dtype: str) -> Work:
    """Let the device compute and collect what came of it."""
    paths = [*_PATHS[backend], *(["flash_attention_2"] if backend != "cpu" and find_spec("flash_attn") else [])]
    tasks = ["matmul", "copy", "choice", *(f"attention:{path}" for path in paths)]
    return collect(run_tasks(tasks), dtype)


def collect(answers: dict[str, dict[str, object]], dtype: str) -> Work:
    """The record of all answers, as `run_tasks` returns them."""
    broken = {task: str(found["broken"]) for task, found in answers.items() if "broken" in found}
    paths = {}
    for task, found in answers.items():
        if task.startswith("attention:"):
            fields = {name: value for name, value in found.items() if name != "task"}
            path = AttentionPath.broken(broken[task]) if task in broken else AttentionPath(**fields)
            paths[task.removeprefix("attention:")] = path
    value = {task: found.get("value") for task, found in answers.items()}
    return Work(
        dtype=dtype,
        path_in_use=value.get("choice"),
        paths=paths,
        tflops=value.get("matmul"),
        copy_gb_s=value.get("copy"),
        broken={task: reason for task, reason in broken.items() if not task.startswith("attention:")},
    )


def run_tasks(
    tasks: Sequence[str], command: Sequence[str] = _WORKER, timeout_s: float = _TIMEOUT_S
) -> dict[str, dict[str, object]]:
    """Answers by task. A task that ends its process or stays silent is "broken"; the rest go to a new process.

    Args:
        tasks: handed to the command as arguments, answered in this order with one line of JSON each.
        command: the program.
        timeout_s: seconds in which each task has to answer.
    """
    answers: dict[str, dict[str, object]] = {}
    while pending := [task for task in tasks if task not in answers]:
        found, end = _until_it_ends(command, pending, timeout_s)
        answers |= found
        if culprit := next((task for task in pending if task not in found), None):
            answers[culprit] = {"task": culprit, "broken": end}
    return answers


def _until_it_ends(
    command: Sequence[str], tasks: list[str], timeout_s: float
) -> tuple[dict[str, dict[str, object]], str]:
    """What one process answered, and how it ended."""
    child = subprocess.Popen(
        [*command, *tasks], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    answers: dict[str, dict[str, object]] = {}
    try:
        while len(answers) < len(tasks) and (line := lines.get(timeout=timeout_s)) is not None:
            if line.startswith("{"):  # libraries print too
                answer = json.loads(line)
                answers[answer["task"]] = answer
        if len(answers) == len(tasks):
            return answers, ""
        return answers, _how_it_ended(child.wait())
    except queue.Empty:
        return answers, f"no answer in {timeout_s:.0f} s"
    finally:
        child.kill()
        child.wait()


def _read(stream, lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
    stream.close()


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
