"""Does a driving model look at the right things? Data sets in, figures and verdicts out."""
