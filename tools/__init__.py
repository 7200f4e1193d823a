"""Set-up tools; standard library only."""
