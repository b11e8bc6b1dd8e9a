"""Models as files for other runtimes, each with a proof that it computes the same."""
