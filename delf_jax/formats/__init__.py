"""Files of the original and of others, read and written in numpy."""
