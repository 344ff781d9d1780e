"""The processes of a run: memory, output, devices, rendezvous and exit."""
