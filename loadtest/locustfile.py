"""Searches for Locust, which has no gRPC client of its own.

    pip install 'sluice-search[locust]'
    locust -f loadtest/locustfile.py --host 127.0.0.1:50050 --data FOLDER --headless -u 16 -t 30s

Rule: closed loop. A user waits for each answer before the next search, so a slow server gets fewer searches and the
latency omits the time that independent callers would have waited. `sluice load` measures that correctly.
"""

import json
import os
import random
import time
from itertools import islice
from pathlib import Path
from typing import Any

from grpc.experimental import gevent
from locust import User, constant, events, task
from sluice.client import SearchClient
from sluice.client.credentials import tls_credentials
from sluice.errors import SluiceError

# Must run before any channel exists: gRPC then waits in gevent's loop instead of in threads.
gevent.init_gevent()


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--data", required=True, help='Folder with queries.jsonl, one {"text": …} per line')
    parser.add_argument("--collection", default="docs", help="Collection to search")
    parser.add_argument("--pipeline", default="", help="Pipeline (default: the server's)")
    parser.add_argument("--deadline-s", type=float, default=2.0, help="Deadline of a search, in seconds")


@events.init.add_listener
def _read(environment: Any, **_: object) -> None:
    with (Path(environment.parsed_options.data) / "queries.jsonl").open(encoding="utf-8") as lines:
        environment.queries = [json.loads(line)["text"] for line in islice(lines, 100_000)]


class Searcher(User):
    """A user that sends one search after the other."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect."""
        self._client = SearchClient(
            self.host,
            token=os.environ.get("SLUICE_TOKEN") or None,
            credentials=tls_credentials(ca) if (ca := os.environ.get("SLUICE_TLS_CA")) else None,
        )

    def on_stop(self) -> None:
        """Close the connection."""
        self._client.close()

    @task
    def search(self) -> None:
        """Send one search with a random query."""
        options = self.environment.parsed_options
        query = random.choice(self.environment.queries)  # noqa: S311 - no secret
        failure, found, begun = None, 0, time.perf_counter()
        try:
            answer = self._client.search(
                options.collection, query, pipeline=options.pipeline, timeout_s=options.deadline_s
            )
            found = len(answer.results)
        except SluiceError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name="Search",
            response_time=1000 * (time.perf_counter() - begun),
            response_length=found,
            exception=failure,
        )
