"""What ``dk-bench`` measures. Every figure is a median over paired rounds, every comparison a ratio within one run."""
