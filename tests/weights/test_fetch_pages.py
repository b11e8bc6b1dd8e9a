"""Web pages in place of checkpoints, and those of Google Drive that have to be answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from cache_folder import blobs, leftovers
from loopback import Request, Server, content

from torchseg_zoo.errors import DownloadError
from torchseg_zoo.weights import pages, sources
from torchseg_zoo.weights.fetch import fetch

pytestmark = pytest.mark.usefixtures("limits")
SMALL = 1 << 20

# Shapes of pages as they are met in the wild, shortened; (words of the message, body).
PAGES = {
    "drive-quota": (
        "Google Drive quota page",
        "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>",
    ),
    "drive-too-many": (
        "Google Drive quota page",
        "<html><body>Too many users have viewed or downloaded this file recently.",
    ),
    "drive-json": (
        "Google Drive quota page",
        '{"error": {"errors": [{"reason": "downloadQuotaExceeded"}], "code": 403}}',
    ),
    "drive-scan": (
        "Google Drive confirmation page",
        "<!DOCTYPE html><title>Google Drive - Virus scan warning</title>",
    ),
    "google-login": (
        "login page",
        '<!doctype html><html><head><base href="https://accounts.google.com/v3/signin/">',
    ),
    "captive-portal": (
        "login page",
        "\n\n  <HTML><HEAD><TITLE>Hotel WiFi login</TITLE></HEAD>",
    ),
    "cloudflare": (
        "checks the browser",
        '<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title>',
    ),
    "captcha": (
        "asks for a captcha",
        "<html><body>Our systems have detected unusual traffic from your network",
    ),
    "s3-denied": (
        "denies access",
        '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    ),
    "not-found": (
        'the file is not there titled "404 Not Found"',
        "<html>\r\n<head><title>404 Not Found</title></head>\r\n<center>nginx</center>",
    ),
    "bom-and-comment": (
        "maintenance page",
        "\ufeff<!-- x --><html><title>Down for maintenance</title>",
    ),
    "unknown": ('web page titled "Welcome"', "<body><title>Welcome</title> to our site"),
}


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_no_checkpoint(server: Server, cache: Path, name: str, kind: str) -> None:
    words, text = PAGES[name]
    body = text.encode() + b"<p>&nbsp;</p>" * 200
    url = server.add("/x.pth", lambda r: r.answer(200, body, {"Content-Type": kind}))
    other = server.file("/other.pth", content(5000))
    with pytest.raises(DownloadError, match=words):
        fetch(url)
    assert blobs(cache) == set() and leftovers(cache) == []
    assert server.count() == 1
    assert fetch([url, other]).read_bytes() == content(5000)


def test_a_checkpoint_with_a_wrong_content_type_is_taken(server: Server, cache: Path) -> None:
    data = content(5000)
    url = server.file("/x.pth", data, headers={"Content-Type": "text/html"})
    assert fetch(url).read_bytes() == data
    assert not pages.looks_like_page(b"\x80\x02}q\x00(X", "text/html", "/x.pth")
    assert not pages.looks_like_page(b"<html>", "text/html", "/model_card.html")
    assert pages.looks_like_page("<html>".encode("utf-16"), "", "/x.pth")


# Google Drive


def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DRIVE", server.url)


FORM = (
    "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<form id="download-form" action="{action}" method="get">'
    '<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{id}">'
    '<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="u-1">'
    "</form></body></html>"
)
DRIVE_ID = "1dK5v1oakTMP1UKMARfYf5kdBP15mEgiL"


@pytest.mark.parametrize(
    "spelling",
    [
        f"gdrive://{DRIVE_ID}",
        f"https://drive.google.com/file/d/{DRIVE_ID}/view?usp=sharing",
        f"https://drive.google.com/uc?export=download&id={DRIVE_ID}",
    ],
)
def test_drive_asks_for_confirmation_and_gets_it(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    drive(server, monkeypatch)
    data = content(SMALL)

    def route(request: Request) -> None:
        if "uuid=u-1" in request.path:
            assert f"id={DRIVE_ID}" in request.path and "warning=yes" in request.headers["Cookie"]
            request.serve(data, cut_after=SMALL // 2 if request.nth == 2 else None)
        else:
            page = FORM.format(action="/download", id=DRIVE_ID).encode()
            request.answer(200, page, {"Set-Cookie": "warning=yes; path=/"})

    server.add("/download", route)
    assert fetch(spelling).read_bytes() == data
    assert server.count() == 3
    assert fetch(f"gdrive://{DRIVE_ID}").read_bytes() == data
    assert server.count() == 3


def test_drive_pages_that_confirm_nothing(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(server, monkeypatch)
    with Server() as canary:
        bodies = {
            "refused to follow": FORM.format(action=canary.url, id=DRIVE_ID),
            "confirmation page": FORM.format(action="/download", id=DRIVE_ID),
            "quota page": PAGES["drive-quota"][1],
        }
        for words, body in bodies.items():
            server.add("/download", lambda r, body=body: r.answer(200, body.encode()))
            with pytest.raises(DownloadError, match=words):
                fetch(f"gdrive://{DRIVE_ID}")
        assert canary.log == []


def test_older_drive_pages_have_a_link() -> None:
    page = b'<a id="uc-download-link" href="/uc?export=download&amp;confirm=Ab1&amp;id=X">go</a>'
    found = pages.confirmation(page, "https://drive.google.com/uc?id=X")
    assert found == "https://drive.google.com/uc?export=download&confirm=Ab1&id=X"
    assert pages.confirmation(b"<html>no form</html>", "https://drive.google.com/") is None
