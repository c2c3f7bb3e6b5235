"""The gradient of a network's scores at any of its values, written as ordinary forward operators."""
