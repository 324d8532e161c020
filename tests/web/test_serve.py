"""The explorer's server: loopback, one folder, GET and HEAD, and an end by Ctrl-C."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from emorl.errors import InputError
from emorl.web.export import PAGE
from emorl.web.serve import POLICY, make_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "folder"
    (folder / "model").mkdir(parents=True)
    for name in ("index.html", "main.js", "x.wasm", "model/x.onnx", "model.json"):
        (folder / name).write_text(name)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up").symlink_to(tmp_path)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[ThreadingHTTPServer]:
    server = make_server(folder)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(
    server: ThreadingHTTPServer, path: str, method: str = "GET", host: str = "127.0.0.1"
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.putrequest(method, path, skip_host=True)  # the path goes out as it is
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/index.html", "text/html"),
        ("/main.js?x=1", "text/javascript"),
        ("/x.wasm", "application/wasm"),
        ("/model/x.onnx", "application/octet-stream"),
        ("/model.json", "application/json"),
    ],
)
def test_files_of_the_folder_with_their_types(server: ThreadingHTTPServer, path: str, kind: str) -> None:
    answer, content = ask(server, path)
    name = "index.html" if path == "/" else path[1:].split("?")[0]
    assert (answer.status, answer.getheader("Content-Type"), content) == (200, kind, name.encode())
    assert answer.getheader("Cross-Origin-Opener-Policy") == "same-origin"
    assert answer.getheader("Content-Security-Policy") == f"{POLICY}; frame-ancestors 'none'"
    assert f'content="{POLICY}"' in (PAGE / "index.html").read_text()
    assert answer.getheader("Cross-Origin-Embedder-Policy") == "require-corp"
    assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    answer, content = ask(server, path, "HEAD")
    assert (answer.status, content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/model/../../secret.txt",
        "//secret.txt",
        "/%00",
        "/link.txt",
        "/up/secret.txt",
        "/up/",
        "/model",
        "/model/",
        "/missing",
        "/index.html/",
        f"/{'x' * 300}",
    ],
)
def test_nothing_else(server: ThreadingHTTPServer, path: str) -> None:
    answer, content = ask(server, path)
    assert answer.status in (400, 404)
    assert b"secret" not in content.replace(b"secret.txt", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "NONSENSE"])
def test_no_other_method(server: ThreadingHTTPServer, method: str, folder: Path) -> None:
    answer, _ = ask(server, "/index.html", method)
    assert answer.status == 501
    assert (folder / "index.html").read_text() == "index.html"


def test_other_sites_cannot_reach_it_by_a_name_of_theirs(server: ThreadingHTTPServer) -> None:
    assert ask(server, "/", host="evil.example")[0].status == 403
    assert ask(server, "/", host="")[0].status == 403
    assert ask(server, "/", host="[")[0].status == 403
    assert ask(server, "/", host="localhost:80")[0].status == 200


def test_it_listens_on_loopback_alone(server: ThreadingHTTPServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(1)
        other.connect(("127.0.0.2", server.server_address[1]))  # this machine too, but not that address


def test_a_port_that_cannot_be_had_is_told(server: ThreadingHTTPServer, folder: Path) -> None:
    for port in (server.server_address[1], 70_000):
        with pytest.raises(InputError, match="--port"):
            make_server(folder, port)


def test_ctrl_c_ends_it(folder: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from emorl.web.serve import make_server, serve\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs begin with it ignored
        "serve(make_server(Path(sys.argv[1])), browser=False, say=lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()
