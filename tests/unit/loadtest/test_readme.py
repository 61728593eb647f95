"""What loadtest/README.md says is so."""

import re
from pathlib import Path

from google.protobuf.json_format import Parse
from sluice.search.v1.search_service_pb2 import DESCRIPTOR, SearchRequest

from loadtest.load import scenario

TEXT = (Path(__file__).parents[3] / "loadtest" / "README.md").read_text()


def test_it_lists_the_scenarios() -> None:
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)) == scenario.names()


def test_the_messages_for_other_tools_are_requests_of_a_method_that_there_is() -> None:
    messages = re.findall(r"^(?:grpcurl|ghz) .*-d '([^']+)'", TEXT, re.MULTILINE)
    methods = re.findall(r"sluice\.search\.v1\.SearchService/(\w+)", TEXT)
    assert len(messages) == len(methods) == 2
    assert all(Parse(message, SearchRequest()).collection == "docs" for message in messages)
    assert set(methods) <= {method.name for method in DESCRIPTOR.services_by_name["SearchService"].methods}
