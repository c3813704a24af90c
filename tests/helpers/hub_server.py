"""A Hub on this machine, for the real `huggingface_hub`: accounts, repositories with branches and commits, LFS uploads
and downloads by range. What is asked of it and how it answers is what huggingface_hub.HfApi sends and reads.

Large files (`_LFS`) go the way of LFS, others stand in the commit. A commit names all of its files and is there or is
not. `lose` lets a connection die in the middle.
"""

import base64
import hashlib
import http.server
import json
import os
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub.file_download
import huggingface_hub.utils._http
import transformers.utils.hub
from huggingface_hub import constants
from huggingface_hub.utils import close_session

_LFS = (".safetensors", ".onnx", ".data", ".bin", ".pt2", ".png")
TOKEN, OTHER_TOKEN = "hf_mine", "hf_other"
ACCOUNTS = {TOKEN: "me", OTHER_TOKEN: "you"}


@dataclass
class Repo:
    """A repository: `branches` {name: id of a commit}, `commits` {id: {path: bytes}}, `messages` {id: text}."""

    private: bool
    branches: dict = field(default_factory=dict)
    commits: dict = field(default_factory=dict)
    messages: dict = field(default_factory=dict)

    def commit(self, branch, files, message):
        """Add a commit of all its files. Returns its id."""
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.branches[branch] = files, message, sha
        return sha

    def at(self, revision):
        """(id, files) of a branch or commit, or None."""
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class HubServer(http.server.ThreadingHTTPServer):
    """`repos` {id: [`Repo`]}; `asked`: all requests as "GET /path"; `objects`: LFS files by SHA-256."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.objects, self.asked, self.losses = {}, {}, [], []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that went away is none of ours."""

    def files(self, repo_id, revision="main"):
        """{path: bytes} of a revision."""
        return self.repos[repo_id].at(revision)[1]

    def lose(self, request, times, after=100):
        """Let connections die: the next `times` requests that contain `request`, such as "GET /me/model/resolve",
        after so many bytes of what they carry."""
        self.losses.append([request, times, after])

    def loses(self, request):
        """After how many bytes this request dies, or None."""
        for loss in self.losses:
            if loss[0] in request and loss[1] > 0:
                loss[1] -= 1
                return loss[2]
        return None


class _Refusal(Exception):
    """An answer other than success: status, X-Error-Code, X-Error-Message."""


