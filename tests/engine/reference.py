"""Greedy decoding of each prompt alone, by llama.cpp with nothing around it. Run as a program: prints JSON.

For each prompt: its tokens, those of its answer with their pieces, and at each the margin: how far the best
logit is above the second.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from agent.engines.engine import Piece
from agent.engines.llama import load


def decode(engine: Any, prompt: str, count: int) -> dict[str, Any]:
    asked = engine.tokenize(prompt)
    engine.trim(0, 0)
    tokens, pieces, margins = [], [], []
    start, feed = 0, asked
    for _ in range(count):
        engine._batch.fill([Piece(0, start, feed, object())])
        assert llama.llama_decode(engine._ctx, engine._batch.struct) == 0
        row = np.ctypeslib.as_array(llama.llama_get_logits(engine._ctx), shape=(engine.info.vocabulary,))
        second, best = np.partition(row, -2)[-2:]
        token = int(row.argmax())
        margins.append(float(best - second))
        if engine.ends(token):
            break
        tokens.append(token)
        pieces.append(list(engine.piece(token)))
        start, feed = start + len(feed), [token]
    return {"prompt": asked, "tokens": tokens, "pieces": pieces, "margins": margins}


def main() -> None:
    task = json.load(sys.stdin)
    engine = load(task["model"], task["settings"], lambda _: None)
    print(json.dumps([decode(engine, prompt, task["count"]) for prompt in task["prompts"]]))


if __name__ == "__main__":
    main()
