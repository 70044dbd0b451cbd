"""Benchmark protocols by name: split, row mask, scales, metrics, aggregation and files of published benchmarks."""

from fluxcube.evaluation.protocols.definitions import PROTOCOLS, Protocol, find_protocol
from fluxcube.evaluation.protocols.files import write_protocol
from fluxcube.evaluation.protocols.scoring import ProtocolScores, evaluate_protocol
from fluxcube.evaluation.protocols.tables import read_benchmark, read_predicted_table

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "ProtocolScores",
    "evaluate_protocol",
    "find_protocol",
    "read_benchmark",
    "read_predicted_table",
    "write_protocol",
]
