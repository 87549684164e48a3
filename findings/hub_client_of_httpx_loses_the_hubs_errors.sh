#!/usr/bin/env bash
# huggingface_hub 2.4.0 with httpx 0.28.1 beside it
#
# Behaviour: the client of the hub is httpx2, another package than httpx, with classes of its own. A hub that cannot be
# reached raises httpx2.ConnectError, which `except httpx.HTTPError` and `except OSError` let through. A client factory
# that gives an httpx.Client, as proxies and own certificates are set up with version 1, is accepted, requests are
# answered, and then every answer but 2xx is a bare httpx.HTTPStatusError: a repository that does not exist is no
# RepositoryNotFoundError, and repo_exists raises where it otherwise returns False.
#
# Why a good guess misses it: since version 1 the hub's client was httpx, most environments still hold httpx for other
# packages, so neither the import nor the factory fails, and all that works goes on working: only errors change. Both
# packages name their classes alike, so a printed traceback looks as before.
#
# Output seen on 2026-11-30:
#   unreachable: httpx2.ConnectError, an httpx.HTTPError: False, an OSError: False
#   repo_exists, its own client: False
#   repo_exists, a client of httpx: httpx.HTTPStatusError
#   repo_exists, a client of httpx2: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0 httpx==0.28.1
cat >"$work/check.py" <<'PY'
import http.server
import socket
import threading

import httpx
import httpx2
from huggingface_hub import HfApi, set_client_factory


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, *_):
        pass


def answer(api):
    try:
        return str(api.repo_exists("somebody/something"))
    except Exception as error:
        return f"{type(error).__module__.split('.')[0]}.{type(error).__name__}"


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    closed = free.getsockname()[1]
try:
    HfApi(endpoint=f"http://127.0.0.1:{closed}", token=False).model_info("somebody/something")
    raise SystemExit("nothing was raised")
except Exception as error:
    name = f"{type(error).__module__.split('.')[0]}.{type(error).__name__}"
    seen = isinstance(error, httpx.HTTPError), isinstance(error, OSError)
print(f"unreachable: {name}, an httpx.HTTPError: {seen[0]}, an OSError: {seen[1]}")
assert (name, seen) == ("httpx2.ConnectError", (False, False))

server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=False)
own = answer(api)
set_client_factory(httpx.Client)
first = answer(api)
set_client_factory(httpx2.Client)
second = answer(api)
print("repo_exists, its own client:", own)
print("repo_exists, a client of httpx:", first)
print("repo_exists, a client of httpx2:", second)
assert (own, first, second) == ("False", "httpx.HTTPStatusError", "False")
PY
"$work/venv/bin/python" "$work/check.py"
