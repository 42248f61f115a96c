import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import dinox_hf.side_by_side as side_by_side
from dinox_hf.side_by_side import Job, run_side_by_side


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr(side_by_side, "_POLL_S", 0.02)


def job(folder: Path, name: str, code: str = "") -> Job:
    """A job of one step that leaves a file when it is done."""
    done = folder / f"{name}.done"
    code = f"{code}\nopen({str(done)!r}, 'w').close(); open({str(folder / 'order')!r}, 'a').write('{name} ')"
    return Job(name, (sys.executable, "-c", code), folder / f"{name}.log", 1, lambda: int(done.exists()))


def test_jobs_of_a_chain_run_in_order_and_finished_ones_are_skipped(tmp_path):
    (tmp_path / "b.done").touch()
    run_side_by_side([[job(tmp_path, "a"), job(tmp_path, "b"), job(tmp_path, "c")]], num_workers=2)
    assert (tmp_path / "order").read_text().split() == ["a", "c"]


def test_a_job_computes_with_one_thread(tmp_path):
    run_side_by_side([[job(tmp_path, "a", "import os; assert os.environ['OMP_NUM_THREADS'] == '1'")]], num_workers=1)


def test_a_failed_job_is_named_with_its_last_lines_and_stops_the_others(tmp_path):
    slow = job(tmp_path, "slow", "import time; time.sleep(60)")
    failing = job(tmp_path, "failing", "raise SystemExit('the disk is full')")
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"Expected failing to reach step 1.*exit code 1(.|\n)*the disk is full"):
        run_side_by_side([[slow], [failing]], num_workers=2)
    assert time.monotonic() - begin < 30 and not (tmp_path / "slow.done").exists()


def test_a_job_that_ends_early_without_an_error_is_no_success(tmp_path):
    early = Job("early", (sys.executable, "-c", ""), tmp_path / "early.log", 5, lambda: 3)
    with pytest.raises(RuntimeError, match="found it ended at step 3 with exit code 0"):
        run_side_by_side([[early]], num_workers=1)


def test_sigterm_is_handed_on_and_the_job_may_save(tmp_path):
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = f"""
import signal, sys, time
def save(*_):
    open({str(saved)!r}, "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
open({str(ready)!r}, "w").close()
time.sleep(60)
"""

    def terminate_when_ready():
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate_when_ready, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([[Job("job", (sys.executable, "-c", code), tmp_path / "log", 1, lambda: 0)]], num_workers=1)
    assert saved.exists() and signal.getsignal(signal.SIGTERM) is before
