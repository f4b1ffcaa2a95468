"""`autoglm cloud ...` and `autoglm join`: the controller, and operators' commands to it."""
