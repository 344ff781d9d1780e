"""The comparison of runs: what differs between them, and which scores differ by more than noise."""
