"""Side-by-side measurements: this agent, its in-process limit, and the servers that people use today."""
