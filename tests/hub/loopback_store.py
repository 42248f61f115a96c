"""What a Hub keeps, in memory: repositories with files, commits, branches, tags and pull requests; users; mishaps."""

import hashlib
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit. Large ones are stored as the pointer that git-lfs would commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        words = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return words.encode()

    @property
    def oid(self) -> str:
        """Git's name of the blob."""
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid

    def entry(self, path: str) -> dict:
        """As a tree lists it."""
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        known = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        return known | ({"lfs": lfs} if self.is_lfs else {})


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, StoredFile]


@dataclass
class Repository:
    """One model or dataset."""

    kind: str  # model or dataset
    name: str  # owner/name
    is_private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branches and refs/pr/N -> oid
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[str] = field(default_factory=list)  # titles; the first one is refs/pr/1
    history: list[str] = field(default_factory=list)  # titles of the commits, oldest first

    def __post_init__(self) -> None:
        # Like the Hub's own first commit.
        self.refs["main"] = self._add("initial commit", {".gitattributes": StoredFile(b"* lfs\n", is_lfs=False)})

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, pull request or oid."""
        oid = self.refs.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def commit(self, revision: str, title: str, files: dict[str, StoredFile], as_pull_request: bool) -> str:
        """Add a commit on a branch, or as a new pull request against it; returns its oid."""
        oid = self._add(title, files)
        if as_pull_request:
            self.pulls.append(title)
            revision = f"refs/pr/{len(self.pulls)}"
        self.refs[revision] = oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path, for a test to compare."""
        return {path: file.content for path, file in self.find(revision).files.items() if path != ".gitattributes"}

    def info(self, commit: Commit) -> dict:
        """What `model_info` and `dataset_info` read."""
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        known = {"_id": "0", "id": self.name, "sha": commit.oid, "private": self.is_private, "siblings": siblings}
        return known | {"tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False}

    def _add(self, title: str, files: dict[str, StoredFile]) -> str:
        names = {path: file.oid for path, file in files.items()}
        oid = hashlib.sha1(json.dumps([len(self.commits), title, names], sort_keys=True).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files)
        self.history.append(title)
        return oid


def tree(commit: Commit, folder: str, is_recursive: bool) -> list[dict] | None:
    """What lies in a folder of a commit; None if there is no such folder."""
    start = f"{folder.strip('/')}/" if folder.strip("/") else ""
    inside = {path: file for path, file in commit.files.items() if path.startswith(start)}
    if not inside:
        return None
    entries, folders = [], set()
    for path, file in sorted(inside.items()):
        parts = path.removeprefix(start).split("/")
        folders |= {start + "/".join(parts[:depth]) for depth in range(1, len(parts) if is_recursive else 2)} - {path}
        if is_recursive or len(parts) == 1:
            entries.append(file.entry(path))
    return [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)] + entries


class LoopbackHub:
    """State of the server, for a test to prepare and to look at."""

    def __init__(self) -> None:
        self.url = ""
        self.storage = ""  # large files lie on another host, as those of the Hub do: clients tell them apart by that
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        # token -> name, organisations, role
        self.users = {
            "hf_writer_0123456789": ("anna", ["dinox"], "write"),
            "hf_reader_0123456789": ("ben", [], "read"),
            "hf_other_0123456789": ("carla", [], "write"),
        }
        self.requests: list[str] = []  # "METHOD /path"
        self.broken_uploads = 0  # so many of the next uploads end half-way
        self.broken_commits: list[str] = []  # "before" or "after": when the next commits lose their connection

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        return self.repositories["dataset", name]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


class Broken(Exception):
    """The connection is gone."""