class _Lost(Exception):
    """The connection dies."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Nothing is printed."""

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.server.asked.append(request)
        try:
            self.dies_after = self.server.loses(request)
            self.body = self._read()
            for method, pattern, answer in _ROUTES:
                if method in (self.command, "GET" if self.command == "HEAD" else "") and (
                    found := re.fullmatch(pattern, path)
                ):
                    return answer(self, *found.groups())
            raise _Refusal(404, "", f"no such address: {request}")
        except _Refusal as refusal:
            status, code, message = refusal.args
            self._send({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})
        except _Lost:
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _read(self):
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self._received(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self._received(int(self.headers.get("Content-Length") or 0))

    def _received(self, size):
        if self.dies_after is not None and self.command in ("POST", "PUT"):
            self.rfile.read(min(size, self.dies_after))
            raise _Lost
        return self.rfile.read(size)

    def _send(self, content, status=200, headers=None):
        content = json.dumps(content).encode() if not isinstance(content, bytes) else content
        self.send_response(status)
        headers = {"Content-Length": len(content), "Content-Type": "application/json", **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.dies_after is not None:
            self.wfile.write(content[: self.dies_after])
            self.wfile.flush()
            raise _Lost
        self.wfile.write(content)

    # Who asks for what

    def _account(self):
        said = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if said and said not in ACCOUNTS:
            raise _Refusal(401, "", "Invalid credentials in Authorization header")
        return ACCOUNTS.get(said)

    def _repo(self, repo_id, write=False):
        account, repo = self._account(), self.server.repos.get(repo_id)
        owner = repo_id.split("/")[0]
        if repo is None or (repo.private and account != owner):
            if account is None:  # of addresses with https the client knows without the code
                raise _Refusal(401, "RepoNotFound", "Invalid username or password.")
            raise _Refusal(404, "RepoNotFound", "Repository not found")
        if write and account != owner:
            raise _Refusal(403 if account else 401, "", f"You don't have write access to {repo_id}")
        return repo

    def _revision(self, repo_id, revision):
        found = self._repo(repo_id).at(revision)
        if found is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # Answers

    def whoami(self):
        if (account := self._account()) is None:
            raise _Refusal(401, "", "Invalid username or password.")
        self._send({"type": "user", "name": account, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        account, said = self._account(), json.loads(self.body)
        if account is None:
            raise _Refusal(401, "", "Invalid username or password.")
        owner = said.get("organization") or account
        if owner != account:
            raise _Refusal(403, "", f'You don\'t have the rights to create a model under the namespace "{owner}"')
        repo_id, private = f"{owner}/{said['name']}", said.get("private") or said.get("visibility") == "private"
        status = 409 if repo_id in self.server.repos else 200
        if status == 200:
            self.server.repos[repo_id] = Repo(private=bool(private))
            self.server.repos[repo_id].commit("main", {".gitattributes": b""}, "initial commit")
        answer = {"url": f"{self.server.endpoint}/{repo_id}", "id": repo_id, "name": repo_id}
        self._send(answer, status, {"X-Error-Message": "You already created this model repo"} if status == 409 else {})

    def validate(self):
        self._send({"errors": [], "warnings": []})

    def branch(self, repo_id, branch):
        repo, said = self._repo(repo_id, write=True), json.loads(self.body or b"{}")
        if branch in repo.branches:
            raise _Refusal(409, "", "Reference already exists")
        repo.branches[branch] = repo.at(said.get("startingPoint") or "main")[0]
        self._send({})

    def preupload(self, repo_id, revision):
        repo = self._repo(repo_id, write=True)
        files = (repo.at(revision) or self._revision(repo_id, revision))[1]
        answer = []
        for file in json.loads(self.body)["files"]:
            lfs = file["path"].endswith(_LFS)
            known = files.get(file["path"])
            oid = None if known is None else hashlib.sha256(known).hexdigest() if lfs else _git_oid(known)
            answer.append(
                {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            )
        self._send({"files": answer})

    def batch(self, repo_id):
        self._repo(repo_id, write=True)
        answer = []
        for one in json.loads(self.body)["objects"]:
            if one["oid"] not in self.server.objects:
                one = {**one, "actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{one['oid']}"}}}
            answer.append(one)
        self._send({"transfer": "basic", "objects": answer})

    def store(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "", "other bytes than were announced")
        self.server.objects[oid] = self.body
        self._send({})

    def commit(self, repo_id, branch):
        repo = self._repo(repo_id, write=True)
        if branch not in repo.branches:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        files, message = dict(repo.at(branch)[1]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile" and value["oid"] in self.server.objects:
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refusal(400, "", f"cannot commit {entry}")
        sha = repo.commit(branch, files, message)
        url = f"{self.server.endpoint}/{repo_id}/commit/{sha}"
        self._send({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def info(self, repo_id, revision="main"):
        sha, files = self._revision(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        private = self.server.repos[repo_id].private
        answer = {"id": repo_id, "modelId": repo_id, "sha": sha, "private": private, "tags": [], "downloads": 0}
        self._send({**answer, "likes": 0, "siblings": siblings})

    def tree(self, repo_id, revision, below=""):
        _, files = self._revision(repo_id, revision)
        answer = []
        for path, content in sorted(files.items()):
            if path.startswith(below):
                entry = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
                if path.endswith(_LFS):
                    sha = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
                answer.append(entry)
        if below and not answer:
            raise _Refusal(404, "EntryNotFound", f"{below} does not exist")
        self._send(answer)

    def refs(self, repo_id):
        branches = self._repo(repo_id).branches.items()
        found = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
        self._send({"branches": found, "tags": [], "converts": []})

    def resolve(self, repo_id, revision, path):
        sha, files = self._revision(repo_id, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        content = files[path]
        etag = hashlib.sha256(content).hexdigest() if path.endswith(_LFS) else _git_oid(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None or int(start[1]) == 0:
            return self._send(content, 200, headers)
        first, size = int(start[1]), len(content)
        headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        return self._send(content[first:], 206, headers)


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_ID}/branch/(.+)", _Handler.branch),
    ("POST", rf"/api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(\w+)", _Handler.store),
    ("POST", rf"/api/models/{_ID}/commit/(.+)", _Handler.commit),
    ("GET", rf"/api/models/{_ID}", _Handler.info),
    ("GET", rf"/api/models/{_ID}/revision/(.+)", _Handler.info),
    ("GET", rf"/api/models/{_ID}/refs", _Handler.refs),
    ("GET", rf"/api/models/{_ID}/tree/([^/]+)/?(.*)", _Handler.tree),
    ("GET", rf"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def _git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_server():
    """A running [`HubServer`]."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(server, home, token=TOKEN):
    """Variables of a process that takes the server for the Hub, with a cache of its own below `home`."""
    own = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", **({"HF_TOKEN": token} if token else {})}


def use_hub(monkeypatch, server, home, token=TOKEN):
    """The same of this process, whose `huggingface_hub` has read its variables long ago."""
    for name, value in {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # which keeps its endpoint
    hasty = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # between two tries
    for module in (huggingface_hub.utils._http, huggingface_hub.file_download):
        monkeypatch.setattr(module, "time", hasty)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    close_session()
