"""How much memory a Worker takes, predicted from its file's header and its Engine's settings.

Counted is what the kernel calls RSS: mapped files and shared libraries too. It is the most that a Worker
comes to, when its slots are filled to their ends. The constants were measured with llama.cpp's own figures
at hand; tests/engine/test_memory.py holds the sum against real Workers. What goes to a GPU with memory of its
own follows llama.cpp's source alone: that was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agent.space import Space
from models.gguf import Header
from models.gguf_parts import Array

CONTEXT_STEP = 256  # llama.cpp pads a slot's context to it
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "auto": 34 / 32}  # of each number; auto is q8_0

EMBED_STEP = 128  # tokens of a step that embeds, of a model that generates text (engines/llama_embed.py)
WHOLE_STEP = 512  # of a model that looks both ways, or one longer text

TEXT_PROCESS = 52 << 20  # Python, numpy, llama.cpp's libraries and its threads
TOKEN, MERGE = 167, 190  # bytes of llama.cpp's tables for each token of the vocabulary, and each merge of two

TENSOR_PROCESS = 80 << 20  # the same with onnxruntime
WEIGHTS = 2.5  # bytes in onnxruntime for each byte of a file: the graph, the weights, packed copies of them
ROW = 4 << 20  # bytes of activations for each row in a run: a guess, since a file does not say it

CUDA_PROCESS = 300 << 20  # more of the machine's memory, for CUDA and its libraries: a guess
CUDA_CONTEXT = 400 << 20  # of the GPU's, for each process that computes there: a guess

# ggml's types of which llama.cpp keeps a second copy, arranged for this CPU: by what /proc/cpuinfo calls the
# feature that it is for (ggml-cpu/repack.cpp and amx/amx.cpp say so).
ARRANGED = {
    "avx2": {2, 12, 20, 39},  # Q4_0, Q4_K, IQ4_NL, MXFP4
    "avx512f": {10},  # Q2_K
    "asimddp": {2, 8, 12, 13, 14, 20, 39},  # Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4
    "amx_int8": {1, 2, 3, 8, 12, 13, 14, 23},  # F16, Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_XS
}


def of_text(
    header: Header, settings: Mapping[str, Any], features: frozenset[str], *, gpu: bool = False
) -> Space:
    """Of a Worker of llama.cpp on a CPU with these features. Settings as engines/llama.py has them.

    `gpu`: its build computes on one that has memory of its own, even where no layer goes there.
    """
    layers, head = on_gpu(header, settings) if gpu else (0, False)
    share = layers / header.layers
    moved = sum(header.blocks[header.layers - layers :])
    arranged = _arranged(header, features) if settings.get("extra_bufts", True) else 0
    cache, compute = _cache(header, settings), _compute(header, settings)
    machine = (
        TEXT_PROCESS + (CUDA_PROCESS if gpu else 0),
        _vocabulary(header),
        header.tensor_bytes - moved - (header.head if head and not header.tied else 0),  # mapped
        int(arranged * (1 - share)),
        int(cache * (1 - share)),
        compute if layers < header.layers else 0,
        _logits(header, settings),
    )
    there = CUDA_CONTEXT + moved + (header.head if head else 0) + int(cache * share) + compute
    return Space(sum(machine), there if gpu else 0)


def of_embeddings(header: Header, settings: Mapping[str, Any], *, gpu: bool = False) -> Space:
    """What a Worker takes more once a model that generates text embeds: a small context of its own.

    All tokens of a step have a row of logits there, though nobody asks for them.
    """
    layers, _ = on_gpu(header, settings) if gpu else (0, False)
    share = layers / header.layers
    own = {**settings, "slots": 1, "step_tokens": EMBED_STEP, "kv_type": "f16", "flash_attention": "auto"}
    cache, logits = _cache(header, own), 4 * EMBED_STEP * header.vocabulary
    compute = max(_compute(header, own), logits)
    machine = int(cache * (1 - share)) + logits + (compute if layers < header.layers else 0)
    return Space(machine, int(cache * share) + compute if gpu else 0)


def of_tensors(size: int, settings: Mapping[str, Any], *, gpu: bool = False) -> Space:
    """Of a Worker of onnxruntime that has a file of this size. A rough guess."""
    rows = int(settings.get("cap", 1)) * int(settings.get("runners", 1))
    session = int(WEIGHTS * size) + ROW * rows
    if settings.get("lone_threads"):
        session += lone_session(size, settings)
    if gpu:  # what it read of the file stays beside what went there
        return Space(TENSOR_PROCESS + CUDA_PROCESS + size, CUDA_CONTEXT + session)
    return Space(TENSOR_PROCESS + session)


def lone_session(size: int, settings: Mapping[str, Any]) -> int:
    """Bytes of a second session of that file, for one run at once."""
    return int(WEIGHTS * size) + ROW * int(settings.get("cap", 1))


def on_gpu(header: Header, settings: Mapping[str, Any]) -> tuple[int, bool]:
    """How many layers llama.cpp puts there, the last ones; and whether the head does, which goes first."""
    asked = settings.get("gpu_layers")
    if asked is None or asked > header.layers:
        return header.layers, True
    return max(0, asked - 1), asked > 0


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
    if header.encoder:
        tokens = max(WHOLE_STEP, int(settings["context"]))
    flash = settings["kv_type"] != "f16" or settings["flash_attention"] != "off"
    network = 4 * (3 * header.feed_forward + 4 * header.embedding_length)
    scores = 0 if flash else 6 * header.heads * context  # and the same in 16 bits, for the product with V
    attention = 20 * header.query_width + scores
    masks = (2 if flash else 4) * context * (2 if header.window else 1)
    return max(tokens * max(network, attention), _logits(header, settings)) + tokens * masks


def _logits(header: Header, settings: Mapping[str, Any]) -> int:
    """A row for each slot: computed in the graph's buffer, then copied out. An encoder makes none."""
    return 0 if header.encoder else 4 * int(settings["slots"]) * header.vocabulary
