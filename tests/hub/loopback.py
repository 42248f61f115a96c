"""A Hub on this machine: the endpoints that the real clients call when they create, push, list and pull.

Written from the requests that huggingface_hub 2.4 sends. It checks what a server has to check – tokens, permissions,
the parent of a commit, the content of large files – and can be told to break a connection half-way.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from .loopback_store import Broken, Commit, LoopbackHub, Refusal, Repository, StoredFile, tree

REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>model|dataset)s/{REPO}"
LARGE = (".safetensors", ".parquet", ".png", ".pth", ".onnx")  # what the Hub's .gitattributes sends through LFS


@contextmanager
def serve(hub: LoopbackHub):
    """Answer on a free port of this machine until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url, hub.storage = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def handle_one_method(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.hub.requests.append(f"{self.command} {parts.path}")
        method = "GET" if self.command == "HEAD" else self.command
        is_upload = method == "PUT" and parts.path.startswith("/large/")  # may be cut off, so it reads for itself
        try:
            self.content = b"" if is_upload else self.body()
            for wanted, pattern, answer in ROUTES:
                if wanted == method and (found := re.fullmatch(pattern, parts.path)):
                    answer(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
                    return
            raise Refusal(404, f"no such endpoint: {self.command} {parts.path}")
        except Refusal as refusal:
            named = {"X-Error-Code": refusal.code} if refusal.code else {}
            self.send(
                {"error": refusal.message, "errors": [{"message": refusal.message}]},
                refusal.status,
                **named,
                **{"X-Error-Message": refusal.message},
            )
        except Broken:
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = handle_one_method

    def log_message(self, *args) -> None:
        pass

    # What every endpoint needs

    def body(self) -> bytes:
        if not self.headers.get("Transfer-Encoding"):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, content: object, status: int = 200, **headers: str) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def user(self) -> tuple[str, list[str], str] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def may_write(self, name: str) -> bool:
        user = self.user()
        return user is not None and user[2] == "write" and name.split("/")[0] in (user[0], *user[1])

    def repository(self, kind: str, repo: str, to_write: bool = False) -> Repository:
        found, user = self.hub.repositories.get((kind, repo)), self.user()
        owner = repo.split("/")[0]
        if found is None or (found.is_private and (user is None or owner not in (user[0], *user[1]))):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if to_write and not self.may_write(repo):
            raise Refusal(403, "Forbidden: you need write access to this repository")
        return found

    def commit(self, kind: str, repo: str, revision: str, to_write: bool = False) -> tuple[Repository, Commit]:
        repository = self.repository(kind, repo, to_write)
        commit = repository.find(revision or "main")
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, commit

    # Accounts and repositories

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, "Unauthorized")
        name, organisations, role = user
        orgs = [{"name": organisation} for organisation in organisations]
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        self.send({"type": "user", "name": name, "orgs": orgs, "auth": access})

    def create(self) -> None:
        wanted = json.loads(self.content)
        user = self.user()
        if user is None:
            raise Refusal(401, "Unauthorized")
        name = f"{wanted.get('organization') or user[0]}/{wanted['name']}"
        kind = wanted.get("type", "model")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if not self.may_write(name):
            raise Refusal(403, "You don't have the rights to create a repository under this namespace")
        if (kind, name) in self.hub.repositories:
            self.send({"error": "You already created this repo", "url": url}, 409)
            return
        self.hub.repositories[kind, name] = Repository(kind, name, wanted.get("visibility") == "private")
        self.send({"url": url, "name": name, "id": name})

    def settings(self, kind: str, repo: str) -> None:
        repository = self.repository(kind, repo, to_write=True)
        repository.is_private = json.loads(self.content)["visibility"] == "private"
        self.send({"private": repository.is_private})

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        repository, commit = self.commit(kind, repo, revision)
        self.send(repository.info(commit))

    def refs(self, kind: str, repo: str) -> None:
        repository = self.repository(kind, repo)
        branches = {name: oid for name, oid in repository.refs.items() if not name.startswith("refs/")}
        self.send({"branches": _refs(branches, "heads"), "tags": _refs(repository.tags, "tags"), "converts": []})

    def tag(self, kind: str, repo: str, revision: str) -> None:
        repository, commit = self.commit(kind, repo, revision, to_write=True)
        name = json.loads(self.content)["tag"]
        if name in repository.tags:
            raise Refusal(409, "Tag already exists")
        repository.tags[name] = commit.oid
        self.send({})

    def branch(self, kind: str, repo: str, branch: str) -> None:
        repository = self.repository(kind, repo, to_write=True)
        if branch in repository.refs:
            raise Refusal(409, "Branch already exists")
        repository.refs[branch] = repository.refs["main"]
        self.send({})

    def discussions(self, kind: str, repo: str) -> None:
        repository = self.repository(kind, repo)
        common = {"status": "open", "isPullRequest": True, "createdAt": "2026-01-01T00:00:00.000Z"}
        common |= {"repo": {"name": repo, "type": kind}, "author": {"name": "anna"}}
        pulls = [common | {"title": title, "num": num} for num, title in enumerate(repository.pulls, start=1)]
        self.send({"count": len(pulls), "start": 0, "discussions": pulls})

    # Reading

    def tree(self, kind: str, repo: str, revision: str, path: str) -> None:
        _, commit = self.commit(kind, repo, revision)
        entries = tree(commit, path, self.query.get("recursive", "").lower() == "true")
        if entries is None:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        self.send(entries)

    def paths_info(self, kind: str, repo: str, revision: str) -> None:
        _, commit = self.commit(kind, repo, revision)
        paths = parse_qs(self.content.decode()).get("paths", [])
        self.send([commit.files[path].entry(path) for path in paths if path in commit.files])

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> None:
        _, commit = self.commit("dataset" if kind else "model", repo, revision)
        file = commit.files.get(path)
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        known = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            self.send_range(file.content, known)
            return
        linked = {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.sha256}"'}
        self.hub.large_files.setdefault(file.sha256, file.content)
        self.send(b"", 302, Location=f"{self.hub.storage}/large/{file.sha256}", **known, **linked)

    def large(self, oid: str) -> None:
        self.send_range(self.hub.large_files[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def send_range(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.send(content, **headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        told = f"bytes {first}-{last}/{len(content)}"
        self.send(content[first : last + 1], 206, **headers, **{"Content-Range": told})

    # Writing

    def validate_yaml(self) -> None:
        block = re.match(r"---\n(.*?)\n---", json.loads(self.content)["content"], re.DOTALL)
        metadata = yaml.safe_load(block[1]) if block else {}
        if not isinstance(metadata.get("license", "other"), str):
            raise Refusal(400, '"license" must be a string')
        self.send({"errors": [], "warnings": []})

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        is_proposal = self.query.get("create_pr") == "1"
        _, commit = self.commit(kind, repo, revision, to_write=not is_proposal)
        answers = []
        for file in json.loads(self.content)["files"]:
            there = commit.files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) or file["size"] > 10_000_000 else "regular"
            oid = there.etag if there else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send({"files": answers})

    def lfs_batch(self, kind: str, repo: str) -> None:
        self.repository("dataset" if kind else "model", repo, to_write=False)
        if self.user() is None:
            raise Refusal(401, "Unauthorized")
        objects = []
        for wanted in json.loads(self.content)["objects"]:
            links = {"upload": {"href": f"{self.hub.storage}/large/{wanted['oid']}"}}
            links["verify"] = {"href": f"{self.hub.url}/verify"}
            is_here = wanted["oid"] in self.hub.large_files
            objects.append(wanted if is_here else wanted | {"actions": links})
        self.send({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if self.hub.broken_uploads:
            self.hub.broken_uploads -= 1
            self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
            raise Broken
        content = self.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, "the content is not what its name says")
        self.hub.large_files[oid] = content
        self.send({})

    def verify(self) -> None:
        wanted = json.loads(self.content)
        if len(self.hub.large_files.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "the uploaded file is not there")
        self.send({})

    def make_commit(self, kind: str, repo: str, revision: str) -> None:
        is_proposal = self.query.get("create_pr") == "1"
        repository, base = self.commit(kind, repo, revision, to_write=not is_proposal)
        lines = [json.loads(line) for line in self.content.splitlines()]
        breaks = self.hub.broken_commits.pop(0) if self.hub.broken_commits else None
        if breaks == "before":
            raise Broken
        header, files = lines[0]["value"], dict(base.files)
        if header.get("parentCommit") not in (None, base.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    raise Refusal(400, f"LFS pointer points to a file that was not uploaded: {value['path']}")
                files[value["path"]] = StoredFile(self.hub.large_files[value["oid"]], is_lfs=True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(revision, header["summary"], files, is_proposal)
        if breaks == "after":
            raise Broken
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}
        pull = {"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/{len(repository.pulls)}"} if is_proposal else {}
        self.send(answer | pull)


def _refs(names: dict[str, str], where: str) -> list[dict]:
    return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid} for name, oid in names.items()]


REVISION, PATH, DATASETS = r"(?P<revision>[^/]+)", r"(?P<path>.+)", "(?P<kind>datasets/)?"
ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("PUT", f"{API}/settings", _Handler.settings),
    ("GET", API, _Handler.info),
    ("GET", f"{API}/revision/{REVISION}", _Handler.info),
    ("GET", f"{API}/refs", _Handler.refs),
    ("GET", f"{API}/discussions", _Handler.discussions),
    ("GET", f"{API}/tree/{REVISION}(?P<path>/.*)?", _Handler.tree),
    ("POST", f"{API}/paths-info/{REVISION}", _Handler.paths_info),
    ("POST", f"{API}/tag/{REVISION}", _Handler.tag),
    ("POST", f"{API}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", f"{API}/preupload/{REVISION}", _Handler.preupload),
    ("POST", f"{API}/commit/{REVISION}", _Handler.make_commit),
    ("POST", rf"/{DATASETS}{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]+)", _Handler.upload),
    ("GET", "/large/(?P<oid>[0-9a-f]+)", _Handler.large),
    ("POST", "/verify", _Handler.verify),
    ("GET", f"/{DATASETS}{REPO}/resolve/{REVISION}/{PATH}", _Handler.resolve),
]
