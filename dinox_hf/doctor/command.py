"""`dinox doctor [--json]`, or `python -m dinox_hf.doctor`: look at the machine, judge, print one screen."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ..pretraining.precision import resolve_precision
from .check_machine import check_device, check_environment, check_kernel, check_memory, check_torch
from .check_work import check_copy, check_matmul, check_path_in_use, check_paths
from .child import probe_work
from .facts import Facts
from .machine import probe_environment, probe_memory, probe_platform
from .screen import render
from .verdict import Finding, exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 0, or 1 if something has to be mended before a run."""
    parser = argparse.ArgumentParser(
        prog="dinox doctor",
        description="What this machine can do for pretraining, and what to mend. Exit code 1: a check failed.",
    )
    parser.add_argument("--json", action="store_true", help="facts and findings for a program to read")
    is_json = parser.parse_args(arguments).json
    if not is_json and sys.stderr.isatty():
        print("The device computes for a few seconds …", file=sys.stderr)
    facts = examine()
    findings = judge(facts)
    if is_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "facts": asdict(facts)}, indent=2))
    else:
        print(render(findings))
    return exit_code(findings)


def examine() -> Facts:
    """Everything about this machine, first what can be read, then what has to be tried."""
    platform = probe_platform()
    dtype = "bfloat16" if resolve_precision("auto") == "bf16" else "float32"
    return Facts(
        platform=platform,
        memory=probe_memory(),
        environment=probe_environment(),
        work=probe_work(platform.backend, dtype),
    )


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which one would mend them."""
    platform, environment, work = facts.platform, facts.environment, facts.work
    findings = [
        check_torch(platform),
        check_device(platform, environment),
        check_kernel(platform),
        check_memory(platform, facts.memory),
        *check_environment(platform, environment),
        check_path_in_use(platform, environment, work),
        *check_paths(work, environment),
        check_matmul(platform, work, environment),
        check_copy(platform, work),
    ]
    return [finding for finding in findings if finding is not None]
