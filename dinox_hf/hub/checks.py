"""What must not leave: paths and names of the machine that trained, tokens, files that run code when opened."""

import getpass
import re
import socket
from pathlib import Path

from .release import files_in, size_text

# Everything that a published folder may hold. No pickle is among them: no .bin, .pt, .pth, .pkl.
PUBLISHABLE = {".json", ".md", ".png", ".py", ".safetensors"}
PUBLISHABLE_DATA = {".json", ".md", ".parquet", ".png"}
_READ_AS_TEXT = {".json", ".md", ".png", ".py"}  # PNG carries text blocks
# Downloads of larger files fail too often; the Hub itself takes ten times as much.
MAX_FILE_BYTES = 5 * 10**9

# A slash-rooted path into the usual places of a machine, not the tail of a URL; a drive letter; a network share.
_MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|mnt|media|data|work|workspace|scratch|srv|opt|var|private)/[\w./~-]+"
    r"|\b[A-Za-z]:\\{1,2}\w[\w\\. -]*|(?<!\\)\\\\\w[\w.-]*\\\w+"
)
_ACCESS_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
# Python's own pickles begin with a protocol from 2 on; torch wraps one in a zip archive.
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def refuse_unfit_to_publish(folder: Path, run: Path) -> None:
    """Stop a folder that holds a file type we do not publish, or text that tells about this machine.

    Args:
        folder: what would be published.
        run: the run folder; its path must not appear anywhere.

    Raises:
        ValueError: naming each file and what was found in it.
    """
    files = files_in(folder)
    refuse_file_kinds(files, PUBLISHABLE)
    refuse_leaks(files, private_words(run))


def refuse_file_kinds(files: dict[str, Path], publishable: set[str]) -> str:
    """Stop files of other kinds than those that are published, and pickles under whatever name.

    Raises:
        ValueError: naming them.
    """
    unknown = [name for name, path in files.items() if path.suffix not in publishable or _is_pickle(path)]
    if unknown:
        raise ValueError(
            f"A published folder holds only {', '.join(sorted(publishable))} files; found {', '.join(unknown[:6])}. "
            f"Anything else may run code when it is opened, or tell what it should not: remove it."
        )
    kinds = sorted({path.suffix for path in files.values()})
    return f"{len(files)} files, only {', '.join(kinds)}; no pickle"


def refuse_leaks(files: dict[str, Path], private: set[str]) -> str:
    """Stop text that names a path of a machine, a private word or an access token.

    Raises:
        ValueError: naming each file and what was found in it.
    """
    leaks = find_leaks(files, private)
    if leaks:
        raise ValueError(
            f"A published folder should say nothing about the machine it comes from; found {'; '.join(leaks[:6])}. "
            f"Edit the source of that text: usually a path in the run's configuration, or in the data set's card."
        )
    return "no path, user, host or token of this machine in any text"


def refuse_large_files(files: dict[str, Path], limit: int = MAX_FILE_BYTES) -> str:
    """Stop files that are too large to be downloaded in one piece.

    Raises:
        ValueError: naming each and its size.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    large = [f"{name} of {size_text(size)}" for name, size in sizes.items() if size > limit]
    if large:
        raise ValueError(
            f"Every file should be at most {size_text(limit)}; found {', '.join(large)}. Save weights with "
            f"max_shard_size='5GB'; build a data set with smaller shards."
        )
    return f"the largest has {size_text(max(sizes.values()))}, the limit is {size_text(limit)}"


def find_leaks(files: dict[str, Path], private: set[str]) -> list[str]:
    """Every place in a folder's text that names a path of a machine or one of the private words, as "file: text"."""
    found = []
    for name, path in files.items():
        if path.suffix in _READ_AS_TEXT:
            text = path.read_text(encoding="latin-1" if path.suffix == ".png" else "utf-8")
            found += [f"{name}: {leak}" for leak in leaks_in(text, private, path.suffix == ".png")]
    return found


def leaks_in(text: str, private: set[str], is_picture: bool = False) -> list[str]:
    """Paths of a machine and private words in one text; a picture's bytes spell paths by chance.

    A token is told without its own characters, since what is found is printed.
    """
    paths = set() if is_picture else {match.group() for match in _MACHINE_PATH.finditer(text)}
    tokens = {"an access token"} if _ACCESS_TOKEN.search(text) else set()
    return sorted(paths | tokens | {word for word in private if word in text})


def private_words(source: Path) -> set[str]:
    """What identifies this machine and its user: folders, its name, and `user@host` in the forms that logs print."""
    folders = {Path.home(), Path.cwd(), source.resolve()}
    words = {str(folder) for folder in folders if len(folder.parts) > 2}
    host = socket.gethostname()
    if len(host) > 5 and re.search(r"[\d.-]", host):  # a plain word, such as `data`, also stands in honest text
        words.add(host)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number without a name.
        return words
    return words | {f"{user}@{host}"}


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLE_STARTS)
