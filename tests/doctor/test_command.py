"""The report: one screen, an exit code, the same in JSON."""

import itertools
import json
from dataclasses import replace

import pytest

from dinox_hf.doctor import command
from dinox_hf.doctor.command import judge, main
from dinox_hf.doctor.facts import AttentionPath, Work
from dinox_hf.doctor.screen import WIDTH, render
from dinox_hf.doctor.verdict import Finding, exit_code
from tests.doctor.machines import GIB, cuda_card, path, plain_cpu, strix_halo


def sick_halo():
    """Everything that can be wrong at once."""
    facts = strix_halo()
    broken = {name: path(error=0.3) for name in ("eager", "efficient", "flash_attention_2")}
    return replace(
        facts,
        platform=replace(facts.platform, kernel="6.8.0-90-generic", built_for=("gfx1100", "gfx942", "gfx950")),
        memory=replace(facts.memory, device_total=62 * GIB, ttm_limit=62 * GIB),
        environment={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"},
        work=Work(
            dtype="bfloat16",
            path_in_use="math",
            paths={"flash": path(), "math": AttentionPath.broken("its process was ended by SIGABRT"), **broken},
            tflops=5.1,
            copy_gb_s=40.0,
        ),
    )


@pytest.mark.parametrize("facts", [strix_halo(), cuda_card(), plain_cpu()], ids=["strix halo", "cuda", "cpu"])
def test_a_healthy_machine_is_ready(facts):
    findings = judge(facts)
    assert {finding.verdict for finding in findings} <= {"ok", "note"} and exit_code(findings) == 0
    assert render(findings).endswith("Ready to train.")


def test_everything_wrong_at_once_still_fits_one_screen():
    findings = judge(sick_halo())
    lines = render(findings).splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= WIDTH
    assert sum(finding.verdict in ("FAIL", "warn") for finding in findings) == 9
    assert exit_code(findings) == 1 and "to mend before a run" in lines[-1]


def test_whatever_is_wrong_has_a_mend_that_is_not_cut():
    """Of every machine that differs from a healthy one in some of these ways."""
    sick = sick_halo()
    parts = ("platform", "memory", "environment", "work")
    for healthy, flags in itertools.product((strix_halo(), cuda_card()), itertools.product((0, 1), repeat=4)):
        changed = {part: getattr(sick, part) for part, flag in zip(parts, flags, strict=True) if flag}
        for finding in judge(replace(healthy, **changed)):
            assert (finding.verdict in ("FAIL", "warn")) == bool(finding.mend), finding
            assert finding.mend in render([finding])


def test_words_of_a_library_are_cut_at_the_edge():
    text = render([Finding("NaN check", "FAIL", "flash broke: " + 30 * "words ", "", "mend it")])
    assert max(map(len, text.splitlines())) <= WIDTH and "…" in text


def test_a_warning_does_not_fail_a_script():
    assert exit_code([Finding("copy", "warn", "slow")]) == 0
    assert exit_code([Finding("copy", "warn", "slow"), Finding("device", "FAIL", "none")]) == 1


def test_main_prints_the_screen_and_returns_the_code(monkeypatch, capsys):
    monkeypatch.setattr(command, "examine", sick_halo)
    assert main([]) == 1
    assert capsys.readouterr().out.startswith("DINO-X doctor\n")


def test_json_holds_facts_and_findings(monkeypatch, capsys):
    monkeypatch.setattr(command, "examine", strix_halo)
    assert main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["facts"]["work"]["paths"]["flash"]["is_finite"] is True
    assert {"name", "verdict", "found", "expected", "mend"} == set(report["findings"][0])


@pytest.mark.long
def test_this_machine_is_examined_in_truth(capsys):
    """The whole way, child process included; its verdict is this machine's own affair."""
    assert main(["--json"]) in (0, 1)
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["work"]["tflops"] > 0 and facts["work"]["copy_gb_s"] > 0
    assert facts["work"]["paths"]["eager"]["is_available"] and not facts["work"]["broken"]
