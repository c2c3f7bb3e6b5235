"""The parts of ``dk-export``: what is given, where it goes, what is printed."""
