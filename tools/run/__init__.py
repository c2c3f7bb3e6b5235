"""What dk-run does: over files, over cameras, over a dump of the flight recorder."""
