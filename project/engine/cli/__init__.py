"""The command line: config groups, LightningCLI, errors in one line."""
