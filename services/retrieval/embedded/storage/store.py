"""The truth about collections, documents and vectors: one SQLite database in one folder.

Rule: a write is one transaction, on disk when `writing` ends; what is in memory is derived from here.

Facts: WAL lets readers go on during a write, each on the state its first SELECT saw; synchronous=FULL syncs the log
at every commit. AUTOINCREMENT never gives a row number twice, so what is derived from a row never becomes wrong.
Checkpoint errors do not fail a commit. Python ignores SIGXFSZ, so a file-size limit is an error, not a death.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import PreconditionFailed

from services.retrieval.embedded.index.ann import Stopped
from services.retrieval.embedded.storage.row_reader import Reader
from services.retrieval.embedded.storage.row_writer import Writer
from services.rpc.server.lifecycle import StartFailed

DATABASE: Final = "retrieval.sqlite3"
SEGMENTS: Final = "segments"
LOCK: Final = "LOCK"

# One entry a format version; entry v brings version v to v + 1. An entry that was released never changes.
MIGRATIONS: Final[Sequence[str]] = (
    """
    CREATE TABLE collections (
      collection INTEGER PRIMARY KEY AUTOINCREMENT,
      name TEXT NOT NULL UNIQUE,
      schema TEXT NOT NULL,
      created_us INTEGER NOT NULL,
      version INTEGER NOT NULL
    );
    -- Long columns last: SQLite reads a row from its start.
    CREATE TABLE documents (
      row INTEGER PRIMARY KEY AUTOINCREMENT,
      collection INTEGER NOT NULL,
      document_id TEXT NOT NULL,
      content_hash TEXT NOT NULL,
      metadata TEXT NOT NULL,
      title TEXT NOT NULL,
      text TEXT NOT NULL
    );
    CREATE UNIQUE INDEX documents_by_id ON documents (collection, document_id);
    CREATE INDEX documents_by_row ON documents (collection, row);
    -- float32, little-endian: the dense fields one after the other, in the order of the schema.
    CREATE TABLE vectors (row INTEGER PRIMARY KEY, dense BLOB NOT NULL);
    """,
    # As `packing` says.
    """
    ALTER TABLE vectors ADD COLUMN sparse BLOB NOT NULL DEFAULT x'';
    ALTER TABLE vectors ADD COLUMN multi_vector BLOB NOT NULL DEFAULT x'';
    """,
    """
    CREATE TABLE aliases (alias TEXT PRIMARY KEY, collection INTEGER NOT NULL) WITHOUT ROWID;
    """,
)
FORMAT_VERSION: Final = len(MIGRATIONS)

# Steps of SQLite's machine between two looks at whether to stop copying: some ms.
_STEPS: Final = 100_000

# The disk, not the request or a defect of ours.
_UNWRITABLE: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
    }
)


class Store:
    """The database of one data folder, held by one process. One thread writes, any number read.

    Raises StartFailed when the folder cannot be used, another process holds it, or a newer version wrote it. A folder
    that is not writable is opened for reading; every write then raises PreconditionFailed.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._connections_lock = threading.Lock()
        self._lock_file = -1
        self.write_failure = ""
        """Why the last write failed, when that was the disk's fault."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.is_writable = os.access(folder, os.W_OK)
            self._lock_file = lock(folder / LOCK, is_writable=self.is_writable)
            self._writer = self._connect()
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StartFailed(f"cannot use the data folder {folder}: {error}") from error
        except StartFailed:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection and let go of the folder. No thread may use the store any more."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """One transaction, on disk when the block ends; nothing of it when the block raises.

        Raises PreconditionFailed when the disk is full or read-only.
        """
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield Writer(self._writer)
            self._writer.execute("COMMIT")
            self.write_failure = ""
        except sqlite3.Error as error:
            found = _unwritable(error)
            self.write_failure = str(found) if isinstance(found, PreconditionFailed) else self.write_failure
            raise found from error
        finally:
            # SQLite ends the transaction itself on some errors.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """One unchanging state of the store, from the first statement to the block's end."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield Reader(connection)
        finally:
            connection.execute("ROLLBACK")

    def copy_to(self, path: Path, is_stopped: Callable[[], bool]) -> None:
        """Write the state of this moment into a new database, while reads and writes go on.

        Raises PreconditionFailed when the disk does not take it, and Stopped.
        """
        connection = sqlite3.connect(self._uri(), uri=True, isolation_level=None)
        try:
            connection.set_progress_handler(is_stopped, _STEPS)
            connection.execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            if is_stopped():
                raise Stopped from error
            raise _unwritable(error) from error
        finally:
            connection.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the database with its log: the most that a copy takes."""
        log = self._path.with_name(f"{DATABASE}-wal")
        return sum(path.stat().st_size for path in (self._path, log) if path.exists())

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri(), uri=True, isolation_level=None, check_same_thread=False)
        with self._connections_lock:
            self._connections.append(connection)
        if self.is_writable:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        return connection

    def _uri(self) -> str:
        path = self._path.resolve().as_uri()
        if self.is_writable:
            return path
        # `immutable` reads no log: only right when the last writer left none.
        log = self._path.with_name(f"{DATABASE}-wal")
        return f"{path}?mode=ro" if log.exists() else f"{path}?immutable=1"

    def _migrate(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            message = f"{self._path} has format {version}, this program reads up to {FORMAT_VERSION}; use a newer one"
            raise StartFailed(message)
        for number in range(version, FORMAT_VERSION):
            self._writer.executescript(f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")


def lock(path: Path, *, is_writable: bool) -> int:
    """The descriptor of a lock file that this process alone holds until it is closed, also by death; -1 for none.

    Raises StartFailed when another process holds it.
    """
    if not is_writable and not path.exists():
        return -1
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT if is_writable else os.O_RDONLY, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartFailed(
            f"another process uses the data folder {path.parent}; stop it, or choose another folder"
        ) from None
    return descriptor


def _unwritable(error: sqlite3.Error) -> Exception:
    """What to raise for an error of SQLite: the disk's fault is the caller's business, the rest are defects."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in _UNWRITABLE:
        return error
    return unwritable(error)


def unwritable(why: object) -> PreconditionFailed:
    """The error for a disk that is full or read-only."""
    reason = ErrorReason.ERROR_REASON_STORAGE_UNWRITABLE
    return PreconditionFailed(f"nothing was written: {why}; free space or make the disk writable", reason=reason)
