"""Several processes stop together, and no signal gets lost on the way."""

from types import SimpleNamespace

from dinox_hf.pretraining.run import Run


def test_a_signal_that_comes_while_processes_agree_is_not_forgotten(monkeypatch):
    accelerator = SimpleNamespace(num_processes=2)
    run = SimpleNamespace(accelerator=accelerator, signals=SimpleNamespace(received=None), due=lambda what, step: True)

    def signal_comes_meanwhile(agreed):
        run.signals.received = "SIGTERM"

    monkeypatch.setattr("dinox_hf.pretraining.run.broadcast_object_list", signal_comes_meanwhile)
    assert not Run._is_stopped(run, 0)
    monkeypatch.setattr("dinox_hf.pretraining.run.broadcast_object_list", lambda agreed: None)
    assert Run._is_stopped(run, 1)
