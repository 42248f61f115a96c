"""What must not leave: paths and names of the machine that trained, and files that run code when they are opened."""

import getpass
import re
import socket
from pathlib import Path

# Everything that a published folder may hold. No pickle is among them: no .bin, .pt, .pth, .pkl.
PUBLISHABLE = {".json", ".md", ".png", ".py", ".safetensors"}
_READ_AS_TEXT = {".json", ".md", ".png", ".py"}  # PNG carries text blocks

# A slash-rooted path into the usual places of a machine, not the tail of a URL; a drive letter; a network share.
_MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|mnt|media|data|work|workspace|scratch|srv|opt|var|private)/[\w./~-]+"
    r"|\b[A-Za-z]:\\{1,2}\w[\w\\. -]*|(?<!\\)\\\\\w[\w.-]*\\\w+"
)


def refuse_unfit_to_publish(folder: Path, run: Path) -> None:
    """Stop a folder that holds a file type we do not publish, or text that tells about this machine.

    Args:
        folder: what would be published.
        run: the run folder; its path must not appear anywhere.

    Raises:
        ValueError: naming each file and what was found in it.
    """
    unknown = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in PUBLISHABLE)
    if unknown:
        raise ValueError(
            f"A published folder holds only {', '.join(sorted(PUBLISHABLE))} files; found {', '.join(unknown)}. "
            f"Anything else may run code when it is opened, or tell what it should not: remove it from the run."
        )
    leaks = find_leaks(folder, private_words(run))
    if leaks:
        raise ValueError(
            f"A published folder should say nothing about the machine it comes from; found {'; '.join(leaks)}. "
            f"Edit the source of that text: usually a path in the run's configuration, or in the data set's card."
        )


def find_leaks(folder: Path, private: set[str]) -> list[str]:
    """Every place in a folder's text that names a path of a machine or one of the private words, as "file: text"."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in _READ_AS_TEXT:
            text = path.read_text(encoding="latin-1" if path.suffix == ".png" else "utf-8")
            found += [f"{path.relative_to(folder)}: {leak}" for leak in leaks_in(text, private, path.suffix == ".png")]
    return found


def leaks_in(text: str, private: set[str], is_picture: bool = False) -> list[str]:
    """Paths of a machine and private words in one text; a picture's bytes spell paths by chance."""
    paths = set() if is_picture else {match.group() for match in _MACHINE_PATH.finditer(text)}
    return sorted(paths | {word for word in private if word in text})


def private_words(run: Path) -> set[str]:
    """What identifies this machine and its user: folders, and `user@host` in the forms that logs print."""
    folders = {Path.home(), Path.cwd(), run.resolve()}
    words = {str(folder) for folder in folders if len(folder.parts) > 2}
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number without a name.
        return words
    return words | {f"{user}@{socket.gethostname()}"}
