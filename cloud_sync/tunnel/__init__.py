"""Byte streams through an MQTT broker, for where nothing else can be reached.

What travels in them is the same HTTPS as without a broker, with TLS between node and controller: the broker
passes on what it can neither read nor change, and it vouches for nobody.

    autoglm/cloud/v1/{node}/up           a node opens a stream; any copy of the controller takes it ($share)
    autoglm/cloud/v1/{node}/up/{copy}    what follows goes to that copy, which its first answer names
    autoglm/cloud/v1/{node}/down         answers
    autoglm/cloud/v1/{node}/gone         last will: all streams of that connection to the broker are over
    autoglm/cloud/v1/gone                the same of a copy

Each message has the stream's id as Correlation Data, and begins with its number in the stream. QoS 1 keeps
the order; a message that comes twice is dropped, and with one that is missing the stream is over.
"""
