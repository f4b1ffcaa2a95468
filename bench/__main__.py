"""`python -m bench [text|tensors|tiny|share|turns|cloud]`: what is measured; text if nothing is said."""

from __future__ import annotations

import importlib
import signal
import sys

KINDS = {
    "text": "bench.text",
    "tensors": "bench.tensors.run",
    "tiny": "bench.tiny",
    "share": "bench.share",
    "cloud": "bench.cloud.run",
    "turns": "bench.turns",
}


def main() -> None:
    kind = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in KINDS else "text"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers end with us
    importlib.import_module(KINDS[kind]).main()


if __name__ == "__main__":
    main()
