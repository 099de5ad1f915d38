"""Work on one process or several: ranks, devices, collectives."""
