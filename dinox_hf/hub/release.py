"""What would go to the Hub, as one value: its files, what was checked of them, and the card."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["model", "base", "head", "dataset"]


@dataclass(frozen=True)
class Check:
    """One question asked of the files before they leave."""

    name: str
    finding: str  # in a few words; of a check that failed the whole message
    is_passed: bool


@dataclass(frozen=True)
class Release:
    """A repository as it should look after the push."""

    repo: str  # owner/name
    kind: Kind
    title: str  # of the commit
    files: dict[str, Path]  # by path in the repository
    checks: list[Check]

    @property
    def repo_type(self) -> str:
        """As huggingface_hub names it."""
        return "dataset" if self.kind == "dataset" else "model"

    @property
    def card(self) -> str:
        """The text of README.md."""
        return self.files["README.md"].read_text(encoding="utf-8")

    def refuse_failed_checks(self) -> None:
        """Stop a release that is not fit to leave.

        Raises:
            ValueError: with every check that failed.
        """
        failed = [f"{check.name}: {check.finding}" for check in self.checks if not check.is_passed]
        if failed:
            raise ValueError(
                "Every check should pass before anything leaves this machine; nothing has left it. Found\n- "
                + "\n- ".join(failed)
            )


def run_check(name: str, ask: Callable[[], str]) -> Check:
    """Ask a question whose answer is a finding, or an error that says what was expected, found and how to mend it."""
    try:
        return Check(name, ask(), is_passed=True)
    except (ValueError, RuntimeError) as error:
        return Check(name, str(error), is_passed=False)


def files_in(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its path in the repository; hidden ones are left out."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.split("/"))}


def describe(release: Release, with_card: bool = True) -> str:
    """The dry run as text: every file with its size, every check with its finding, and the card."""
    sizes = {name: path.stat().st_size for name, path in release.files.items()}
    width = max(map(len, sizes))
    lines = [f"{name:{width}s} {size_text(size):>10s}" for name, size in sizes.items()]
    total = f"{f'{len(sizes)} files':{width}s} {size_text(sum(sizes.values())):>10s}"
    checks = [f"{'passed' if c.is_passed else 'FAILED'}  {c.name}: {c.finding}" for c in release.checks]
    card = ["", "README.md", "=" * 80, release.card.rstrip(), "=" * 80] if with_card else []
    return "\n".join([*lines, total, "", *checks, *card])


def size_text(num_bytes: int) -> str:
    """A size as a person reads it, in powers of 1000."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{num_bytes} B"
        size /= 1000
    return f"{size:.3g} GB"
