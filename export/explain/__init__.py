"""What is explained: layers, tasks, methods."""
