"""Where bytes can come from: the Hugging Face hub, Google Drive, https, and local files.

Spellings: ``hf://org/repo@revision/file``, ``gdrive://ID`` (or a link that Drive's share button
gives), ``https://…``, ``file:///…`` and a plain path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import url2pathname

from torchseg_zoo.errors import ArgumentError, DownloadError
from torchseg_zoo.files import printable
from torchseg_zoo.weights.addresses import Address, hub_endpoint, mirrors, redacted
from torchseg_zoo.weights.cache import url_key
from torchseg_zoo.weights.http import Clock, Policy

__all__ = ["Place", "Remote", "hub_cached", "mirror_name", "mirror_places", "offline", "parse"]

DRIVE = "https://drive.usercontent.google.com"
_DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
_HUB_TRIES = 4
_HUB_FORM = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Words that make a path of what is meant as an URL would only puzzle.
_NO_PATH = re.compile(r"(data|ftp|ftps|http|https|hf|gdrive|javascript|file):", re.IGNORECASE)


def offline() -> str:
    """The variable that says that no socket may be opened, or ""."""
    for name in ("TORCHSEG_ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            return name
    return ""


@dataclass(frozen=True)
class Remote:
    """What to ask for on the web.

    Args:
        url: http(s).
        credentials: headers for the URL's own origin only.
        sha256: full digest in hex as the source states it, or "".
        size: length in bytes as the source states it.
    """

    url: str
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    sha256: str = ""
    size: int | None = None


@dataclass(frozen=True)
class Place:
    """One source of a file.

    Args:
        kind: ``hub``, ``drive``, ``web`` or ``file``.
        name: how it is called in messages and remembered; holds no secrets.
        path: of a local file.
        url: of a file on the web, with whatever secrets it has.
        parts: repository, revision and file on the hub; the id on Drive.
    """

    kind: str
    name: str
    path: Path = Path()
    url: str = field(default="", repr=False)
    parts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name under which the cache remembers it."""
        return url_key(self.url or self.name)

    def remote(self, policy: Policy, clock: Clock, wait: Callable[[float], None]) -> Remote:
        """What to ask for; for a file on the hub, the hub is asked first.

        Args:
            policy: limits.
            clock: the deadline.
            wait: sleeps for so many seconds.

        Raises:
            DownloadError: if the hub cannot be reached or has no such file.
        """
        if self.kind == "hub":
            return _ask_hub(self, policy, clock, wait)
        if self.kind == "drive":
            return Remote(f"{DRIVE}/download?id={self.parts[0]}&export=download&confirm=t")
        return Remote(self.url)


def parse(source: str | os.PathLike[str]) -> Place:
    """Reads one spelling of a source.

    Raises:
        ArgumentError: if it is of none of the known forms.
    """
    if isinstance(source, os.PathLike):
        return _local(Path(source))
    if not isinstance(source, str):
        raise ArgumentError(
            f"expected a URL or path, got {type(source).__name__}", where="url_or_urls"
        )
    match = _SCHEME.match(source)
    scheme = match[1].lower() if match else ""
    if scheme == "file":
        host, slash, path = source.partition("://")[2].partition("/")
        if host not in ("", "localhost"):
            raise _bad(source, "files of other machines cannot be named so")
        return _local(_path_in(slash + path))
    if scheme == "hf":
        return _hub(source)
    if scheme == "gdrive":
        return _drive(source.partition("://")[2], source)
    if scheme in ("http", "https"):
        if "\0" in source:
            raise _bad(source, "it has a NUL")
        drive = _drive_id(source)
        return _drive(drive, source) if drive else Place("web", redacted(source), url=source)
    if scheme or _NO_PATH.match(source):
        raise _bad(source, "known are https://, hf://, gdrive://, file:// and plain paths")
    return _local(Path(source))


def mirror_name(places: list[Place], sha256: str) -> str:
    """The file name under which a mirror holds what these places give.

    The digest, where it is known in full; otherwise ``url-`` and a digest of the first URL.
    """
    return sha256 if len(sha256) == 64 else f"url-{places[0].key}"


def mirror_places(places: list[Place], sha256: str) -> list[Place]:
    """The same file on the mirrors of ``TORCHSEG_ZOO_MIRROR``."""
    name = mirror_name(places, sha256)
    found = []
    for mirror in mirrors():
        if _SCHEME.match(mirror):
            found.append(parse(f"{mirror.rstrip('/')}/{name}"))
        else:
            found.append(_local(Path(mirror).expanduser() / name))
    return found


def hub_cached(place: Place) -> Path | None:
    """The file in the hub client's own cache; opens no socket."""
    repository, revision, name = place.parts
    folder = f"models--{repository.replace('/', '--')}"
    # The client takes a second to import: too long for every one of many ranks to find nothing.
    if not any((cache / folder).is_dir() for cache in _hub_caches()):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name, revision=revision)
    except (OSError, ValueError):
        return None
    return Path(found) if isinstance(found, str) else None


