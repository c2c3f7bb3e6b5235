"""What is explained: layers, scores, and the maps made of both."""
