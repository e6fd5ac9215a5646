"""Pictures and sounds are had from wherever people keep them, and what cannot be had is said within the limits."""

import base64
import time
from pathlib import Path

import pytest

from jaxformers.core.errors import InputError
from jaxformers.processing.sources import Limits, is_url, read_source
from tests.processing.web import serving

CONTENTS = bytes(range(256)) * 40
SHORT = Limits(size=100_000, timeout=0.4, redirects=3)


@pytest.fixture(scope="module")
def web():
    with serving(CONTENTS) as address:
        yield address


def test_paths_bytes_and_base64(tmp_path):
    path = tmp_path / "a file.bin"
    path.write_bytes(CONTENTS)
    text = base64.b64encode(CONTENTS).decode()
    lines = base64.encodebytes(CONTENTS).decode()
    for source in (path, str(path), CONTENTS, bytearray(CONTENTS), memoryview(CONTENTS), text, lines):
        assert read_source(source) == CONTENTS


def test_home_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.bin").write_bytes(b"home")
    assert read_source("~/x.bin") == read_source(Path("~/x.bin")) == b"home"


def test_data_urls():
    text = base64.b64encode(CONTENTS).decode()
    assert read_source(f"data:image/png;base64,{text}") == CONTENTS
    assert read_source(f"DATA:audio/wav;x=y;BASE64,{text.replace('=', '%3D')}") == CONTENTS
    assert read_source("data:,a%20b") == b"a b"
    with pytest.raises(InputError, match="no data URL"):
        read_source("data:image/png;base64")
    with pytest.raises(InputError, match="not base64"):
        read_source("data:image/png;base64,!!!")


@pytest.mark.parametrize(
    "source", ["cats", "no/such.png", "x_" * 2500, "zero\0byte", Path("nothing-here"), "ftp://h/x"]
)
def test_what_is_not_there_is_said(source):
    with pytest.raises(InputError, match="expected a file, an address") as caught:
        read_source(source)
    assert len(str(caught.value)) < 400


def test_folders_and_wrong_types_are_said(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_source(tmp_path)
    with pytest.raises(InputError, match="got int"):
        read_source(3)


def test_addresses(web):
    assert read_source(f"{web}/file") == CONTENTS
    assert read_source(f"{web}/moved", SHORT) == CONTENTS
    assert is_url("HTTPS://x") and not is_url("httpx") and not is_url(b"http://x")


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("missing", "answered 404"),
        ("huge", "larger than 100000 bytes"),
        ("endless", "larger than 100000 bytes"),
        ("cut", "ended after 4 of 8 bytes"),
        ("loop", "redirects in a circle"),
        ("chain", "redirects in a circle, more than 3 times"),
        ("to-disk", "not to the web"),
        ("to-ftp", "unknown url type"),
        ("silent", "longer than 0.4 s"),
        ("drip", "longer than 0.4 s"),
        ("drip-headers", "longer than 0.4 s"),
    ],
)
def test_bad_servers_cost_no_more_than_the_limits(web, page, complaint):
    start = time.monotonic()
    with pytest.raises(InputError, match=complaint) as caught:
        read_source(f"{web}/{page}", SHORT)
    assert f"{web}/{page}" in str(caught.value)
    assert time.monotonic() - start < 2


def test_nobody_there():
    with pytest.raises(InputError, match="could not be fetched"):
        read_source("http://127.0.0.1:9/x", SHORT)
