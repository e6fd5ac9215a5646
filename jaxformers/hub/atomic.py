"""Saving a folder so that a reader, or a crash at any moment, finds either all of the old one or all of the new one."""

import contextlib
import ctypes
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

MARK = ".saving-"
WEIGHTS = re.compile(
    r"(?P<stem>.+?)(?:-\d{5}-of-\d{5})?(?P<kind>\.safetensors|\.bin|\.msgpack)(?:\.index(?:\..+)?\.json)?"
)
EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2
AT_FDCWD = -100


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and vanishes if it raises.

    What the old folder has and the new one does not is kept, except weights of the kind that the new one brings: shards
    of an older save would be stale. The swap is one rename. Where no rename can replace the folder (a mount point,
    the working directory, or its parent is read-only) the files are moved in one by one: each whole, an index last.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; saving needs a folder. Choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    inside = target.is_dir() and not replaceable(target)
    home = target if inside else target.parent
    for place in {home, target}:
        clean(place, target.name)
    staged, lock = new_folder(home, target.name)
    try:
        yield staged
        if inside:
            flush(staged)
            move_in(staged, target)
        else:
            keep_old(target, staged)
            flush(staged)
            swap(staged, target)
        flush_folder(home)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def replaceable(target: Path) -> bool:
    """Whether a rename can put another folder in this one's place without pulling the ground from under anyone."""
    here = Path(os.path.realpath(os.curdir))
    return not os.path.ismount(target) and os.access(target.parent, os.W_OK) and not here.is_relative_to(target)


def new_folder(home: Path, name: str) -> tuple[Path, int | None]:
    """A fresh folder, and the lock that tells others its process lives: it ends with the process in every case."""
    while True:
        folder = home / f".{name}{MARK}{uuid.uuid4().hex[:12]}"
        folder.mkdir()
        if fcntl is None:
            return folder, None
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # a cleaner may have come between the two calls
            return folder, lock
        os.close(lock)


def clean(home: Path, name: str) -> None:
    """Remove what dead processes left behind; bring back an old folder that a crash left set aside."""
    if fcntl is None:
        return
    for left in home.glob(f".{glob_escape(name)}{MARK}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.name.endswith(".old") and not (home / name).exists():
                    left.rename(home / name)
                else:
                    shutil.rmtree(left)
            finally:
                os.close(lock)


def glob_escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def keep_old(old: Path, new: Path) -> None:
    """Link into the new folder what only the old one has; links, so that nothing large is copied."""
    if not old.is_dir():
        return
    weights = stems(new)
    shutil.copymode(old, new)
    for item in sorted(old.rglob("*")):
        place = new / item.relative_to(old)
        if item.is_dir() and not item.is_symlink():
            place.mkdir(exist_ok=True)
        elif not os.path.lexists(place) and not (item.parent == old and is_stale(item.name, weights)):
            link(item, place)


def stems(folder: Path) -> set[tuple[str, str]]:
    """(stem, kind) of the weights in a folder: `model-00001-of-00002.safetensors` is ("model", ".safetensors")."""
    found = (WEIGHTS.fullmatch(item.name) for item in folder.iterdir())
    return {(match["stem"], match["kind"]) for match in found if match}


def is_stale(name: str, new: set[tuple[str, str]]) -> bool:
    match = WEIGHTS.fullmatch(name)
    return bool(match) and (match["stem"], match["kind"]) in new


def link(old: Path, place: Path) -> None:
    try:
        os.link(old, place, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(old, place, follow_symlinks=False)


def flush(folder: Path) -> None:
    """Have the disk hold every file and folder below before anything is renamed."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                flush_file(path)
        flush_folder(Path(root))


def flush_file(path: str) -> None:
    # A file of the old save that belongs to somebody else may be linked in unread.
    with contextlib.suppress(PermissionError), open(path, "rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can open or flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def swap(staged: Path, target: Path) -> None:
    """Put the new folder in the old one's place: one exchange where Linux can, else two renames and a way back."""
    if not target.exists():
        staged.rename(target)
    elif exchange(staged, target):
        keep_old(staged, target)  # what others put into the old folder since the first time
    else:
        aside = staged.with_name(staged.name + ".old")
        target.rename(aside)
        try:
            staged.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        keep_old(aside, target)
        shutil.rmtree(aside, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system or its file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return call(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), EXCHANGE) == 0


def move_in(staged: Path, target: Path) -> None:
    """Replace files one by one, what points at others last, and only then remove what has become stale."""
    new = stems(staged)
    files = sorted(
        (path for path in staged.rglob("*") if not path.is_dir()), key=lambda path: (".index" in path.name, path)
    )
    names = {path.relative_to(staged) for path in files}
    for path in files:
        place = target / path.relative_to(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    for old in list(target.iterdir()):
        if old.is_file() and Path(old.name) not in names and is_stale(old.name, new):
            old.unlink()
