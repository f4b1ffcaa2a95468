"""The MQTT door: prompts in, results out, through a broker and the node's database."""
