"""One fit, from its checks to the end of its run."""
