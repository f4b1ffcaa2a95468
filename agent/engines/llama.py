"""llama.cpp, by llama-cpp-python's low-level API. Nothing else imports llama_cpp, and this only in a Worker.

Settings (a mapping): slots, context (tokens a slot), threads, gpu_layers, kv_type, flash_attention,
step_tokens, extra_bufts (false: without AMX and repacked weights), encoder (true: it makes vectors alone),
embed_need (bytes that the first embedding takes, of a model that generates text).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from agent.engines.engine import Drawn, EmbedPiece, EngineError, EngineInfo, Piece, Progress
from agent.engines.llama_batch import Batch
from agent.engines.llama_embed import LlamaEmbedder
from agent.engines.sampling import NumpySampler, Row, greatest, log_softmax
from agent.request import Sampling, TokenLogprob

KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}
FLASH = {"auto": -1, "off": 0, "on": 1}
CONTEXT_STEP = 256  # llama.cpp pads a slot's context to it


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level >= 3 and level != 5:  # warnings and errors; 5 continues a line
        sys.stderr.write(text.decode("utf-8", "replace"))


class LlamaEngine:
    def __init__(self, path: str, settings: Mapping[str, Any], progress: Progress) -> None:
        llama.llama_log_set(_log, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._model = self._load(path, settings, progress)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._generates = not settings.get("encoder")
        self._ctx = self._open(settings) if self._generates else None
        self._memory = llama.llama_get_memory(self._ctx) if self._ctx else None
        if self._generates and not self._memory:
            raise EngineError("this is not a text generation model")
        context = llama.llama_n_ctx_seq(self._ctx) if self._ctx else int(settings["context"])
        self._embedder = LlamaEmbedder(self._model, settings, context, whole=not self._generates)
        self._vocabulary = llama.llama_vocab_n_tokens(self._vocab)
        self._batch = Batch(int(settings["step_tokens"]) + int(settings["slots"]))
        self._pieces: dict[int, bytes] = {}
        self._ends = {t for t in range(self._vocabulary) if llama.llama_vocab_is_eog(self._vocab, t)}
        self._controls = self._control_texts()
        self._banned = np.array(sorted(self._ends), np.intp)
        self.info = self._describe(settings, context)
        self._warm_up()

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 16
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, True, True)
        if count < 0:
            raise EngineError(f"llama_tokenize wants room for {-count} tokens")
        found = list(tokens[:count])
        bos = llama.llama_vocab_bos(self._vocab)
        if found[:2] == [bos, bos]:  # the template wrote one, and the tokenizer another
            del found[0]
        return found

    def controls(self, text: str) -> int:
        return sum(text.count(control) for control in self._controls)

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(256)
            count = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            if count < 0:
                buffer = ctypes.create_string_buffer(-count)
                count = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            self._pieces[token] = buffer.raw[: max(count, 0)]
        return self._pieces[token]

    def ends(self, token: int) -> bool:
        return token in self._ends

    def sampler(self, sampling: Sampling, prompt: Sequence[int], index: int) -> NumpySampler:
        return NumpySampler(sampling, prompt, index, self._banned)

    def copy(self, source: int, target: int) -> None:
        llama.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def trim(self, slot: int, length: int) -> bool:
        if llama.llama_memory_seq_rm(self._memory, slot, length, -1):
            return True
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def step(self, batch: Sequence[Piece]) -> list[Drawn]:
        self._batch.fill(batch)
        code = llama.llama_decode(self._ctx, self._batch.struct)
        if code != 0:
            raise EngineError(f"llama_decode failed with {code}")
        samplers = [piece.sampler for piece in batch if isinstance(piece.sampler, NumpySampler)]
        if not samplers:
            return []
        logits = llama.llama_get_logits(self._ctx)
        rows = np.ctypeslib.as_array(logits, shape=(len(samplers), self._vocabulary))
        return self._draw(rows, samplers)

    def embed(self, pieces: Sequence[EmbedPiece], dropped: Sequence[int]) -> list[bytes]:
        return self._embedder.embed(pieces, dropped)

    def close(self) -> None:
        self._embedder.close()
        if self._ctx:
            llama.llama_free(self._ctx)
        llama.llama_model_free(self._model)

    def _draw(self, rows: NDArray[np.float32], samplers: list[NumpySampler]) -> list[Drawn]:
        raw = [
            log_softmax(row) if one.logprobs is not None else None
            for row, one in zip(rows, samplers, strict=True)
        ]
        for row, sampler in zip(rows, samplers, strict=True):
            sampler.shape(row)
        if all(sampler.greedy for sampler in samplers):
            return [Drawn(int(token)) for token in rows.argmax(axis=1)]
        drawn = []
        for row, sampler, logprobs in zip(rows, samplers, raw, strict=True):
            token = sampler.draw(row)
            drawn.append(Drawn(token, None if logprobs is None else self._logprob(token, logprobs, sampler)))
        return drawn

    def _logprob(self, token: int, logprobs: Row, sampler: NumpySampler) -> TokenLogprob:
        top = greatest(logprobs, sampler.logprobs) if sampler.logprobs else ()
        likeliest = tuple((self.piece(int(one)), float(logprobs[one])) for one in top)
        return TokenLogprob(self.piece(token), float(logprobs[token]), likeliest)

    def _control_texts(self) -> list[str]:
        texts = (
            llama.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
            for token in range(self._vocabulary)
            if llama.llama_vocab_is_control(self._vocab, token)
        )
        return [text for text in texts if text]

    def _load(self, path: str, settings: Mapping[str, Any], progress: Progress) -> Any:
        params = llama.llama_model_default_params()
        layers = settings.get("gpu_layers")
        params.n_gpu_layers = -1 if layers is None else int(layers)
        params.use_extra_bufts = bool(settings.get("extra_bufts", True))

        @llama.llama_progress_callback  # type: ignore[untyped-decorator]
        def told(share: float, _: ctypes.c_void_p) -> bool:
            progress(share)
            return True

        params.progress_callback = told
        model = llama.llama_model_load_from_file(path.encode(), params)
        if not model:
            raise EngineError(f"llama.cpp cannot load {path}")
        if llama.llama_model_has_encoder(model) or not llama.llama_model_has_decoder(model):
            raise EngineError("this is not a text generation model")
        return model

    def _open(self, settings: Mapping[str, Any]) -> Any:
        slots = int(settings["slots"])
        params = llama.llama_context_default_params()
        params.n_ctx = slots * -(-int(settings["context"]) // CONTEXT_STEP) * CONTEXT_STEP
        params.n_batch = int(settings["step_tokens"]) + slots
        params.n_ubatch = int(settings["step_tokens"])
        params.n_seq_max = slots
        params.n_outputs_max = slots
        params.n_threads = params.n_threads_batch = int(settings["threads"])
        kind = "q8_0" if settings["kv_type"] == "auto" else str(settings["kv_type"])
        params.type_k = params.type_v = KV_TYPES[kind]
        params.flash_attn_type = FLASH[str(settings["flash_attention"])]
        if kind != "f16":
            params.flash_attn_type = FLASH["on"]  # a quantised V cache needs it
        params.kv_unified = False
        # Slots are cut back to shared beginnings: a cache of the window alone has lost what that needs.
        params.swa_full = True
        ctx = llama.llama_init_from_model(self._model, params)
        if not ctx:
            raise EngineError(
                "llama.cpp cannot make a context of this size: fewer slots or a shorter context may fit"
            )
        return ctx

    def _describe(self, settings: Mapping[str, Any], context: int) -> EngineInfo:
        recurrent = llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model)
        gpu = llama.llama_supports_gpu_offload() and settings.get("gpu_layers") != 0
        return EngineInfo(
            engine="llama",
            slots=int(settings["slots"]),
            context=context,
            vocabulary=self._vocabulary,
            device="cuda" if gpu else "cpu",
            trims=not recurrent,
            generates=self._generates,
            embedding=None if recurrent else self._embedder.info,
            details={
                "threads": settings["threads"],
                "kv_type": settings["kv_type"],
                "flash_attention": settings["flash_attention"],
                "extra_bufts": settings.get("extra_bufts", True),
                "system": llama.llama_print_system_info().decode(),
            },
        )

    def _warm_up(self) -> None:
        """Touch the weights and start the thread team, so that the first caller does not pay."""
        bos = max(llama.llama_vocab_bos(self._vocab), 0)
        if not self._generates:
            self.embed([EmbedPiece(0, 0, [bos, bos], last=True)], ())
            return
        self.step([Piece(0, 0, [bos, bos])])
        llama.llama_synchronize(self._ctx)
        llama.llama_memory_clear(self._memory, True)


def load(path: str, settings: Mapping[str, Any], progress: Progress) -> LlamaEngine:
    """EngineError: the model cannot be loaded."""
    return LlamaEngine(path, settings, progress)
