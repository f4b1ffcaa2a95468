"""The session of every contestant but the agent, which makes its own.

Nothing but onnxruntime is imported: MLServer and LitServe import this in environments of their own.
"""

from __future__ import annotations

import onnxruntime as ort


def session(path: str, threads: int = 1, spin: bool = False) -> ort.InferenceSession:
    """On the CPU, with so many threads for one run. `spin`: they wait for the next run by spinning."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
