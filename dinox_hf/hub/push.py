"""A checked release to the Hub: private until it is whole, in one commit, safe to repeat after an interruption."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from .hub_errors import CONNECTION_ERRORS, explained, is_passing
from .release import Release

# Written by the Hub itself.
_HUBS_OWN = {".gitattributes"}
# By which file an earlier push of ours is recognised, and what it says there.
_MARKS = {"model": "config.json", "base": "config.json", "head": "report.json", "dataset": "ingest_report.json"}
_SECONDS_BEFORE_RETRY = (2, 10, 30)
_AS_IT_WAS = "Nothing of this push is visible there: a repository is as it was, a new one is private and empty."
_IS_THERE = "The files are there as one whole commit; its tag or who may read it are not yet as asked."


@dataclass(frozen=True)
class PushOptions:
    """Where and how a release goes."""

    is_public: bool = False  # for everyone to read, once it is whole
    revision: str = "main"  # a branch, made where it is missing
    as_pull_request: bool = False  # against main, for somebody else to accept
    tag: str | None = None  # a name for the commit, such as v1.0


@dataclass(frozen=True)
class Pushed:
    """What the push did."""

    url: str  # of the commit or pull request
    num_changed: int  # files written or deleted; 0: the repository already was so
    is_private: bool


@dataclass(frozen=True)
class _Changes:
    head: str  # the commit that was compared
    written: list[str]
    deleted: list[str]

    @property
    def num(self) -> int:
        return len(self.written) + len(self.deleted)


def push(release: Release, options: PushOptions, api: HfApi | None = None) -> Pushed:
    """Bring a repository on the Hub to the state of a release.

    Large files go first and are kept by the Hub, so a repeated push goes on where the last one stopped; one commit
    then makes all of them visible at once. A new repository is private until the commit was compared with the
    release, file by file. Nothing is committed where nothing has changed.

    Args:
        release: its checks are asked for once more.
        options: where and how.
        api: by default the Hub of HF_ENDPOINT, with the token of HF_TOKEN or of `hf auth login`.

    Raises:
        ValueError: a failed check, no token or permission, a repository with other content, a public one without
            `is_public`, a tag that stands at another commit.
        RuntimeError: the network or the Hub failed, also after some repetitions.
    """
    release.refuse_failed_checks()
    api = api or HfApi()
    with explained(release.repo, api.endpoint, _AS_IT_WAS):
        refuse_without_token(api)
        refuse_without_permission(release.repo, options, api)
        is_new = not api.repo_exists(release.repo, repo_type=release.repo_type)
        if is_new:
            api.create_repo(release.repo, repo_type=release.repo_type, private=True)
        else:
            refuse_unexpected_repository(release, options, api)
        url, num_changed = _commit_until_whole(release, options, api)
    with explained(release.repo, api.endpoint, _IS_THERE):
        if options.tag and not options.as_pull_request:
            _tag(release, options, api)
        if options.is_public and not options.as_pull_request and is_private(release, api):
            api.update_repo_settings(release.repo, private=False, repo_type=release.repo_type)
        return Pushed(url, num_changed, is_private(release, api))


def refuse_without_token(api: HfApi) -> None:
    """Stop before anything is made.

    Raises:
        ValueError: without a token.
    """
    if not (api.token or get_token()):
        raise ValueError(
            "Pushing needs an access token; found none. Make one with the role `write` at "
            "https://huggingface.co/settings/tokens, then log in by `hf auth login`, or set HF_TOKEN."
        )


def refuse_without_permission(repo: str, options: PushOptions, api: HfApi) -> None:
    """Stop before the first byte is sent where the token cannot end it.

    Raises:
        ValueError: with a token that may not write there.
    """
    user = api.whoami()
    names = [user["name"], *(organisation["name"] for organisation in user["orgs"])]
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    # A pull request may come from anyone who reads. A fine-grained token says nothing here and is asked by the Hub.
    if not options.as_pull_request and (role == "read" or repo.split("/")[0] not in names):
        raise ValueError(
            f"Pushing to {repo} needs a token that may write there; found {user['name']}'s with the role {role!r}, "
            f"for {', '.join(names)}. Take another token, another --repo, or --pull-request."
        )


def refuse_unexpected_repository(release: Release, options: PushOptions, api: HfApi) -> None:
    """Stop before a repository that is none of ours would be overwritten, or one be read by more people than meant.

    Raises:
        ValueError: saying what was found.
    """
    if not (options.is_public or options.as_pull_request or is_private(release, api)):
        raise ValueError(
            f"Expected {release.repo} to be private; found it public, so everyone could read what is pushed. Add "
            f"--public if that is meant, or make it private in its settings."
        )
    there = set(_listing(release, "main", api)) - _HUBS_OWN - {"README.md"}
    if there and _MARKS[release.kind] not in there and not options.as_pull_request:
        raise ValueError(
            f"Expected {release.repo} to be empty, or an earlier push of a {release.kind}; found other content: "
            f"{', '.join(sorted(there)[:5])}. It is left alone. Choose another --repo, or give --pull-request."
        )


def is_private(release: Release, api: HfApi) -> bool:
    """Whether only its owners read a repository."""
    return bool(api.repo_info(release.repo, repo_type=release.repo_type).private)


def changes_against(release: Release, revision: str, api: HfApi) -> _Changes:
    """What a commit has to do, from names and digests; files that the release lacks are deleted."""
    head = api.repo_info(release.repo, repo_type=release.repo_type, revision=revision).sha
    there = _listing(release, head, api)
    written = [name for name, path in release.files.items() if name not in there or _differs(path, there[name])]
    return _Changes(head, written, sorted(set(there) - set(release.files) - _HUBS_OWN))


def _commit_until_whole(release: Release, options: PushOptions, api: HfApi) -> tuple[str, int]:
    """One commit, tried again after a broken connection; returns where it is seen and how many files it changed."""
    num_changed = 0
    for seconds in (*_SECONDS_BEFORE_RETRY, None):
        try:
            # Asked anew each time: a commit whose answer was lost has been made nevertheless.
            revision = _revision(release, options, api)
            changes = changes_against(release, revision, api)
            if not changes.num:
                return _url(release, revision, changes.head, api), num_changed
            num_changed = changes.num
            _commit(release, options, revision, changes, api)
        except CONNECTION_ERRORS as error:
            if seconds is None or not is_passing(error):
                raise
            time.sleep(seconds)
    raise RuntimeError(
        f"Expected {release.repo} to hold the files that were pushed; found it changed again each time. Somebody else "
        f"seems to push at the same time: try again later, or give --revision."
    )


def _revision(release: Release, options: PushOptions, api: HfApi) -> str:
    """The branch to compare with: an open pull request of the same title is gone on with."""
    if options.as_pull_request:
        kind = {"repo_type": release.repo_type, "discussion_type": "pull_request", "discussion_status": "open"}
        for pull in api.get_repo_discussions(release.repo, **kind):
            if pull.title == release.title:
                return pull.git_reference
        return "main"
    if options.revision != "main":
        api.create_branch(release.repo, branch=options.revision, repo_type=release.repo_type, exist_ok=True)
    return options.revision


def _commit(release: Release, options: PushOptions, revision: str, changes: _Changes, api: HfApi) -> None:
    additions = [CommitOperationAdd(name, release.files[name]) for name in changes.written]
    try:
        api.create_commit(
            release.repo,
            [*additions, *(CommitOperationDelete(name) for name in changes.deleted)],
            commit_message=release.title,
            repo_type=release.repo_type,
            revision=revision,
            parent_commit=changes.head,
            create_pr=options.as_pull_request and revision == "main",
        )
    except ValueError as error:
        raise ValueError(f"Expected the Hub to accept files and card; it says: {error}. {_AS_IT_WAS}") from error


def _tag(release: Release, options: PushOptions, api: HfApi) -> None:
    """Name the commit; a tag that stands there already is left."""
    where = {"repo_type": release.repo_type}
    head = api.repo_info(release.repo, revision=options.revision, **where).sha
    standing = {tag.name: tag.target_commit for tag in api.list_repo_refs(release.repo, **where).tags}
    if options.tag not in standing:
        api.create_tag(release.repo, tag=options.tag, revision=head, **where)
    elif standing[options.tag] != head:
        raise ValueError(
            f"Expected tag {options.tag} of {release.repo} to be free; found it at commit "
            f"{standing[options.tag][:8]}. The files are pushed, as commit {head[:8]}; "
            f"a tag never moves: choose another --tag."
        )


def _listing(release: Release, revision: str, api: HfApi) -> dict[str, RepoFile]:
    try:
        entries = list(
            api.list_repo_tree(release.repo, recursive=True, revision=revision, repo_type=release.repo_type)
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return {}
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _differs(path: Path, there: RepoFile) -> bool:
    if path.stat().st_size != there.size:
        return True
    if there.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != there.lfs.sha256
    content = path.read_bytes()
    # Git's name of a blob.
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != there.blob_id


def _url(release: Release, revision: str, head: str, api: HfApi) -> str:
    place = f"{api.endpoint}/{'datasets/' if release.kind == 'dataset' else ''}{release.repo}"
    if revision.startswith("refs/pr/"):
        return f"{place}/discussions/{revision.removeprefix('refs/pr/')}"
    return f"{place}/commit/{head}"
