"""A web server on this machine whose pages misbehave in the ways that real ones do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Pages(BaseHTTPRequestHandler):
    """Each path is one behaviour; `/file` answers with the server's `contents`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.partition("?")[0].strip("/").replace("-", "_")
        try:
            getattr(self, f"page_{name}", self.page_missing)()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self, body: bytes, length: int | None = None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, target: str):
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def page_file(self):
        self.answer(self.server.contents)

    def page_moved(self):
        self.redirect("/file")

    def page_loop(self):
        self.redirect("/loop")

    def page_chain(self):
        self.redirect(f"/chain?{time.perf_counter_ns()}")

    def page_to_disk(self):
        self.redirect("file:///etc/hostname")

    def page_to_ftp(self):
        self.redirect("ftp://127.0.0.1/x")

    def page_huge(self):
        self.answer(b"x", length=1 << 40)

    def page_endless(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x" * 10_000)
        self.close_connection = True

    def page_cut(self):
        self.answer(b"half", length=8)
        self.close_connection = True

    def page_silent(self):
        time.sleep(3)

    def page_drip(self):
        """Never silent for as long as a socket's time-out, and never done."""
        self.send_response(200)
        self.end_headers()
        for _ in range(60):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True

    def page_drip_headers(self):
        for _ in range(60):
            self.wfile.write(b"H")
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True

    def page_missing(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


@contextmanager
def serving(contents: bytes) -> Iterator[str]:
    """Serve the pages; yields the address without a final slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    server.block_on_close = False
    server.contents = contents
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
