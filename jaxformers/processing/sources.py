"""The bytes of a picture or a sound, wherever a person has them: a path, a web address, a data URL, base64 or bytes."""

from __future__ import annotations

import base64
import binascii
import http.client
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from jaxformers.core.errors import InputError

CHUNK = 1 << 16
SHOWN = 80  # characters of a source that an error repeats
# A shorter word may be base64 by accident, such as the misspelt name of a file; no picture or sound is that short.
SHORTEST_BASE64 = 48


@dataclass(frozen=True)
class Limits:
    """What a download may cost: `size` in bytes, `timeout` in seconds for the whole of it, hops in `redirects`."""

    size: int = 256 << 20
    timeout: float = 30.0
    redirects: int = 5


def read_source(source: str | os.PathLike | bytes, limits: Limits = Limits()) -> bytes:
    """Return the bytes behind a path, an http(s) address, a data URL or base64 text; bytes come back as they are.

    Raises InputError when there is nothing to read there, or reading it would break the limits.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"expected a path, a URL, a data URL or bytes, got {type(source).__name__}")
    text = os.fspath(source)
    if isinstance(source, str):
        if is_url(text):
            return download(text, limits)
        if text[:5].lower() == "data:":
            return decode_data_url(text)
    return read_file(text)


def is_url(source: Any) -> bool:
    """Whether this is text that names something on the web."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def shown(source: Any) -> str:
    """A source as an error names it: short, and without the contents of what was given as bytes."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    text = str(source)
    half = SHOWN // 2  # a path's end names the file, and a data URL's beginning its kind
    return repr(text if len(text) <= SHOWN else f"{text[:half]}...{text[-half:]}")


def read_file(name: str) -> bytes:
    """Return the contents of a file, or what base64 text stands for if no file has that name."""
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path.read_bytes()
        found = "is a folder" if path.is_dir() else "does not exist"
    except (OSError, ValueError, RuntimeError) as error:  # too long for a name, a zero byte, not ours to read
        found = f"cannot be read ({error.__class__.__name__})"
    if (decoded := decode_base64(name)) is not None:
        return decoded
    raise InputError(
        f"{shown(name)} {found}: expected a file, an address that begins with http:// or https://, "
        "a data URL, or base64 text. Check its spelling and the working folder."
    )


def decode_base64(text: str) -> bytes | None:
    """Return what base64 text stands for, None if it is not that."""
    packed = "".join(text.split())
    if len(packed) < SHORTEST_BASE64:
        return None
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return None


def decode_data_url(text: str) -> bytes:
    """Return the contents of `data:[type][;base64],contents`, RFC 2397. Raises InputError if it is none."""
    head, comma, contents = text.partition(",")
    if not comma:
        raise InputError(f"{shown(text)} is no data URL: expected data:TYPE;base64,CONTENTS with a comma")
    raw = unquote_to_bytes(contents)
    if not head.lower().endswith(";base64"):
        return raw
    try:
        return base64.b64decode(b"".join(raw.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the contents of the data URL {shown(head)} are not base64 ({error}): encode it again") from (
            error
        )


def download(url: str, limits: Limits = Limits()) -> bytes:
    """Fetch a web address within limits. Raises InputError with the address and the reason when that fails."""
    request = urllib.request.Request(url, headers={"User-Agent": "jaxformers", "Accept-Encoding": "identity"})
    with deadline(limits.timeout) as watch:
        try:
            with opener(watch, limits).open(request, timeout=limits.timeout) as response:
                return read_within(response, limits, watch)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(f"{shown(url)} could not be fetched: {reason(error, watch, limits)}") from error


def reason(error: Exception, watch: Watch, limits: Limits) -> str:
    """What went wrong with a download, in words a user can act on."""
    cause = getattr(error, "reason", error)
    if watch.fired.is_set() or isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return f"it took longer than {limits.timeout:g} s. Try again, or allow more time."
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (301, 302, 303, 307, 308):
            found = f"it redirects in a circle, more than {limits.redirects} times, or not to the web"
            return f"{found}. Check the address."
        return f"the server answered {error.code} {error.msg}. Check the address, and that it needs no login."
    return f"{type(error).__name__}: {cause or 'the connection failed'}. Check the address and your network."


def read_within(response: Any, limits: Limits, watch: Watch) -> bytes:
    """Read an answer to its end. Raises InputError once it is too large, or if it ends before its announced length."""
    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdigit() else None
    too_large = InputError(f"it is larger than {limits.size} bytes. Allow more, or download it to a file yourself.")
    if expected is not None and expected > limits.size:
        raise too_large
    pieces, total = [], 0
    while piece := response.read1(CHUNK):
        pieces.append(piece)
        total += len(piece)
        if total > limits.size:
            raise too_large
    if watch.fired.is_set():  # a socket that was shut down reads as if the answer had ended
        raise TimeoutError
    if expected is not None and total < expected:
        raise InputError(f"the connection ended after {total} of {expected} bytes. Try again.")
    return b"".join(pieces)


@dataclass
class Watch:
    """The connections of one download, cut when its time is up: a socket's own time-out restarts at every byte."""

    ends: float  # on time.monotonic's clock
    sockets: list[socket.socket] = field(default_factory=list)
    fired: threading.Event = field(default_factory=threading.Event)

    def add(self, connection: socket.socket) -> None:
        """Watch a connection. Raises TimeoutError when the time is already up."""
        self.sockets.append(connection)
        if time.monotonic() >= self.ends:
            raise TimeoutError
        connection.settimeout(self.ends - time.monotonic())

    def cut(self) -> None:
        """End every connection; whoever reads from one sees its end."""
        self.fired.set()
        for connection in self.sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it had ended by itself
                pass


@contextmanager
def deadline(seconds: float) -> Iterator[Watch]:
    """Cut the connections that are added to the watch when the time is up."""
    watch = Watch(time.monotonic() + seconds)
    timer = threading.Timer(seconds, watch.cut)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()


class WatchedHTTP(http.client.HTTPConnection):
    """A connection that tells its watch about its socket."""

    def __init__(self, *args: Any, watch: Watch, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.watch = watch

    def connect(self) -> None:
        """Connect, watched."""
        super().connect()
        self.watch.add(self.sock)


class WatchedHTTPS(http.client.HTTPSConnection):
    """An encrypted connection that tells its watch about its socket."""

    def __init__(self, *args: Any, watch: Watch, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.watch = watch

    def connect(self) -> None:
        """Connect, watched."""
        super().connect()
        self.watch.add(self.sock)


class WebOnly(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https through watched connections."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> Any:
        """Open an http address."""
        return self.do_open(partial(WatchedHTTP, watch=self.watch), req)  # type: ignore[arg-type]

    def https_open(self, req: urllib.request.Request) -> Any:
        """Open an https address; certificates are checked, as is the default."""
        return self.do_open(partial(WatchedHTTPS, watch=self.watch), req)  # type: ignore[arg-type]


def opener(watch: Watch, limits: Limits) -> urllib.request.OpenerDirector:
    """What opens addresses: the web and the environment's proxies alone, so no redirect can reach a local file."""
    redirects = urllib.request.HTTPRedirectHandler()
    redirects.max_redirections = limits.redirects  # type: ignore[misc]
    director = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler(), WebOnly(watch), redirects),
        *(urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler()),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    return director
