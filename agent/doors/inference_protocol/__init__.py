"""Open Inference Protocol v2, whatever carries it: a body to an Inference, Outputs to a body."""
