"""The inspection of data before a training: what the splits contain, and which samples occur more than once."""
