"""A stand-in for the Hub: as much of its protocol as its client speaks to make a repository, commit files
and fetch a revision.

Every file is a regular one; what the Hub keeps large files in is not here."""
import base64
import hashlib
import json
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"


class Repository:
    """Commits in their order, each {path: bytes}; the last is called main.
    Like those of the Hub it begins with a file of git's.
    """

    def __init__(self):
        self.commits = {}
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, changed, deleted=()):
        """Add a commit; deleted names end in a slash where they are folders."""
        gone = lambda path: any(fnmatch(path, name + "*" * name.endswith("/")) for name in deleted)
        files = {path: data for path, data in self.files("main").items() if not gone(path)} if self.commits else {}
        files |= changed
        told = json.dumps([len(self.commits), *sorted(files)])
        self.commits[hashlib.sha1(told.encode()).hexdigest()] = files
        return [*self.commits][-1]

    def sha(self, revision): return [*self.commits][-1] if revision == "main" else revision

    def files(self, revision): return self.commits[self.sha(revision)]


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `server.repositories` is {name: Repository}, `server.asked` a list of what was asked."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def answer(self, body=b"", status=200, **headers):
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), headers | {"Content-Type": "application/json"}
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def refuse(self, status, code, said): self.answer(dict(error=said), status, X_Error_Code=code, X_Error_Message=said)

    def allowed(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}": return True
        self.refuse(401, "", "Invalid username or password.")
        return False

    def do_POST(self):
        if "Content-Length" in self.headers: body = self.rfile.read(int(self.headers["Content-Length"]))
        else: body = b"".join(self.chunks())
        path = urlsplit(self.path).path.split("/")[2:]
        self.server.asked.append("/".join(path))
        if path == ["validate-yaml"]: return self.answer(dict(errors=[], warnings=[]))
        if not self.allowed(): return None
        if path == ["repos", "create"]:
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            self.server.repositories.setdefault(name, Repository())
            return self.answer(dict(url=f"{self.server.url}/{name}", name=name))
        name = "/".join(path[1:3])
        if path[3] == "preupload":
            plain = lambda given: dict(path=given["path"], uploadMode="regular", shouldIgnore=False)
            return self.answer(dict(files=[*map(plain, json.loads(body)["files"])]))
        changed, deleted = {}, []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file": changed[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "deletedFile": deleted.append(value["path"])
            if line["key"] == "deletedFolder": deleted.append(value["path"].rstrip("/") + "/")
        sha = self.server.repositories[name].commit(changed, deleted)
        return self.answer(dict(commitUrl=f"{self.server.url}/{name}/commit/{sha}", commitOid=sha, success=True))

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_GET(self):
        path = [*map(unquote, urlsplit(self.path).path.split("/")[1:])]
        self.server.asked.append("/".join(path))
        api = path[0] == "api"
        name = "/".join(path[2:4] if api else path[:2])
        if name not in self.server.repositories: return self.refuse(404, "RepoNotFound", "Repository not found")
        kind, revision, *rest = (path[4:] if api else path[2:]) or ["revision", "main"]
        repository = self.server.repositories[name]
        sha = repository.sha(revision)
        if sha not in repository.commits: return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.files(sha)
        blob = lambda data: hashlib.sha1(data).hexdigest()
        if api and kind == "revision":
            return self.answer(dict(id=name, sha=sha, siblings=[dict(rfilename=file) for file in files], tags=[]))
        if api and kind == "tree":
            return self.answer([
                dict(type="file", path=file, size=len(data), oid=blob(data)) for file, data in files.items()
            ])
        found = files.get("/".join(rest))
        if found is None: return self.refuse(404, "EntryNotFound", "Entry not found")
        return self.answer(found, ETag=f'"{blob(found)}"', X_Repo_Commit=sha)

    do_HEAD = do_GET


@contextmanager
def hub():
    """The server, while it runs: `url`, `repositories` and `asked`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url, server.repositories, server.asked = f"http://127.0.0.1:{server.server_port}", {}, []
    thread = Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True)
    thread.start()
    try: yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
