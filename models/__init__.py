"""What a model is: names, Versions, files, and where they come from."""