def _hub_caches() -> list[Path]:
    """Every place where the client may have its cache; it knows itself which one it is."""
    get = os.environ.get
    named = [get("HF_HUB_CACHE"), get("HUGGINGFACE_HUB_CACHE")]
    homes = [get("HF_HOME"), f"{get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"]
    named += [f"{home}/hub" for home in homes if home]
    return [Path(os.path.expandvars(name)) for name in map(_at_home, named) if name]


def _at_home(name: str | None) -> str:
    return os.path.expanduser(name or "")  # noqa: PTH111 (a Path would fail without a home)


def _local(path: Path) -> Place:
    return Place("file", printable(path), path=path)


def _hub(source: str) -> Place:
    match = _HUB_FORM.fullmatch(source)
    if not match:
        raise _bad(source, "the form is hf://org/repo@revision/file")
    repository, revision, name = match[1], unquote(match[2] or "main"), match[3]
    steps = name.split("/")
    if "\0" in name or "\\" in name or any(step in ("", ".", "..") for step in steps):
        raise _bad(source, "the file's path is not plain")
    return Place("hub", printable(source), parts=(repository, revision, name))


def _drive(identity: str, source: str) -> Place:
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,128}", identity):
        raise _bad(source, "the form is gdrive://ID")
    return Place("drive", f"gdrive://{identity}", parts=(identity,))


def _drive_id(source: str) -> str:
    try:
        parts = urlsplit(source)
        if parts.hostname not in _DRIVE_HOSTS:
            return ""
    except ValueError:
        return ""
    match = re.search(r"/d/([A-Za-z0-9_-]+)", parts.path)
    return match[1] if match else parse_qs(parts.query).get("id", [""])[0]


def _path_in(url_path: str) -> Path:
    """What a file URL has behind its host, as a path."""
    if os.name == "nt":
        return Path(url2pathname(url_path))
    # Not url2pathname: from Python 3.14 on it looks for a host and a query in this.
    return Path(unquote(url_path, errors="surrogateescape"))


def _bad(source: str, why: str) -> ArgumentError:
    shown = redacted(source)[:200] if "://" in source else source[:200]
    return ArgumentError("cannot fetch from this source", where=printable(shown), why=why)


def _ask_hub(place: Place, policy: Policy, clock: Clock, wait: Callable[[float], None]) -> Remote:
    """Has the hub's own client resolve a file; the bytes are then fetched by us."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined,unused-ignore]

    repository, revision, name = place.parts
    try:
        url = hf_hub_url(repository, name, revision=revision, endpoint=hub_endpoint())
        headers = {key.lower(): value for key, value in build_hf_headers().items()}
    except ValueError as error:
        raise DownloadError("no such file on the hub", where=place.name, why=str(error)) from error
    for attempt in range(_HUB_TRIES):
        clock.check(place.name)
        try:
            timeout_s = max(0.1, min(policy.connect_s, clock.left()))
            metadata = get_hf_file_metadata(url, timeout=timeout_s)
            break
        # The client's transport has changed more than once (requests, httpx, …), and with it what
        # it raises when a connection fails; whatever it is, the hub did not answer.
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            permanent = isinstance(status, int) and status < 500 and status not in (408, 425, 429)
            if permanent or isinstance(error, ValueError) or attempt == _HUB_TRIES - 1:
                raise _hub_failure(place, error, status) from error
            wait(min(policy.backoff_s * 2**attempt, policy.max_backoff_s, clock.left()))
    etag = metadata.etag or ""
    credentials = {}
    if "authorization" in headers:
        credentials["Authorization"] = str(headers["authorization"])
    if metadata.commit_hash:
        # The branch may move between the answer and the download.
        url = hf_hub_url(repository, name, revision=metadata.commit_hash, endpoint=hub_endpoint())
    # Large files have their sha256 as ETag, small ones a git digest that is of no use here.
    sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else ""
    return Remote(Address.parse(url).url, credentials, sha256, metadata.size)


def _hub_failure(place: Place, error: Exception, status: Any) -> DownloadError:
    kind = type(error).__name__
    text = " ".join(str(error).split())[:200]
    if status in (401, 403):
        what, fix = "the hub wants a login for this file", "run `hf auth login` or set HF_TOKEN"
    elif status == 404 or "NotFound" in kind:
        what, fix = "no such file on the hub", "check organisation, repository, revision and file"
    else:
        what, fix = "the hub cannot be reached", "try again later"
    return DownloadError(what, where=place.name, why=f"{kind}: {text}", fix=fix)
