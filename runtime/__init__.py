"""Frames in, explanations out: sources, preprocessing, pipeline, overlay and sinks."""
