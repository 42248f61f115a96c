"""Pushes beside a training: started when due, one at a time, and of no consequence when they fail."""

import os

import pytest

from dinox_hf.hub.background_push import BackgroundPush

REMEMBERS = "import os, sys; open('pushed', 'a').write(' '.join([*sys.argv[1:], os.environ.get('RANK', '-')]) + '\\n')"


@pytest.fixture
def pushes(tmp_path, monkeypatch):
    """A script in place of publish.py, and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    said = []

    def make(code, every_steps=10):
        script = tmp_path / "publish.py"
        script.write_text(code)
        return BackgroundPush(script, tmp_path / "run", "dinox/tiny", every_steps, said.append), said

    (tmp_path / "run").mkdir()
    return make


def test_a_push_is_due_every_so_many_steps_and_after_the_last(pushes, tmp_path):
    pushing, said = pushes(REMEMBERS)
    for step in (4, 9, 14, 16):
        pushing.after_save(step, is_last=step == 16)
        pushing._wait()
    pushing.finish()
    line = f"{tmp_path / 'run'} --repo dinox/tiny --push -\n"
    assert (tmp_path / "pushed").read_text() == 2 * line, "not started as a rank of the training"
    assert said == [f"A push to dinox/tiny arrived. See {tmp_path / 'run' / 'push.log'}."] * 2


def test_a_push_that_fails_is_told_and_logged(pushes, tmp_path):
    pushing, said = pushes("print('no network'); raise SystemExit(2)")
    pushing.after_save(9, is_last=False)
    pushing.finish()
    assert "exit code 2, which harms nothing" in said[0]
    assert (tmp_path / "run" / "push.log").read_text() == "no network\n"


def test_a_push_that_hangs_holds_nothing_up(pushes, monkeypatch):
    pushing, said = pushes("import time; time.sleep(600)")
    pushing.after_save(9, is_last=False)
    first = pushing.process
    pushing.after_save(19, is_last=False)
    assert pushing.process is first and "step 20 is left out" in said[0]
    monkeypatch.setattr("dinox_hf.hub.background_push._SECONDS_AT_THE_END", 0.01)
    pushing.finish()
    with pytest.raises(ProcessLookupError):
        os.kill(first.pid, 0)


def test_without_a_repository_nothing_is_started(tmp_path):
    pushing = BackgroundPush(tmp_path / "none.py", tmp_path, None, 1)
    pushing.after_save(0, is_last=True)
    pushing.finish()
    assert pushing.process is None and list(tmp_path.iterdir()) == []
