"""Model artifacts on this machine: a copy of every version that is used here, by the version's name.

::

    <data_dir>/artifacts/<version>          complete and checked; appears whole, by one rename
                        /.<version>.part    being fetched
                        /.<version>.copy    says that the version was fetched, and when it was last asked for
                        /.<version>.lock    whoever fetches or deletes holds it, and whoever asks, for that moment

Workers, servers and commands read a model from here and from nowhere else, so a version that was here once goes on
whatever becomes of its source. A copy is checked whenever it is asked for; a damaged one is fetched again.

What makes an artifact good is not decided here (domain/artifact.py does): the check reads an artifact's files by name,
and what it has read is what is kept. Copies that nobody asks for any more are deleted by artifact_pruning.py; what
training wrote here is no copy, and is left to people.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import fsspec

from schemas.errors import ArtifactError, Unavailable

__all__ = ["Check", "artifacts_folder", "copy_note", "local_artifact", "locked_copy", "note_use", "published_manifest"]

_MANIFEST: Final = "manifest.json"
_VERSION: Final = re.compile(r"[0-9a-f]{16}")


class Check(Protocol):
    """Reads all files of an artifact and raises ArtifactError where it is not good: `domain.artifact.check_artifact`.

    An OSError of `read` is to become an ArtifactError.
    """

    def __call__(self, read: Callable[[str], bytes], *, version: str | None = None) -> object:
        """Check the artifact of this version."""


def artifacts_folder(data_dir: Path) -> Path:
    """Where the artifacts of a data folder are, each under its version."""
    return data_dir / "artifacts"


def local_artifact(uri: str, version: str, manifest_sha256: str, data_dir: Path, check: Check) -> Path:
    """The folder of a version on this machine, fetched from `uri` where there is no good one yet.

    `uri` is a path, a file: URI or any URL that fsspec reads (memory://, s3://, gs://, https://). Blocks while it
    fetches; several processes at once fetch once. Raises ArtifactError where the source is not this version's
    artifact, lacks a file or cannot be read by this machine, and Unavailable where it cannot be reached now.
    """
    if not _VERSION.fullmatch(version):
        raise ArtifactError(f"{version!r} is no model version: expected 16 hex digits")
    folder = artifacts_folder(data_dir) / version
    note_use(folder)  # from here on, and for as long as its files are read, nobody deletes it
    if _good(folder, version, manifest_sha256, check):
        return folder
    with _in_turn(folder):
        # Another process may have fetched it while this one waited.
        if not _good(folder, version, manifest_sha256, check):
            _fetch(uri, folder, version, manifest_sha256, check)
    return folder


def published_manifest(uri: str) -> bytes:
    """The bytes of manifest.json at a place, unchecked: their sha256 names the artifact there.

    Raises ArtifactError where there is none, Unavailable where the place cannot be reached now.
    """
    try:
        return _reader(uri)(_MANIFEST)
    except OSError as error:
        raise ArtifactError(f"no artifact at {uri}: {_MANIFEST} cannot be read: {error}") from error


def _good(folder: Path, version: str, manifest_sha256: str, check: Check) -> bool:
    if not folder.is_dir():
        return False
    try:
        _checked(lambda name: (folder / name).read_bytes(), version, manifest_sha256, check)
    except ArtifactError:
        return False
    return True


def _checked(read: Callable[[str], bytes], version: str, manifest_sha256: str, check: Check) -> None:
    """Run the check, and hold the manifest's bytes against the whole digest, of which the version is the head."""
    found: list[str] = []

    def watched(name: str) -> bytes:
        data = read(name)
        if name == _MANIFEST:
            found.append(hashlib.sha256(data).hexdigest())
        return data

    check(watched, version=version)
    if found != [manifest_sha256]:
        raise ArtifactError(
            f"{_MANIFEST} of {version} has sha256 {' '.join(found) or 'unknown'}, {manifest_sha256} was published"
        )


def copy_note(folder: Path) -> Path:
    """What lies beside the folder of a version that was fetched; its time is when somebody last asked for it."""
    return folder.with_name(f".{folder.name}.copy")


def note_use(folder: Path) -> None:
    """Say that somebody needs a version now, where its folder is a copy."""
    note = copy_note(folder)
    # Who must not write here was never able to fetch either: such a reader takes what is there.
    with suppress(PermissionError, FileNotFoundError):
        if note.exists():
            with locked_copy(folder, fcntl.LOCK_SH):
                os.utime(note)


@contextmanager
def locked_copy(folder: Path, how: int) -> Iterator[None]:
    """Hold the lock of a version, shared or exclusive (fcntl.LOCK_*); it ends with the process that holds it.

    The holder of the exclusive lock may delete its file: who waited for that one takes the next. Raises OSError.
    """
    path = folder.with_name(f".{folder.name}.lock")
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, how)
            if _is_at(lock, path):
                yield
                return
        finally:
            os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """One process at a time for a version."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = ExitStack()
        held.enter_context(locked_copy(folder, fcntl.LOCK_EX))
    except OSError as error:
        raise _not_written(folder, error) from error
    with held:
        yield


def _fetch(uri: str, folder: Path, version: str, manifest_sha256: str, check: Check) -> None:
    read, part = _reader(uri), folder.with_name(f".{folder.name}.part")

    def kept(name: str) -> bytes:
        if Path(name).name != name:
            raise ArtifactError(f"it lists {name!r}: files of an artifact have plain names")
        data = read(name)
        try:
            (part / name).write_bytes(data)
        except OSError as error:
            raise _not_written(part, error) from error
        return data

    try:
        _clear(part)  # of a process that ended in the middle
        part.mkdir()
        _checked(kept, version, manifest_sha256, check)
        _clear(folder)
        copy_note(folder).write_text(f"{uri}\n")  # first: what is a copy must not be taken for somebody's own
        part.rename(folder)
    except ArtifactError as error:
        _clear(part)
        raise ArtifactError(f"artifact {uri}: {error}") from error
    except OSError as error:
        raise _not_written(folder, error) from error


def _reader(uri: str) -> Callable[[str], bytes]:
    """Reads a source's files by name: raises OSError where the source says no, Unavailable where it does not answer."""
    raw = _raw_reader(uri)

    def read(name: str) -> bytes:
        try:
            return raw(name)
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:  # each kind of storage has errors of its own
            raise _unreachable(uri, error) from error

    return read


def _raw_reader(uri: str) -> Callable[[str], bytes]:
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path) if parts.scheme else uri)
        return lambda name: (folder / name).read_bytes()
    try:
        files, root = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ArtifactError(
            f"artifact {uri} cannot be read here ({error}): use a path or a URL that fsspec knows, and install the "
            "package for its kind on every worker and server"
        ) from error
    except Exception as error:  # each kind of storage has errors of its own
        raise _unreachable(uri, error) from error
    return lambda name: bytes(files.cat_file(f"{root.rstrip('/')}/{name}"))


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _unreachable(uri: str, error: Exception) -> Unavailable:
    return Unavailable(f"artifact {uri} cannot be reached: {type(error).__name__}: {error}")


def _not_written(folder: Path, error: OSError) -> Unavailable:
    return Unavailable(f"{folder} cannot be written ({error}): see whether the disk is full or the folder protected")
