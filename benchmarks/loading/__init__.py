"""Loading, ours and its peers; see __main__.py."""
