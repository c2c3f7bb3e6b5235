"""How a written graph is checked: an interpreter in float64 with autograd, and finite differences in it."""
