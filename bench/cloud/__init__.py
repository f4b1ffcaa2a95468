"""What a controller holds: a simulated fleet in a process of its own, real HTTP/1.1, real messages."""
