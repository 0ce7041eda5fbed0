"""Commands that do not fit on one page with the others."""
