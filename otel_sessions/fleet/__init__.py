"""Several replicas, one cap and one set of books."""
