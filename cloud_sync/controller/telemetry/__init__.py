"""What nodes tell of themselves: taken once, kept for a time, to be asked for."""
