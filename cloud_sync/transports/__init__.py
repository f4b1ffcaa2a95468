"""Ways to the controller. Each carries the same messages."""
