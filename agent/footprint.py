"""How much memory a Worker has resident, predicted from its file's header and its Engine's settings.

Counted is what the kernel calls RSS: mapped files and shared libraries too. It is the most that a Worker
comes to, when its slots are filled to their ends. The constants were measured with llama.cpp's own figures
at hand; tests/engine/test_memory.py holds the sum against real Workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from models.gguf import Header
from models.gguf_parts import Array

CONTEXT_STEP = 256  # llama.cpp pads a slot's context to it
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "auto": 34 / 32}  # of each number; auto is q8_0

TEXT_PROCESS = 52 << 20  # Python, numpy, llama.cpp's libraries and its threads
TOKEN, MERGE = 167, 190  # bytes of llama.cpp's tables for each token of the vocabulary, and each merge of two

TENSOR_PROCESS = 80 << 20  # the same with onnxruntime
WEIGHTS = 2.5  # bytes in onnxruntime for each byte of a file: the graph, the weights, packed copies of them
ROW = 4 << 20  # bytes of activations for each row in a run: a guess, since a file does not say it

# ggml's types of which llama.cpp keeps a second copy, arranged for this CPU: by what /proc/cpuinfo calls the
# feature that it is for (ggml-cpu/repack.cpp and amx/amx.cpp say so).
ARRANGED = {
    "avx2": {2, 12, 20, 39},  # Q4_0, Q4_K, IQ4_NL, MXFP4
    "avx512f": {10},  # Q2_K
    "asimddp": {2, 8, 12, 13, 14, 20, 39},  # Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4
    "amx_int8": {1, 2, 3, 8, 12, 13, 14, 23},  # F16, Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_XS
}


def of_text(header: Header, settings: Mapping[str, Any], features: frozenset[str]) -> int:
    """Bytes of a Worker of llama.cpp on a CPU with these features. Settings as engines/llama.py has them."""
    return sum(
        (
            TEXT_PROCESS,
            _vocabulary(header),
            header.tensor_bytes,  # mapped
            _arranged(header, features) if settings.get("extra_bufts", True) else 0,
            _cache(header, settings),
            _compute(header, settings),
            _logits(header, settings),
        )
    )


def of_tensors(size: int, settings: Mapping[str, Any]) -> int:
    """Bytes of a Worker of onnxruntime that has a file of this size. A rough guess."""
    rows = int(settings.get("cap", 1)) * int(settings.get("runners", 1))
    lone = lone_session(size, settings) if settings.get("lone_threads") else 0
    return TENSOR_PROCESS + int(WEIGHTS * size) + ROW * rows + lone


def lone_session(size: int, settings: Mapping[str, Any]) -> int:
    """Bytes of a second session of that file, for one run at once."""
    return int(WEIGHTS * size) + ROW * int(settings.get("cap", 1))


def kv_bytes(header: Header, kv_type: str) -> float:
    """Of one token, over all layers: the engine keeps all of a slot, also where layers look back less far."""
    return header.kv_width * KV_BYTES.get(kv_type, KV_BYTES["f16"])


@cache
def cpu_features() -> frozenset[str]:
    """What /proc/cpuinfo says of the first core."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _vocabulary(header: Header) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    return TOKEN * header.vocabulary + MERGE * (merges.count if isinstance(merges, Array) else 0)


def _arranged(header: Header, features: frozenset[str]) -> int:
    """The mapped originals stay resident beside these copies."""
    kinds = {kind for feature in features & ARRANGED.keys() for kind in ARRANGED[feature]}
    return sum(size for kind, size in header.matrices.items() if kind in kinds)


def _context(settings: Mapping[str, Any]) -> int:
    """Tokens of a slot as llama.cpp allocates them."""
    return -(-int(settings["context"]) // CONTEXT_STEP) * CONTEXT_STEP


def _cache(header: Header, settings: Mapping[str, Any]) -> int:
    """Resident from the start: llama.cpp clears it. An encoder has none."""
    if header.encoder:
        return 0
    cells = int(settings["slots"]) * _context(settings)
    return int(cells * kv_bytes(header, str(settings["kv_type"])))


def _compute(header: Header, settings: Mapping[str, Any]) -> int:
    """The buffer for a step's graph, which is as large as its largest part, and the attention's masks."""
    slots, context = int(settings["slots"]), _context(settings)
    tokens = min(int(settings["step_tokens"]), slots * context)
    flash = settings["kv_type"] != "f16" or settings["flash_attention"] != "off"
    network = 4 * (3 * header.feed_forward + 4 * header.embedding_length)
    scores = 0 if flash else 6 * header.heads * context  # and the same in 16 bits, for the product with V
    attention = 20 * header.query_width + scores
    masks = (2 if flash else 4) * context * (2 if header.window else 1)
    return max(tokens * max(network, attention), _logits(header, settings)) + tokens * masks


def _logits(header: Header, settings: Mapping[str, Any]) -> int:
    """A row for each slot: computed in the graph's buffer, then copied out."""
    return 4 * int(settings["slots"]) * header.vocabulary
