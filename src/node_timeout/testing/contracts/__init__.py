"""What every store and every engine does: a suite for each, to be imported into a test file."""
