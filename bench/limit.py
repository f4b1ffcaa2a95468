"""The in-process limit: the same prompts, as many at once, through llama_decode with nothing around it.

One thread loads and decodes. No text, sockets or queue. The shared prefix is computed once; argmax chooses.
What a server falls short of this is what it costs.
`python -m bench.limit --model FILE --clients 8` measures one arrangement.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import llama_cpp.llama_cpp as llama
import numpy as np

from bench import prompts
from bench.figures import Answer, Figures, summarise

KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0}


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What decides the speed. `together`: prompts that begin together share one llama_decode."""

    kv_type: str = "q8_0"
    flash_attention: bool = True
    together: bool = True
    slots: int = 32
    context: int = 1024  # tokens for each slot
    threads: int = 2


class Decoder:
    """A model and a context in this thread; a batch in numpy's memory."""

    def __init__(self, model: Path, arrangement: Arrangement) -> None:
        self._quiet = llama.llama_log_callback(
            lambda level, text, data: None
        )  # kept: the library goes on calling it
        llama.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(
            str(model).encode(), llama.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"{model} cannot be loaded")
        params = llama.llama_context_default_params()
        params.n_ctx = arrangement.slots * arrangement.context
        params.n_seq_max = arrangement.slots
        params.n_threads = params.n_threads_batch = arrangement.threads
        params.type_k = params.type_v = KV_TYPES[arrangement.kv_type]
        params.flash_attn_type = int(arrangement.flash_attention)
        params.kv_unified = False
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit("the context cannot be made")
        self._memory = llama.llama_get_memory(self._context)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._vocabulary = llama.llama_vocab_n_tokens(self._vocab)
        self._make_batch(params.n_batch, arrangement.slots)

    def _make_batch(self, size: int, slots: int) -> None:
        self._token = np.zeros(size, np.int32)
        self._position = np.zeros(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._slot_ids = np.arange(slots, dtype=np.int32)
        self._slot = np.zeros(size, np.uintp)  # each an address in _slot_ids
        self._ones = np.ones(size, np.int32)
        self._batch = llama.llama_batch(
            0,
            self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            None,
            self._position.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self._ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self._slot.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (ctypes.c_int32 * len(data))()
        return tokens[: llama.llama_tokenize(self._vocab, data, len(data), tokens, len(data), True, True)]

    def decode(self, pieces: list[tuple[int, int, list[int]]]) -> list[int]:
        """Each piece is (slot, first position, tokens); the likeliest token after each comes back."""
        n = 0
        for slot, start, tokens in pieces:
            end = n + len(tokens)
            self._token[n:end] = tokens
            self._position[n:end] = range(start, start + len(tokens))
            self._slot[n:end] = self._slot_ids.ctypes.data + slot * self._slot_ids.itemsize
            self._wanted[n:end] = 0
            self._wanted[end - 1] = 1
            n = end
        self._batch.n_tokens = n
        if code := llama.llama_decode(self._context, self._batch):
            raise SystemExit(f"llama_decode returned {code}")
        logits = llama.llama_get_logits(self._context)
        rows = np.ctypeslib.as_array(logits, (len(pieces), self._vocabulary))
        best: list[int] = rows.argmax(axis=1).tolist()
        return best

    def share(self, prefix: list[int], slots: int) -> None:
        """Compute the prefix once, in slot 0; the first `slots` slots then hold it and nothing else."""
        llama.llama_memory_clear(self._memory, False)
        self.decode([(0, 0, prefix)])
        for slot in range(1, slots):
            llama.llama_memory_seq_cp(self._memory, 0, slot, -1, -1)

    def trim(self, slot: int, length: int) -> None:
        llama.llama_memory_seq_rm(self._memory, slot, length, -1)


@dataclass(slots=True)
class Running:
    answer: Answer
    position: int
    token: int


def closed(decoder: Decoder, clients: int, requests: int, tokens: int, together: bool, salt: int) -> Figures:
    """Slots 0 to clients - 1; each begins its next prompt when its last has got its `tokens` tokens."""
    texts = [prompts.rendered(n) for n in itertools.islice(prompts.numbers(salt), requests + clients)]
    waiting = [decoder.tokenize(text) for text in texts]
    shared = next(i for i, column in enumerate(zip(*waiting, strict=False)) if len(set(column)) > 1)
    prefix = waiting[0][:shared]
    decoder.share(prefix, clients)
    running: dict[int, Running] = {}
    answers: list[Answer] = []

    def begin(slots: list[int]) -> None:
        pieces = []
        for slot in slots:
            decoder.trim(slot, len(prefix))
            prompt = waiting.pop()
            running[slot] = Running(Answer(perf_counter(), prompt_tokens=len(prompt)), len(prompt), 0)
            answers.append(running[slot].answer)
            pieces.append((slot, len(prefix), prompt[len(prefix) :]))
        for batch in [pieces] if together else [[piece] for piece in pieces]:
            drawn = decoder.decode(batch)
            for (slot, _, _), token in zip(batch, drawn, strict=True):
                running[slot].token = token
                running[slot].answer.stamps.append(perf_counter())

    began = perf_counter()
    left = requests
    while left > 0:
        if free := [slot for slot in range(clients) if slot not in running]:
            begin(free)
        step = sorted(running)
        drawn = decoder.decode([(slot, running[slot].position, [running[slot].token]) for slot in step])
        now = perf_counter()
        for slot, token in zip(step, drawn, strict=True):
            at = running[slot]
            at.position, at.token = at.position + 1, token
            at.answer.stamps.append(now)
            if len(at.answer.stamps) == tokens:
                at.answer.tokens, at.answer.cached_tokens = tokens, len(prefix)
                del running[slot]
                left -= 1
    return summarise(answers, began, perf_counter(), tokens)


def measure(
    model: Path, arrangement: Arrangement, clients: int, requests: int, tokens: int, salt: int
) -> Figures:
    decoder = Decoder(model, arrangement)
    closed(decoder, clients, clients, 8, arrangement.together, salt)  # warm up
    return closed(decoder, clients, requests, tokens, arrangement.together, salt)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.limit", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--kv", choices=KV_TYPES, default="q8_0")
    parser.add_argument("--no-fa", dest="fa", action="store_false")
    parser.add_argument("--apart", dest="together", action="store_false", help="one llama_decode a prompt")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--salt", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    arrangement = Arrangement(args.kv, args.fa, args.together, threads=args.threads)
    figures = asdict(measure(args.model, arrangement, args.clients, args.requests, args.tokens, args.salt))
    if args.json:
        print(json.dumps(figures | {"arrangement": asdict(arrangement)}))
    else:
        print("\n".join(f"{name:>14} {value:10.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
