"""The body of a static embedding's graph: a table of token vectors, without a transformer."""

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from export.graph.head import STATES

_TABLE = "table"
# The mask is an input of the head.
_BODY = """
<ir_version: 10, opset_import: ["" : 18]>
body (int64[B,T] input_ids, int64[B,T] attention_mask) => (float[B,T,S] {states})
{{
    rows = Gather <axis = 0> ({table}, input_ids)
    {states} = Cast <to = 1> (rows)
}}
"""


def table_graph(table: NDArray[np.floating]) -> onnx.ModelProto:
    """Return a graph whose token states are rows of the table, [V, S] in the precision in which it is stored."""
    model = onnx.parser.parse_model(_BODY.format(states=STATES, table=_TABLE))
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, _TABLE))
    return model
