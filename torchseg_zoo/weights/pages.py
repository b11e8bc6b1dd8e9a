"""Web pages that come instead of a file: quota, login and error pages, and Drive's confirmation."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

__all__ = ["PAGE_LIMIT", "SNIFF", "confirmation", "describe", "looks_like_page"]

SNIFF = 1024  # bytes to look at
PAGE_LIMIT = 1 << 20  # a page is read no further than this, in bytes

_TEXT_FILES = (".html", ".htm", ".json", ".txt", ".md", ".xml", ".csv", ".yaml", ".yml", ".py")
_OPENINGS = (
    b"<!doctype",
    b"<html",
    b"<head",
    b"<body",
    b"<title",
    b"<meta",
    b"<script",
    b"<style",
    b"<div",
    b"<form",
    b"<center",
    b"<h1",
    b"<p>",
    b"<?xml",
    b"<error",
    b"<!--",
)
# First match wins; the words are looked for in the lower-cased text of the page.
_REASONS = (
    (
        (
            "quota exceeded",
            "too many users have viewed or downloaded",
            "downloadquotaexceeded",
            "download quota for this file",
            "can't view or download this file at this time",
        ),
        "Google Drive quota page",
    ),
    (("can't scan this file for viruses", "virus scan warning"), "Google Drive confirmation page"),
    (("unusual traffic", "captcha", "are you a robot"), "page that asks for a captcha"),
    (
        ("just a moment...", "checking your browser", "attention required! | cloudflare"),
        "page that checks the browser",
    ),
    (
        (
            "you need access",
            "request access",
            "you need permission",
            "access denied",
            "accessdenied",
        ),
        "page that denies access",
    ),
    (
        ("accounts.google.com", "sign in", "signin", "log in", "login", 'type="password"'),
        "login page",
    ),
    (("rate limit", "too many requests"), "page that says too many requests"),
    (
        ("not found", "does not exist", "no longer available", "nosuchkey", "has been deleted"),
        "page that says the file is not there",
    ),
    (("maintenance", "temporarily unavailable", "service unavailable"), "maintenance page"),
)


def looks_like_page(start: bytes, content_type: str, path: str) -> bool:
    """Whether a body is a web page or an error text in place of a binary file.

    Args:
        start: its first ``SNIFF`` bytes, or all if it is shorter.
        content_type: as the server says; it decides only where the bytes leave room for doubt.
        path: of the URL; files that are text by name are let through.
    """
    if path.lower().endswith(_TEXT_FILES):
        return False
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # a page in UTF-16
        text = start[2:].replace(b"\0", b"").lstrip().lower()
    if text.startswith(_OPENINGS):
        return True
    kind = content_type.partition(";")[0].strip().lower()
    textual = not any(byte < 9 or byte in (0x0B, 0x7F) for byte in start)
    if kind in ("text/html", "application/xhtml+xml"):
        return textual
    # {"error": ...}, as interfaces answer instead of sending a file.
    return textual and text.startswith(b"{") and b'"error"' in text


def describe(body: bytes, status: int = 200) -> str:
    """What kind of page it is, in words, with its title where it has one."""
    encoding = "utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    text = html.unescape(body.decode(encoding, "replace")).replace("’", "'")
    lower = text.lower()
    found = next((name for words, name in _REASONS if any(word in lower for word in words)), "")
    title = re.search(r"<title[^>]*>(.{1,200}?)</title>", text, re.IGNORECASE | re.DOTALL)
    named = f' titled "{" ".join(title[1].split())[:80]}"' if title else ""
    kind = found or ("web page" if "<" in text[:SNIFF] else "error text")
    return f"{kind}{named}" + (f", HTTP {status}" if status != 200 else "")


class _Form(HTMLParser):
    """Collects Drive's download form, or the link of its older pages."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.link = ""
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("id") in ("download-form", "downloadForm"):
            self.action, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and given.get("type") == "hidden":
            self.fields[given.get("name", "")] = given.get("value", "")
        elif tag == "a" and given.get("id") == "uc-download-link":
            self.link = given.get("href", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def confirmation(body: bytes, base: str) -> str | None:
    """The URL behind "download anyway" on Drive's page; ``None`` if it is another page.

    Whether that URL may be fetched is for the caller to judge, as for any redirect.
    """
    form = _Form()
    form.feed(body.decode("utf-8", "replace"))
    if form.action:
        action = urljoin(base, form.action)
        if form.fields:
            action += ("&" if urlsplit(action).query else "?") + urlencode(form.fields)
        return action
    return urljoin(base, form.link) if form.link else None
