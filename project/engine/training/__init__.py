"""One fit, from its checks to its close."""
