"""A small real BERT with random weights, and its WordPiece tokenizer: as an ONNX folder and as a GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

WIDTH, HEADS, LAYERS, INNER, POSITIONS = 64, 4, 2, 128, 64
EPSILON = 1e-12
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CORPUS = (
    "An edge device is a small computer that stands near its sensors and works when the network is gone.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on beside the warm stove.",
    "Temperature, pressure and humidity are measured each second and sent once a minute.",
    "A model turns texts into vectors, so that near texts have near vectors: that is an embedding.",
)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Bert:
    seed: int = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        letters = sorted(set("".join(CORPUS).lower()) - {" "})
        words = sorted({word.strip(".,:") for text in CORPUS for word in text.lower().split()})
        pieces = dict.fromkeys((*SPECIAL, *letters, *(f"##{one}" for one in letters), *words))
        vocabulary = {piece: at for at, piece in enumerate(pieces)}
        made = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        return made

    @cached_property
    def weights(self) -> dict[str, Array]:
        """By GGUF's names; matrices as GGUF's readers see them, [out, in]."""
        random = np.random.default_rng(self.seed)

        def some(*shape: int) -> Array:
            return random.normal(0, 0.3, shape).astype(np.float32)

        found = {
            "token_embd.weight": some(self.tokenizer.get_vocab_size(), WIDTH),
            "position_embd.weight": some(POSITIONS, WIDTH),
            "token_types.weight": some(2, WIDTH),
            **_norm("token_embd_norm", some),
        }
        for layer in range(LAYERS):
            at = f"blk.{layer}"
            for name, out, into in (
                *((f"attn_{one}", WIDTH, WIDTH) for one in ("q", "k", "v", "output")),
                ("ffn_up", INNER, WIDTH),
                ("ffn_down", WIDTH, INNER),
            ):
                found |= {f"{at}.{name}.weight": some(out, into), f"{at}.{name}.bias": some(out)}
            found |= _norm(f"{at}.attn_output_norm", some) | _norm(f"{at}.layer_output_norm", some)
        return found

    # As an ONNX folder of sentence-transformers.

    def write_folder(self, root: Path, *, pooling: str = "mean_tokens", data: str = "") -> Path:
        """With `data`, the weights lie in that file beside the model."""
        files: dict[str, Any] = {
            "modules.json": [
                {"idx": at, "path": path, "type": f"sentence_transformers.models.{kind}"}
                for at, (path, kind) in enumerate(
                    (("", "Transformer"), ("1_Pooling", "Pooling"), ("", "Normalize"))
                )
            ],
            "1_Pooling/config.json": {f"pooling_mode_{pooling}": True},
            "sentence_bert_config.json": {"max_seq_length": POSITIONS // 2},
            "config.json": {"hidden_size": WIDTH, "max_position_embeddings": POSITIONS, "pad_token_id": 0},
        }
        for name, value in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(json.dumps(value))
        self.tokenizer.save(str(root / "tokenizer.json"))
        external = {"save_as_external_data": True, "location": data, "size_threshold": 256} if data else {}
        (root / "onnx").mkdir()
        onnx.save(self.onnx(), str(root / "onnx/model.onnx"), **external)
        return root

    def onnx(self) -> onnx.ModelProto:
        names = ("input_ids", "attention_mask", "token_type_ids")
        graph = helper.make_graph(
            _Graph().bert(),
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in names],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", WIDTH])],
            [numpy_helper.from_array(array, name) for name, array in (self.weights | _constants()).items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    # As a GGUF.

    def write_gguf(self, path: Path, *, pooling: int = 1) -> Path:
        writer = gguf.GGUFWriter(path, "bert")
        writer.add_context_length(POSITIONS)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(HEADS)
        writer.add_layer_norm_eps(EPSILON)
        writer.add_causal_attention(False)
        writer.add_uint32("bert.pooling_type", pooling)
        writer.add_tokenizer_model("bert")
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda one: one[1])
        writer.add_token_list([_as_llama_has_it(token) for token, _ in vocabulary])
        writer.add_token_types([3 if token in SPECIAL else 1 for token, _ in vocabulary])
        writer.add_token_type_count(2)
        for name, token in zip(("pad", "unk", "bos", "sep", "mask"), SPECIAL, strict=True):
            getattr(writer, f"add_{name}_token_id")(self.tokenizer.token_to_id(token))
        for name, array in self.weights.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _norm(name: str, some: Any) -> dict[str, Array]:
    return {f"{name}.weight": 1 + some(WIDTH), f"{name}.bias": some(WIDTH)}


def _as_llama_has_it(token: str) -> str:
    """Words begin with a phantom space, continuations have no ##."""
    if token in SPECIAL:
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _constants() -> dict[str, NDArray[Any]]:
    split = np.array([0, 0, HEADS, WIDTH // HEADS], np.int64)
    return {
        "split": split,
        "join": np.array([0, 0, WIDTH], np.int64),
        "one": np.array(1, np.int64),
        "zero": np.array(0, np.int64),
        "axes": np.array([1, 2], np.int64),
        "hide": np.array(-1e9, np.float32),
        "unit": np.array(1, np.float32),
        "scale": np.array((WIDTH // HEADS) ** -0.5, np.float32),
    }


class _Graph:
    """ONNX nodes, each with one output that is named by a number."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []

    def bert(self) -> list[onnx.NodeProto]:
        mask = self._do("Cast", "attention_mask", to=TensorProto.FLOAT)
        hidden = self._do("Mul", self._do("Sub", "unit", mask), "hide")
        hidden = self._do("Unsqueeze", hidden, "axes")
        length = self._do("Gather", self._do("Shape", "input_ids"), "one")
        places = self._do("Gather", "position_embd.weight", self._do("Range", "zero", length, "one"))
        state = self._do("Gather", "token_embd.weight", "input_ids")
        state = self._do("Add", state, self._do("Gather", "token_types.weight", "token_type_ids"))
        state = self._norm(self._do("Add", state, places), "token_embd_norm")
        for layer in range(LAYERS):
            state = self._layer(state, hidden, f"blk.{layer}")
        self._nodes.append(helper.make_node("Identity", [state], ["last_hidden_state"]))
        return self._nodes

    def _layer(self, state: str, hidden: str, at: str) -> str:
        query, key, value = (
            self._do(
                "Transpose", self._do("Reshape", self._linear(state, f"{at}.attn_{one}"), "split"), perm=perm
            )
            for one, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
        )
        scores = self._do("Add", self._do("Mul", self._do("MatMul", query, key), "scale"), hidden)
        mixed = self._do("MatMul", self._do("Softmax", scores, axis=-1), value)
        joined = self._do("Reshape", self._do("Transpose", mixed, perm=[0, 2, 1, 3]), "join")
        said = self._linear(joined, f"{at}.attn_output")
        state = self._norm(self._do("Add", state, said), f"{at}.attn_output_norm")
        inner = self._do("Gelu", self._linear(state, f"{at}.ffn_up"), approximate="tanh")
        state = self._do("Add", state, self._linear(inner, f"{at}.ffn_down"))
        return self._norm(state, f"{at}.layer_output_norm")

    def _linear(self, state: str, name: str) -> str:
        turned = self._do("Transpose", f"{name}.weight", perm=[1, 0])
        return self._do("Add", self._do("MatMul", state, turned), f"{name}.bias")

    def _norm(self, state: str, name: str) -> str:
        return self._do(
            "LayerNormalization", state, f"{name}.weight", f"{name}.bias", epsilon=EPSILON, axis=-1
        )

    def _do(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output
