"""The durable state of collections, documents and vectors: one SQLite database in a data folder.

Rule: a write is one transaction, which is on disk when `writing` ends. All state in memory is derived from the store.

Facts: with WAL, readers continue during a write, each on the state that its first SELECT saw. synchronous=FULL syncs
the log at every commit. AUTOINCREMENT never reuses a row number, so data derived from a row never becomes wrong.
Checkpoint errors do not fail a commit. Python ignores SIGXFSZ, so exceeding a file-size limit raises an error.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sluice.errors import PreconditionFailed

from services.retrieval.cancellation import IsStopped, Stopped
from services.retrieval.domain.errors import storage_unwritable
from services.retrieval.embedded.storage.row_reader import RowReader
from services.retrieval.embedded.storage.row_writer import RowWriter
from services.retrieval.files import DATABASE, FORMAT_VERSION, LOCK
from services.rpc.server.lifecycle import StartFailed

# Entry v migrates format version v to v + 1. A released entry never changes.
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
    # The format is described in `codec`.
    """
    ALTER TABLE vectors ADD COLUMN sparse BLOB NOT NULL DEFAULT x'';
    ALTER TABLE vectors ADD COLUMN multi_vector BLOB NOT NULL DEFAULT x'';
    """,
    """
    CREATE TABLE aliases (alias TEXT PRIMARY KEY, collection INTEGER NOT NULL) WITHOUT ROWID;
    """,
)
assert len(MIGRATIONS) == FORMAT_VERSION

DamagedStore = sqlite3.DatabaseError
"""Raised by reads of a damaged database."""

# Instructions of SQLite's virtual machine between two checks for cancellation: a few ms.
_STEPS: Final = 100_000

# Errors of the disk. All others are defects.
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
    """The database of one data folder, locked by one process. One thread writes, any number of threads read.

    Raises StartFailed if the folder cannot be used, another process has locked it, or a newer version wrote it. A
    folder that is not writable is opened for reading; every write then raises PreconditionFailed.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._connections_lock = threading.Lock()
        self._lock_file = -1
        self.write_failure = ""
        """Why the disk rejected the last write; empty if it did not."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.is_writable = os.access(folder, os.W_OK)
            self._lock_file = lock_file(folder / LOCK, is_writable=self.is_writable)
            self._writer = self._connect()
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StartFailed(f"cannot use the data folder {folder}: {error}") from error
        except StartFailed:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections and release the folder. The store must not be used afterwards."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    @contextmanager
    def writing(self) -> Iterator[RowWriter]:
        """Run the block as one transaction, which is on disk when the block ends and rolled back if it raises.

        Raises PreconditionFailed if the disk is full or read-only.
        """
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield RowWriter(self._writer)
            self._writer.execute("COMMIT")
            self.write_failure = ""
        except sqlite3.Error as error:
            raised = _translate(error)
            self.write_failure = str(raised) if isinstance(raised, PreconditionFailed) else self.write_failure
            raise raised from error
        finally:
            # After some errors SQLite has already ended the transaction.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Read one unchanging state of the store, from the first statement to the end of the block."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield RowReader(connection)
        finally:
            connection.execute("ROLLBACK")

    def copy_to(self, path: Path, is_stopped: IsStopped) -> None:
        """Copy the current state into a new database while reads and writes continue.

        Raises PreconditionFailed if the disk is full or read-only, and Stopped.
        """
        connection = sqlite3.connect(self._uri(), uri=True, isolation_level=None)
        try:
            connection.set_progress_handler(is_stopped, _STEPS)
            connection.execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            if is_stopped():
                raise Stopped from error
            raise _translate(error) from error
        finally:
            connection.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the database and its log, an upper limit for the size of a copy."""
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
        # `immutable` ignores the log, so it is only correct if there is none.
        log = self._path.with_name(f"{DATABASE}-wal")
        return f"{path}?mode=ro" if log.exists() else f"{path}?immutable=1"

    def _migrate(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            expected = f"this release reads formats up to {FORMAT_VERSION}; use a newer release"
            raise StartFailed(f"{self._path} has format {version}, {expected}")
        for number in range(version, FORMAT_VERSION):
            self._writer.executescript(f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")


def lock_file(path: Path, *, is_writable: bool) -> int:
    """Lock a file for this process and return its descriptor, or -1 if a read-only folder has no such file.

    The lock ends when the descriptor is closed or the process dies. Raises StartFailed if another process has it.
    """
    if not is_writable and not path.exists():
        return -1
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT if is_writable else os.O_RDONLY, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartFailed(
            f"another process uses the data folder {path.parent}; stop it or choose another folder"
        ) from None
    return descriptor


def _translate(error: sqlite3.Error) -> Exception:
    """Return PreconditionFailed for errors of the disk, and other errors, which are defects, unchanged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return storage_unwritable(error) if code in _UNWRITABLE else error
