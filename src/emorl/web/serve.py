"""The explorer's folder on a loopback address, for the time of one command."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from emorl.errors import InputError

HOST = "127.0.0.1"
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)
"""The page says the same of itself, for any host; the worker of the networks goes by what the host says."""
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",  # this and the next let the page use several threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site shows the pictures that lie here
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder by GET and HEAD: no listings, nothing that a link or a path leads to outside of it."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".css": "text/css",
        ".html": "text/html",
        ".js": "text/javascript",
        ".json": "application/json",
        ".png": "image/png",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }
    protocol_version = "HTTP/1.1"

    def send_head(self) -> Any:
        """Refuse what is no file of the folder, and requests that another site sends here by a name of its own."""
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif not self._is_own_file():
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            return super().send_head()
        return None

    def _is_own_file(self) -> bool:
        path = Path(self.translate_path(self.path))
        try:
            file = (path / "index.html" if path == Path(self.directory) else path).resolve()
            return file.is_relative_to(Path(self.directory).resolve()) and file.is_file()
        except (OSError, ValueError):  # a null byte, a circle of links, a name that is too long
            return False

    def end_headers(self) -> None:
        """Add what every answer says."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """As the base class; a browser that has gone is no error."""
        try:
            super().copyfile(source, outputfile)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""


def make_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder on the loopback address, not yet running; port 0 takes a free one.

    Raises InputError where the port is taken or no port.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on port {port} of {HOST}: {reason}; name another --port") from None


def serve(server: ThreadingHTTPServer, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `say` is given one line with the address."""
    address = f"http://{HOST}:{server.server_address[1]}/"
    try:
        say(f"{address} (Ctrl-C ends it)")
        if browser:  # a browser of the terminal keeps its thread until it is closed
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.serve_forever()
    except KeyboardInterrupt:
        say("ended")
    finally:
        server.server_close()
