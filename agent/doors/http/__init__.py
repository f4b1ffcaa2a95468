"""The HTTP door: OpenAI's routes, the node's own, and the guard before them."""
