"""Cameras that are watched for hours: capture, supervision, several at once, recording, the page in the browser."""
